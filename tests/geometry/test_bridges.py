"""Each matrix of a bridge, against the formula written plainly and against what it stands for."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import sklearn.covariance
from sklearn.linear_model import Ridge

from service.errors import InvalidInput
from service.geometry.bridges import (
    BRIDGES,
    BridgeName,
    Parameters,
    Side,
    fuse,
    inverse,
    irp_write,
    needs,
    oas,
    ridge_read,
)
from service.geometry.maps import FusedMap
from service.geometry.relative import Frame, frame
from tests.geometry.test_anchors import naive
from tests.geometry.worlds import Floats, Library, cosines, plain_unit, rotation, world

SHAPES = [(9, 16), (16, 16), (60, 16)]
FLOOR = 3 / 13


def frames(lib: Library, k: int, d: int) -> tuple[Frame, Frame, Floats, Floats]:
    """Frames of a pair of spaces, and their unit anchors as plain numpy."""
    w = world(k, d, d + 4)
    x, y = frame(lib.take(w.x_anchors)), frame(lib.take(w.y_anchors))
    return (
        x,
        y,
        plain_unit(w.x_anchors, w.x_anchors.mean(0)),
        plain_unit(w.y_anchors, w.y_anchors.mean(0)),
    )


def plain_rho(unit: Floats) -> float:
    k, d = unit.shape
    c = unit.T @ unit / k
    one, two = np.trace(c) ** 2, np.trace(c @ c)
    return float(np.clip((two + one) / ((k + 1) * (two - one / d)), 0, 1))


def plain_read(unit: Floats, rho: float) -> Floats:
    """The primal, by an explicit inverse, whatever the shape."""
    k, d = unit.shape
    c = unit.T @ unit / k
    return np.asarray(np.linalg.inv((1 - rho) * c + rho * np.trace(c) / d * np.eye(d)) @ unit.T / k)


def plain_dual(unit: Floats, rho: float) -> Floats:
    k, d = unit.shape
    trace = np.trace(unit.T @ unit / k)
    return np.asarray(
        unit.T @ np.linalg.inv((1 - rho) * unit @ unit.T + rho * trace / d * k * np.eye(k))
    )


def plain_write(unit: Floats, delta: float, seeds: list[int]) -> Floats:
    """The mean over seeds of pseudo-inverses of naively pruned anchors."""
    total = np.zeros_like(unit)
    for seed in seeds:
        kept = naive(unit, delta, int(np.random.default_rng(seed).integers(len(unit))))
        total[kept] += np.linalg.pinv(unit[kept].T, rcond=1e-6) / len(seeds)
    return total


@pytest.mark.parametrize(("k", "d"), [(5, 16), (16, 16), (60, 16), (500, 16)])
def test_shrinkage_is_that_of_scikit_learn(lib: Library, k: int, d: int) -> None:
    *_, u, _ = frames(lib, k, d)
    _, known = sklearn.covariance.oas(u, assume_centered=True)
    assert oas(lib.take(u.T @ u / k), k) == pytest.approx(known, rel=1e-9)
    assert oas(lib.take(7 * u.T @ u / k), k) == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize(("covariance", "samples"), [(np.eye(4) / 4, 100), (np.ones((1, 1)), 5)])
def test_isotropic_anchors_are_shrunk_all_the_way(
    lib: Library, covariance: Floats, samples: int
) -> None:
    assert oas(lib.take(covariance), samples) == 1.0


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("shrinkage", [None, 1e-5, 0.01, 0.5, 1.0])
def test_ridge_read_is_its_formula_in_both_forms(
    lib: Library, k: int, d: int, shrinkage: float | None
) -> None:
    x, _, u, _ = frames(lib, k, d)
    rho = max(plain_rho(u), FLOOR) if shrinkage is None else shrinkage
    got = ridge_read(x, shrinkage)
    assert lib.give(got).dtype == np.float64
    np.testing.assert_allclose(lib.give(got), plain_read(u, rho), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(lib.give(got), plain_dual(u, rho), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shrinkage", [None, 0.0, 0.5])
@pytest.mark.parametrize("k", [10, 40])
def test_zero_anchors_count_in_k_and_not_in_the_trace(
    lib: Library, k: int, shrinkage: float | None
) -> None:
    *_, u, _ = frames(lib, k, 16)
    u[[0, 3, 4]] = 0
    seen = Frame(lib.take(np.zeros(16)), 1.0, lib.take(u))
    rho = max(plain_rho(u), FLOOR) if shrinkage is None else shrinkage
    want = plain_read(u, rho) if rho else np.linalg.pinv(u, rcond=1e-6)
    np.testing.assert_allclose(lib.give(ridge_read(seen, shrinkage)), want, atol=1e-9)


def test_few_anchors_in_a_wide_space_never_make_a_matrix_of_its_width() -> None:
    seen = frame(world(6, 1500, 4).x_anchors)
    tracemalloc.start()
    ridge_read(seen, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1500 * 1500


def test_the_rule_takes_the_larger_of_shrinkage_and_floor() -> None:
    few, many = frame(world(9, 16, 4).x_anchors), frame(world(900, 16, 4).x_anchors)
    assert plain_rho(np.asarray(few.unit)) > FLOOR > plain_rho(np.asarray(many.unit))
    np.testing.assert_allclose(
        ridge_read(few, None), plain_read(few.unit, plain_rho(few.unit)), rtol=1e-9
    )
    np.testing.assert_allclose(ridge_read(many, None), plain_read(many.unit, FLOOR), rtol=1e-9)


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("rho", [0.01, FLOOR, 0.9])
def test_ridge_is_the_ridge_regression_that_needs_both_spaces(
    lib: Library, k: int, d: int, rho: float
) -> None:
    x, y, u, v = frames(lib, k, d)
    alpha = rho / (1 - rho) * np.trace(u.T @ u) / d
    regression = Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(u, v)
    got = (1 - rho) * lib.give(ridge_read(x, rho) @ y.unit)
    np.testing.assert_allclose(got, regression.coef_.T, atol=1e-9)


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_without_shrinkage_ridge_is_the_pseudo_inverse(lib: Library, k: int, d: int) -> None:
    x, _, u, _ = frames(lib, k, d)
    want = np.linalg.pinv(u, rcond=1e-6)
    np.testing.assert_allclose(lib.give(ridge_read(x, 0.0)), want, atol=1e-9 * np.abs(want).max())
    # The two ways of solving meet where one takes over from the other.
    np.testing.assert_allclose(
        lib.give(ridge_read(x, 0.999999e-6)), lib.give(ridge_read(x, 1e-6)), rtol=1e-4, atol=1e-4
    )


def degenerate() -> dict[str, Floats]:
    """Anchors on which a careless inverse breaks."""
    rng = np.random.default_rng(3)
    wide, flat = rng.normal(size=(30, 8)), rng.normal(size=(30, 3)) @ rng.normal(size=(3, 8))
    with_mean = np.vstack([wide, -wide, np.zeros((2, 8))])
    return {
        "isotropic": np.vstack([np.eye(8), -np.eye(8)]),
        "rank-deficient": flat,
        "almost rank-deficient": flat + 1e-9 * wide,
        "duplicated": np.repeat(wide[:4], 5, axis=0),
        "constant column": np.where(np.arange(8) == 2, 5.0, wide),
        "colinear": np.outer(np.arange(30.0), np.ones(8)),
        "anchors at the mean": with_mean,
        "two anchors": wide[:2],
        "one dimension": wide[:, :1],
    }


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("shrinkage", [None, 0.0, 1e-300, 1e-12, 1e-6, 1.0])
def test_ridge_stays_finite_on_anything(lib: Library, case: str, shrinkage: float | None) -> None:
    seen = frame(lib.take(degenerate()[case]))
    read = lib.give(ridge_read(seen, shrinkage))
    assert np.isfinite(read).all()
    # 1e6 is the most that one kept direction is stretched by; noise would be far above it.
    assert np.abs(read).max() < 1e6
    at_mean = ~np.any(lib.give(seen.unit), axis=1)
    assert not read[:, at_mean].any()


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("bridge", BRIDGES)
def test_every_bridge_is_finite_on_anything(lib: Library, case: str, bridge: BridgeName) -> None:
    anchors = degenerate()[case]
    side = Side(frame(lib.take(anchors)))
    mean = lib.give(side.frame.mean)
    rows = np.vstack([anchors, mean, 1e30 * anchors]).astype(np.float32)
    got, defined = fuse(bridge, side, side).apply(lib.take(rows))
    assert np.isfinite(lib.give(got)).all()
    assert not lib.give(defined)[len(anchors)]
    # Every anchor that is not at the mean is in the span of the anchors, and has a direction.
    np.testing.assert_array_equal(
        lib.give(defined)[: len(anchors)], np.any(lib.give(side.frame.unit), axis=1)
    )


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_irp_is_the_transpose_of_the_regression_from_the_target_back(
    lib: Library, k: int, d: int
) -> None:
    x, y, u, v = frames(lib, k, d)
    back, *_ = np.linalg.lstsq(v, u, rcond=1e-6)
    got = lib.give(x.unit.T @ irp_write(y, 0.0, 1))
    np.testing.assert_allclose(got, back.T, atol=1e-8)


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("delta", [0.3, 0.6])
def test_the_ensemble_is_the_mean_of_its_parts(lib: Library, k: int, d: int, delta: float) -> None:
    _, y, _, v = frames(lib, k, d)
    got = irp_write(y, delta, 5)
    assert lib.give(got).dtype == np.float64
    np.testing.assert_allclose(lib.give(got), plain_write(v, delta, list(range(5))), atol=1e-9)
    parts = [plain_write(v, delta, [seed]) for seed in range(5)]
    np.testing.assert_allclose(lib.give(got), np.mean(parts, axis=0), atol=1e-9)
    assert np.abs(parts[0] - parts[1]).max() > 1e-3 or k < d


def test_directions_of_negligible_size_are_not_inverted(lib: Library) -> None:
    anchors = degenerate()["almost rank-deficient"]
    write = lib.give(irp_write(frame(lib.take(anchors)), 0.0, 1))
    assert np.linalg.matrix_rank(write, tol=1e-3) == 3
    assert np.abs(write).max() < 10


@pytest.mark.parametrize("name", ["ridge", "irp"])
def test_an_inverse_follows_the_parameters_of_its_space(lib: Library, name: Any) -> None:
    x, *_ = frames(lib, 60, 16)
    known = Parameters(0.4, 0.3, 2)
    want = ridge_read(x, 0.4) if name == "ridge" else irp_write(x, 0.3, 2)
    got = lib.give(inverse(name, x, known))
    np.testing.assert_array_equal(got, lib.give(want))
    assert np.abs(got - lib.give(inverse(name, x, Parameters()))).max() > 1e-3


@pytest.mark.parametrize(
    ("parameters", "pointer", "said"),
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
    ],
)
def test_parameters_out_of_range_are_refused(
    parameters: dict[str, Any], pointer: str, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as error:
        Parameters(**parameters)
    assert error.value.pointer == pointer


@pytest.mark.parametrize(
    "parameters",
    [{}, {"shrinkage": 0.0, "delta": 0.0, "omega": 1}, {"shrinkage": 1, "delta": 1, "omega": 64}],
)
def test_the_ends_of_the_ranges_are_in_them(parameters: dict[str, Any]) -> None:
    Parameters(**parameters)


def test_each_side_brings_what_its_bridge_needs() -> None:
    assert {bridge: needs(bridge) for bridge in BRIDGES} == {
        "ridge": ("ridge", None),
        "irp": (None, "irp"),
        "irp-completed": (None, None),
        "none": (None, None),
    }


def matrix(bridge: BridgeName, source: Side, target: Side, lib: Library) -> Floats:
    found = fuse(bridge, source, target)
    assert isinstance(found, FusedMap)
    return np.asarray(lib.give(found.matrix), np.float64)


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_a_fused_map_is_read_times_write(lib: Library, k: int, d: int) -> None:
    x, y, u, v = frames(lib, k, d)
    known, other = Parameters(0.2, 0.3, 3), Parameters(0.9, 0.7, 1)
    source, target = Side(x, known), Side(y, other)
    for bridge, want in (
        ("ridge", plain_read(u, 0.2) @ v),
        ("irp", u.T @ plain_write(v, 0.7, [0])),
    ):
        got = matrix(bridge, source, target, lib)  # type: ignore[arg-type]
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


def test_an_inverse_that_is_brought_is_used_and_not_computed_again(lib: Library) -> None:
    x, y, *_ = frames(lib, 60, 16)
    for bridge, source, target in (
        ("ridge", Side(x, inverse=2 * ridge_read(x, None)), Side(y)),
        ("irp", Side(x), Side(y, inverse=2 * irp_write(y, 0.8, 8))),
    ):
        np.testing.assert_allclose(
            matrix(bridge, source, target, lib),  # type: ignore[arg-type]
            2 * matrix(bridge, Side(x), Side(y), lib),  # type: ignore[arg-type]
            rtol=1e-6,
        )


@pytest.mark.parametrize(("k", "d"), [*SHAPES, (60, 30)])
@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_the_completed_map_is_the_nearest_orthogonal_one(
    lib: Library, k: int, d: int, delta: float
) -> None:
    x, y, u, v = frames(lib, k, d)
    plain = u.T @ plain_write(v, delta, [0])
    got = matrix("irp-completed", Side(x), Side(y, Parameters(delta=delta, omega=9)), lib)
    values = np.linalg.svd(got, compute_uv=False)
    rank = np.linalg.matrix_rank(plain, rtol=1e-6)
    np.testing.assert_allclose(values, [1.0] * rank + [0.0] * (len(values) - rank), atol=1e-5)
    if rank == min(plain.shape):
        np.testing.assert_allclose(got, scipy.linalg.polar(plain)[0], atol=1e-5)


@pytest.mark.parametrize("delta", [0.0, 0.4])
def test_completion_finds_the_rotation_between_spaces_that_differ_by_one(
    lib: Library, delta: float
) -> None:
    anchors, turn = world(60, 16, 4, noise=1.0).x_anchors, rotation(16)
    x, y = frame(lib.take(anchors)), frame(lib.take(3 * anchors @ turn + 1))
    got = matrix("irp-completed", Side(x), Side(y, Parameters(delta=delta)), lib)
    np.testing.assert_allclose(got, turn, atol=1e-5)


def test_what_cannot_be_fused_is_refused() -> None:
    x, y = frame(world(20, 5, 4).x_anchors), frame(world(21, 6, 4).x_anchors)
    with pytest.raises(InvalidInput, match="got 20 anchors in the source and 21 in the target"):
        fuse("ridge", Side(x), Side(y))
    with pytest.raises(InvalidInput, match="source is 5 wide and the target 6") as error:
        fuse("none", Side(x), Side(y))
    assert error.value.pointer == "/bridge"
    with pytest.raises(InvalidInput, match=r"a bridge of ridge, .* got 'rigde'"):
        fuse("rigde", Side(x), Side(x))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bridge", "least"), [("ridge", 0.95), ("irp", 0.7), ("irp-completed", 0.7)]
)
def test_translation_goes_where_the_target_sees_the_sample_unless_anchors_are_shuffled(
    lib: Library, bridge: BridgeName, least: float
) -> None:
    w = world(200, 24, 32, n=100)
    source = Side(frame(lib.take(w.x_anchors)))
    x = lib.take(w.x.astype(np.float32))

    def quality(y_anchors: Floats) -> float:
        got, _ = fuse(bridge, source, Side(frame(lib.take(y_anchors)))).apply(x)
        mean = w.y_anchors.mean(0)
        return float(cosines(lib.give(got) - mean, w.y - mean).mean())

    assert quality(w.y_anchors) > least
    assert abs(quality(np.random.default_rng(0).permutation(w.y_anchors))) < 0.35


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("bridge", ["ridge", "irp", "irp-completed"])
def test_translation_follows_the_spaces_when_they_are_turned_scaled_and_moved(
    lib: Library, bridge: BridgeName, k: int, d: int
) -> None:
    w = world(k, d, d + 4, noise=0.5)
    turn, other = rotation(d), rotation(d + 4, 2)
    known = Parameters(delta=0.4, omega=3)

    def translate(x_anchors: Floats, x: Floats, y_anchors: Floats) -> Floats:
        source, target = (Side(frame(lib.take(a)), known) for a in (x_anchors, y_anchors))
        got, defined = fuse(bridge, source, target).apply(lib.take(x.astype(np.float32)))
        assert lib.give(defined).all()
        return np.asarray(lib.give(got), np.float64)

    was = translate(w.x_anchors, w.x, w.y_anchors)
    size = np.abs(was - w.y_anchors.mean(0)).max()
    # Of the source: samples and anchors together change nothing.
    seen = translate(100 * w.x_anchors @ turn + 7, 100 * w.x @ turn + 7, w.y_anchors)
    np.testing.assert_allclose(seen, was, atol=2e-3 * size)
    # Of the target: the translation goes along.
    seen = translate(w.x_anchors, w.x, 0.01 * w.y_anchors @ other - 5)
    np.testing.assert_allclose(seen, 0.01 * was @ other - 5, atol=2e-5 * size)
