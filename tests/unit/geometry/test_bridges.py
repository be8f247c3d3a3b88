"""Composing two spaces: required inverses, parameters, and the laws of translation."""

from typing import Any

import numpy as np
import pytest
import scipy.linalg

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.bridges import (
    BRIDGES,
    USED_PARAMETERS,
    BridgeName,
    FactorParameters,
    FittedSpace,
    compose,
    compute_inverse,
    required_inverses,
)
from stitchwork.geometry.exp_factors import exp_inverse
from stitchwork.geometry.frame import Frame, normalise, unit_rows
from stitchwork.geometry.inverses import Inverse, InverseName
from stitchwork.geometry.irp_factors import irp_inverse
from stitchwork.geometry.kernel_map import KernelMap
from stitchwork.geometry.maps import LinearMap
from stitchwork.geometry.ridge_factors import apply_ridge_read, ridge_inverse, whitened_inverse
from tests.support.latent_spaces import ArrayLibrary, Floats, cosines, make_spaces, rotation
from tests.support.reference_formulas import (
    SHAPES,
    degenerate_anchors,
    frames,
    plain_irp_write,
    plain_ridge_read,
    plain_whitened_write,
)


@pytest.mark.parametrize("case", degenerate_anchors())
@pytest.mark.parametrize("bridge", BRIDGES)
def test_every_bridge_on_degenerate_anchors_is_finite(
    lib: ArrayLibrary, case: str, bridge: BridgeName
) -> None:
    anchors = degenerate_anchors()[case]
    side = FittedSpace(Frame.from_anchors(lib.from_numpy(anchors)))
    mean = lib.to_numpy(side.frame.mean)
    rows = np.vstack([anchors, mean, 1e30 * anchors]).astype(np.float32)
    actual, defined = compose(bridge, side, side).apply(lib.from_numpy(rows))
    assert np.isfinite(lib.to_numpy(actual)).all()
    assert not lib.to_numpy(defined)[len(anchors)]
    # Every anchor that is not at the mean is in the anchors' span and so has a direction.
    np.testing.assert_array_equal(
        lib.to_numpy(defined)[: len(anchors)], np.any(lib.to_numpy(side.frame.unit_anchors), axis=1)
    )


@pytest.mark.parametrize(
    ("parameters", "pointer", "message"),
    [
        ({"shrinkage": -1e-9}, "/ridge/shrinkage", "0 to 1, got -1e-09"),
        ({"shrinkage": 1.0001}, "/ridge/shrinkage", "got 1.0001"),
        ({"shrinkage": float("nan")}, "/ridge/shrinkage", "got nan"),
        ({"delta": -0.1}, "/irp/delta", "0 to 1, got -0.1"),
        ({"delta": 1.1}, "/irp/delta", "got 1.1"),
        ({"delta": float("nan")}, "/irp/delta", "got nan"),
        ({"omega": 0}, "/irp/omega", "from 1 to 64, got 0"),
        ({"omega": 65}, "/irp/omega", "got 65"),
        ({"omega": 2.5}, "/irp/omega", "whole number .* got 2.5"),
        ({"whitening": -0.1}, "/exp/whitening", "0 to 1, got -0.1"),
        ({"whitening": float("nan")}, "/exp/whitening", "got nan"),
        ({"landmarks": 15}, "/exp/landmarks", "from 16 to 8192, got 15"),
        ({"landmarks": 99.5}, "/exp/landmarks", "whole number .* got 99.5"),
    ],
)
def test_parameters_out_of_range_are_refused(
    parameters: dict[str, Any], pointer: str, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message) as error:
        FactorParameters(**parameters)
    assert error.value.pointer == pointer


@pytest.mark.parametrize(
    "parameters",
    [{}, {"shrinkage": 0.0, "delta": 0.0, "omega": 1}, {"shrinkage": 1, "delta": 1, "omega": 64}],
)
def test_parameters_at_the_ends_of_their_ranges_are_accepted(parameters: dict[str, Any]) -> None:
    assert FactorParameters(**parameters).shrinkage == parameters.get("shrinkage")


def test_required_inverses_of_every_bridge() -> None:
    assert {bridge: required_inverses(bridge) for bridge in BRIDGES} == {
        "exp": ("exp", "whitened"),
        "ridge": ("ridge", None),
        "ridge-whitened": ("ridge", "whitened"),
        "irp": (None, "irp"),
        "irp-completed": (None, None),
        "none": (None, None),
    }


def matrix(
    bridge: BridgeName, source: FittedSpace, target: FittedSpace, lib: ArrayLibrary
) -> Floats:
    pair_map = compose(bridge, source, target)
    assert isinstance(pair_map, LinearMap | KernelMap)
    array = pair_map.matrix if isinstance(pair_map, LinearMap) else pair_map.weights
    return np.asarray(lib.to_numpy(array), np.float64)


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_composed_matrix_is_read_times_write(lib: ArrayLibrary, k: int, d: int) -> None:
    x, y, u, v = frames(lib, k, d)
    known, other = FactorParameters(0.2, 0.3, 3), FactorParameters(0.9, 0.7, 1)
    source, target = FittedSpace(x, known), FittedSpace(y, other)
    for bridge, expected in (
        ("ridge", plain_ridge_read(u, 0.2) @ v),
        ("ridge-whitened", plain_ridge_read(u, 0.2) @ plain_whitened_write(v, 0.9, 0.2)),
        ("irp", u.T @ plain_irp_write(v, 0.7, [0])),
    ):
        actual = matrix(bridge, source, target, lib)  # type: ignore[arg-type]
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def _scaled(factor: float, pair_map: Inverse) -> Inverse:
    return pair_map.convert_arrays(lambda matrix: factor * matrix)


def test_compose_uses_the_inverse_of_a_fitted_space(lib: ArrayLibrary) -> None:
    x, y, *_ = frames(lib, 60, 16)
    # Scaled by powers of two, which cause no rounding.
    for bridge, source, target in (
        ("exp", FittedSpace(x, inverse=_scaled(0.5, exp_inverse(x, 2048))), FittedSpace(y)),
        ("ridge", FittedSpace(x, inverse=_scaled(0.5, ridge_inverse(x, None))), FittedSpace(y)),
        (
            "ridge-whitened",
            FittedSpace(x),
            FittedSpace(y, inverse=_scaled(4, whitened_inverse(y, None, 0.2))),
        ),
        ("irp", FittedSpace(x), FittedSpace(y, inverse=_scaled(4, irp_inverse(y, 0.8, 8)))),
    ):
        np.testing.assert_allclose(
            matrix(bridge, source, target, lib),  # type: ignore[arg-type]
            4 * matrix(bridge, FittedSpace(x), FittedSpace(y), lib),  # type: ignore[arg-type]
            rtol=1e-6,
        )


@pytest.mark.parametrize(("k", "d"), [*SHAPES, (60, 30)])
@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_completed_map_is_the_nearest_orthogonal_map(
    lib: ArrayLibrary, k: int, d: int, delta: float
) -> None:
    x, y, u, v = frames(lib, k, d)
    plain = u.T @ plain_irp_write(v, delta, [0])
    actual = matrix(
        "irp-completed", FittedSpace(x), FittedSpace(y, FactorParameters(delta=delta, omega=9)), lib
    )
    values = np.linalg.svd(actual, compute_uv=False)
    rank = np.linalg.matrix_rank(plain, rtol=1e-6)
    np.testing.assert_allclose(values, [1.0] * rank + [0.0] * (len(values) - rank), atol=1e-5)
    if rank == min(plain.shape):
        np.testing.assert_allclose(actual, scipy.linalg.polar(plain)[0], atol=1e-5)


@pytest.mark.parametrize("delta", [0.0, 0.4])
def test_completed_map_recovers_the_rotation_between_rotated_spaces(
    lib: ArrayLibrary, delta: float
) -> None:
    anchors, turn = make_spaces(60, 16, 4, noise=1.0).x_anchors, rotation(16)
    x, y = (
        Frame.from_anchors(lib.from_numpy(anchors)),
        Frame.from_anchors(lib.from_numpy(3 * anchors @ turn + 1)),
    )
    actual = matrix(
        "irp-completed", FittedSpace(x), FittedSpace(y, FactorParameters(delta=delta)), lib
    )
    np.testing.assert_allclose(actual, turn, atol=1e-5)


def test_compose_refuses_mismatched_spaces_and_unknown_bridges() -> None:
    x, y = (
        Frame.from_anchors(make_spaces(20, 5, 4).x_anchors),
        Frame.from_anchors(make_spaces(21, 6, 4).x_anchors),
    )
    with pytest.raises(
        InvalidInputError, match="got 20 anchors in the source and 21 in the target"
    ):
        compose("ridge", FittedSpace(x), FittedSpace(y))
    with pytest.raises(InvalidInputError, match="source is 5 wide and the target 6") as error:
        compose("none", FittedSpace(x), FittedSpace(y))
    assert error.value.pointer == "/bridge"
    with pytest.raises(InvalidInputError, match=r"a bridge of exp, .* got 'rigde'"):
        compose("rigde", FittedSpace(x), FittedSpace(x))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bridge", "min_cosine"),
    [("exp", 0.9), ("ridge", 0.95), ("ridge-whitened", 0.9), ("irp", 0.7), ("irp-completed", 0.7)],
)
def test_translation_matches_the_targets_embedding_unless_anchors_are_shuffled(
    lib: ArrayLibrary, bridge: BridgeName, min_cosine: float
) -> None:
    w = make_spaces(200, 24, 32, n=100)
    source = FittedSpace(Frame.from_anchors(lib.from_numpy(w.x_anchors)))
    x = lib.from_numpy(w.x.astype(np.float32))

    def quality(y_anchors: Floats) -> float:
        actual, _ = compose(
            bridge, source, FittedSpace(Frame.from_anchors(lib.from_numpy(y_anchors)))
        ).apply(x)
        mean = w.y_anchors.mean(0)
        return float(cosines(lib.to_numpy(actual) - mean, w.y - mean).mean())

    assert quality(w.y_anchors) > min_cosine
    assert abs(quality(np.random.default_rng(0).permutation(w.y_anchors))) < 0.35


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("bridge", ["ridge", "irp", "irp-completed"])
def test_translation_follows_rotation_scaling_and_translation_of_the_spaces(
    lib: ArrayLibrary, bridge: BridgeName, k: int, d: int
) -> None:
    w = make_spaces(k, d, d + 4, noise=0.5)
    turn, other = rotation(d), rotation(d + 4, 2)
    known = FactorParameters(delta=0.4, omega=3)

    def translate(x_anchors: Floats, x: Floats, y_anchors: Floats) -> Floats:
        source, target = (
            FittedSpace(Frame.from_anchors(lib.from_numpy(a)), known)
            for a in (x_anchors, y_anchors)
        )
        actual, defined = compose(bridge, source, target).apply(
            lib.from_numpy(x.astype(np.float32))
        )
        assert lib.to_numpy(defined).all()
        return np.asarray(lib.to_numpy(actual), np.float64)

    was = translate(w.x_anchors, w.x, w.y_anchors)
    size = np.abs(was - w.y_anchors.mean(0)).max()
    # Transforming the source's samples and anchors together changes nothing.
    frame = translate(100 * w.x_anchors @ turn + 7, 100 * w.x @ turn + 7, w.y_anchors)
    np.testing.assert_allclose(frame, was, atol=2e-3 * size)
    # Transforming the target's anchors transforms the translation.
    frame = translate(w.x_anchors, w.x, 0.01 * w.y_anchors @ other - 5)
    np.testing.assert_allclose(frame, 0.01 * was @ other - 5, atol=2e-5 * size)


def test_float32_steps_of_ridge_change_rows_by_less_than_their_rounding() -> None:
    w = make_spaces(900, 192, 160, latent=60, noise=0.3, n=200)
    x, y = Frame.from_anchors(w.x_anchors), Frame.from_anchors(w.y_anchors)
    exactly = apply_ridge_read(x, ridge_inverse(x, None), y.unit_anchors, 3 / 13)
    pair_map = compose("ridge", FittedSpace(x), FittedSpace(y))
    assert isinstance(pair_map, LinearMap)
    rows = unit_rows(w.x, x.mean)
    expected, actual = (
        normalise(rows @ part)[0] for part in (exactly, pair_map.matrix.astype(np.float64))
    )
    assert 0 < np.linalg.norm(expected - actual, axis=1).max() < 5e-7


@pytest.mark.parametrize(
    ("bridge", "needed", "inverse"),
    [("exp", "exp", "ridge"), ("ridge", "ridge", "exp"), ("ridge-whitened", "ridge", "whitened")],
)
def test_inverse_of_another_name_is_refused(
    bridge: BridgeName, needed: str, inverse: InverseName
) -> None:
    frame = Frame.from_anchors(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    source = FittedSpace(frame, inverse=compute_inverse(inverse, frame, FactorParameters()))
    with pytest.raises(
        ValueError, match=f"expected the inverse {needed} of a space, got {inverse}"
    ):
        compose(bridge, source, FittedSpace(frame))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("name", "value"),
    [("shrinkage", 0.9), ("delta", 0.1), ("omega", 3), ("whitening", 0.45), ("landmarks", 16)],
)
@pytest.mark.parametrize("bridge", BRIDGES)
def test_parameter_of_a_space_changes_a_map_if_and_only_if_its_bridge_uses_it(
    bridge: BridgeName, name: str, value: Any, side: int
) -> None:
    spaces = make_spaces(60, 16, 16, noise=1.0)
    frames = [Frame.from_anchors(anchors) for anchors in (spaces.x_anchors, spaces.y_anchors)]
    sides = [FittedSpace(frame) for frame in frames]
    rows = np.random.default_rng(3).normal(size=(20, spaces.x_anchors.shape[1])).astype(np.float32)
    plain = compose(bridge, *sides).apply(rows)[0]
    sides[side] = FittedSpace(frames[side], FactorParameters(**{name: value}))
    changed = compose(bridge, *sides).apply(rows)[0]
    assert np.array_equal(plain, changed) != (name in USED_PARAMETERS[bridge][side])
