"""Maps against the two-step formula, and on rows of any size."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.bridges import FactorParameters, FittedSpace, Map, compose, identity_map
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.maps import LinearMap
from stitchwork.geometry.ridge_factors import ridge_inverse
from tests.support.latent_spaces import (
    ArrayLibrary,
    Floats,
    SpacePair,
    cosines,
    make_spaces,
    plain_unit,
)
from tests.support.reference_formulas import (
    irp_write_matrix,
    plain_exp_read,
    plain_kernel,
    ridge_read_matrix,
    whitened_write_matrix,
)


def two_step(w: SpacePair, x: NDArray[Any], bridge: str) -> Floats:
    """The two steps, s_Y · normalise(unit(x) · read · write) + mu_Y, in float64, not composed."""
    source, target = Frame.from_anchors(w.x_anchors), Frame.from_anchors(w.y_anchors)
    coordinates = plain_unit(x, w.x_anchors.mean(0))
    if bridge == "exp":
        read, write = plain_exp_read(source.unit_anchors), whitened_write_matrix(target, None, 0.2)
        coordinates = plain_kernel(coordinates, source.unit_anchors, source.count)
    elif bridge == "ridge":
        read, write = ridge_read_matrix(source, None), target.unit_anchors
    else:
        read, write = source.unit_anchors.T, irp_write_matrix(target, 0.8, 8)
    z = coordinates @ read @ write
    mean = w.y_anchors.mean(0)
    scale = np.linalg.norm(w.y_anchors - mean, axis=1).mean()
    return np.asarray(scale * z / np.linalg.norm(z, axis=1, keepdims=True) + mean)


def composed(w: SpacePair, lib: ArrayLibrary, bridge: Any = "ridge") -> Map:
    x, y = (
        FittedSpace(Frame.from_anchors(a), FactorParameters()) for a in (w.x_anchors, w.y_anchors)
    )
    return compose(bridge, x, y).convert_arrays(lib.from_numpy)


@pytest.mark.parametrize(("k", "d"), [(9, 16), (16, 16), (60, 16)])
@pytest.mark.parametrize("bridge", ["exp", "ridge", "irp"])
def test_composed_map_equals_read_then_write(
    lib: ArrayLibrary, bridge: str, k: int, d: int
) -> None:
    w = make_spaces(k, d, 20)
    actual, defined = composed(w, lib, bridge).apply(lib.from_numpy(w.x.astype(np.float32)))
    expected = two_step(w, w.x, bridge)
    assert lib.to_numpy(actual).dtype == np.float32
    np.testing.assert_allclose(
        lib.to_numpy(actual), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )
    assert lib.to_numpy(defined).all()


def test_translated_rows_have_the_targets_scale_about_its_mean(lib: ArrayLibrary) -> None:
    w = make_spaces(60, 16, 20)
    actual, _ = composed(w, lib).apply(lib.from_numpy(w.x.astype(np.float32)))
    distance = np.linalg.norm(lib.to_numpy(actual) - w.y_anchors.mean(0), axis=1)
    np.testing.assert_allclose(distance, Frame.from_anchors(w.y_anchors).scale, rtol=1e-5)


def test_translation_ignores_a_rows_distance_from_the_mean(lib: ArrayLibrary) -> None:
    w = make_spaces(60, 16, 20)
    mean = w.x_anchors.mean(0)
    near, far = (
        composed(w, lib).apply(lib.from_numpy((mean + t * (w.x - mean)).astype(np.float32))).rows
        for t in (0.01, 100.0)
    )
    np.testing.assert_allclose(lib.to_numpy(near), lib.to_numpy(far), rtol=1e-3, atol=1e-3)


def centred(w: SpacePair) -> SpacePair:
    """The same spaces with source anchors whose mean is exactly zero."""
    x = np.stack([w.x_anchors, -w.x_anchors], axis=1).reshape(-1, w.x.shape[1])
    assert not x.mean(0).any()
    return SpacePair(x, np.vstack([w.y_anchors, w.y_anchors + 1]), w.x, w.y)


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1e-22, 1e-20, 1e-10, 1e10, 1e18, 1e30, 3e37])
@pytest.mark.parametrize("bridge", ["ridge", "irp"])
def test_huge_and_tiny_rows_keep_their_direction(
    lib: ArrayLibrary, bridge: str, size: float
) -> None:
    w = centred(make_spaces(30, 16, 20))
    x = (size * w.x / np.abs(w.x).max(axis=1, keepdims=True)).astype(np.float32)
    actual, defined = composed(w, lib, bridge).apply(lib.from_numpy(x))
    expected = two_step(w, x, bridge)
    assert lib.to_numpy(defined).all()
    np.testing.assert_allclose(
        lib.to_numpy(actual), expected, rtol=1e-3, atol=2e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize("gain", [1e-15, 1e-7, 1e5, 1e15])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e15])
def test_translation_ignores_the_size_of_the_matrix(
    lib: ArrayLibrary, gain: float, size: float
) -> None:
    w = centred(make_spaces(30, 16, 20))
    x, y = Frame.from_anchors(w.x_anchors), Frame.from_anchors(w.y_anchors)
    pair_map = compose(
        "ridge",
        FittedSpace(x, inverse=ridge_inverse(x, None).convert_arrays(lambda c: c / gain**0.5)),
        FittedSpace(y),
    ).convert_arrays(lib.from_numpy)
    rows = (size * w.x).astype(np.float32)
    actual, defined = pair_map.apply(lib.from_numpy(rows))
    expected = two_step(w, rows, "ridge")
    assert lib.to_numpy(defined).all()
    np.testing.assert_allclose(
        lib.to_numpy(actual), expected, rtol=1e-3, atol=2e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize("size", [1e8, 1e20, 1e38, 3.4e38])
def test_huge_rows_about_any_mean_are_translated(lib: ArrayLibrary, size: float) -> None:
    w = make_spaces(60, 16, 20)
    x = (size * np.sign(w.x)).astype(np.float32)
    actual, defined = composed(w, lib).apply(lib.from_numpy(x))
    expected = two_step(w, x, "ridge")
    assert lib.to_numpy(defined).all()
    np.testing.assert_allclose(lib.to_numpy(actual), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5, 2e-6])
def test_rows_close_to_the_mean_keep_their_float32_direction(
    lib: ArrayLibrary, distance: float
) -> None:
    w = make_spaces(60, 64, 20)
    mean = w.x_anchors.mean(0)
    x = (mean + distance * np.linalg.norm(mean) * plain_unit(w.x, mean)).astype(np.float32)
    actual, defined = composed(w, lib).apply(lib.from_numpy(x))
    target = w.y_anchors.mean(0)
    assert lib.to_numpy(defined).all()
    assert cosines(lib.to_numpy(actual) - target, two_step(w, x, "ridge") - target).min() > 0.999999


def test_mean_far_from_the_origin_costs_no_accuracy(lib: ArrayLibrary) -> None:
    w = make_spaces(60, 64, 20)
    step = 1e4 * np.random.default_rng(5).normal(size=64)
    w = SpacePair(w.x_anchors + step, w.y_anchors, w.x + step, w.y)
    x = w.x.astype(np.float32)
    actual, defined = composed(w, lib).apply(lib.from_numpy(x))
    target = w.y_anchors.mean(0)
    assert lib.to_numpy(defined).all()
    assert cosines(lib.to_numpy(actual) - target, two_step(w, x, "ridge") - target).min() > 0.9999


@pytest.mark.parametrize("bridge", ["exp", "ridge", "irp", "irp-completed", "none"])
def test_row_at_the_mean_is_not_defined(lib: ArrayLibrary, bridge: str) -> None:
    w = make_spaces(60, 20, 20)
    at = w.x_anchors.mean(0).astype(np.float32)
    beside = np.nextafter(at, np.float32(np.inf))
    x = np.stack([at, w.x[0].astype(np.float32), beside])
    actual, defined = composed(w, lib, bridge).apply(lib.from_numpy(x))
    assert lib.to_numpy(defined).tolist() == [False, True, False]
    expected = x if bridge == "none" else np.tile(w.y_anchors.mean(0), (3, 1))
    np.testing.assert_allclose(lib.to_numpy(actual)[[0, 2]], expected[[0, 2]], rtol=1e-6)
    assert np.abs(lib.to_numpy(actual)[1] - expected[0]).max() > 1


def test_row_that_the_matrix_maps_to_zero_is_not_defined(lib: ArrayLibrary) -> None:
    # The anchors span a plane in a generic position; the row is orthogonal to it.
    rng = np.random.default_rng(0)
    anchors = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 300))
    frame = Frame.from_anchors(anchors)
    inside = frame.mean + frame.unit_anchors[0]
    normal = np.linalg.svd(frame.unit_anchors)[2][-1]
    x = np.stack([frame.mean + 50 * normal, inside]).astype(np.float32)
    pair_map = compose(
        "ridge", FittedSpace(frame, FactorParameters(shrinkage=0.0)), FittedSpace(frame)
    ).convert_arrays(lib.from_numpy)
    actual, defined = pair_map.apply(lib.from_numpy(x))
    assert lib.to_numpy(defined).tolist() == [False, True]
    np.testing.assert_allclose(lib.to_numpy(actual)[0], frame.mean, rtol=1e-5, atol=1e-6)


def test_extreme_rows_do_not_change_other_rows(lib: ArrayLibrary) -> None:
    w = make_spaces(60, 16, 20)
    x = np.repeat(w.x.astype(np.float32), 2, axis=0)
    pair_map = composed(w, lib)
    undisturbed = lib.to_numpy(pair_map.apply(lib.from_numpy(x)).rows)
    x[3], x[10], x[17], x[40], x[41] = 1e38, np.nan, np.inf, w.x_anchors.mean(0), -3e38
    before = x.copy()
    actual, defined = pair_map.apply(lib.from_numpy(x))
    extreme = [3, 10, 17, 40, 41]
    np.testing.assert_array_equal(
        np.delete(lib.to_numpy(actual), extreme, 0), np.delete(undisturbed, extreme, 0)
    )
    np.testing.assert_array_equal(x, before)
    assert np.flatnonzero(~lib.to_numpy(defined)).tolist() == [10, 17, 40]
    np.testing.assert_allclose(
        lib.to_numpy(actual)[[10, 17, 40]], np.tile(w.y_anchors.mean(0), (3, 1)), rtol=1e-6
    )


SPACES = make_spaces(30, 3, 5)
MAPS = {
    bridge: composed(SPACES, ArrayLibrary("numpy", np.asarray, np.asarray), bridge)
    for bridge in ("exp", "ridge", "irp", "irp-completed")
}


@given(
    st.sampled_from(sorted(MAPS)),
    st.lists(
        st.lists(
            st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3
        ),
        max_size=6,
    ),
)
def test_translation_of_any_input_is_finite_and_to_scale(
    bridge: str, rows: list[list[float]]
) -> None:
    x = np.array(rows, np.float32).reshape(-1, 3)
    actual, defined = MAPS[bridge].apply(x)
    target = Frame.from_anchors(SPACES.y_anchors)
    assert actual.shape == (len(x), 5)
    assert np.isfinite(actual).all()
    distance = np.linalg.norm(actual - target.mean, axis=1)
    np.testing.assert_allclose(distance, target.scale * defined, rtol=1e-4, atol=1e-4)
    mean = SPACES.x_anchors.mean(0)
    far = np.linalg.norm(x - mean, axis=1) > 1e-5 * np.linalg.norm(mean)
    np.testing.assert_array_equal(defined, far)


@pytest.mark.parametrize("bridge", ["exp", "ridge", "none"])
def test_batch_that_is_empty_or_of_another_dtype_or_strided_is_translated(
    lib: ArrayLibrary, bridge: str
) -> None:
    w = make_spaces(60, 16, 16)
    pair_map = composed(w, lib, bridge)
    rows, defined = pair_map.apply(lib.from_numpy(np.empty((0, 16), np.float32)))
    assert (tuple(rows.shape), tuple(defined.shape)) == ((0, 16), (0,))
    expected = lib.to_numpy(pair_map.apply(lib.from_numpy(w.x.astype(np.float32))).rows)
    for x in (w.x, np.asfortranarray(w.x.astype(np.float32))):
        actual = lib.to_numpy(pair_map.apply(lib.from_numpy(x)).rows)
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    whole = np.arange(32).reshape(2, 16)
    assert lib.to_numpy(pair_map.apply(lib.from_numpy(whole)).rows).dtype == np.float32


@pytest.mark.parametrize("bridge", ["exp", "ridge", "none"])
@pytest.mark.parametrize("shape", [(3, 15), (16,), (2, 3, 16)])
def test_rows_of_another_width_are_refused(
    lib: ArrayLibrary, bridge: str, shape: tuple[int, ...]
) -> None:
    pair_map = composed(make_spaces(60, 16, 16), lib, bridge)
    with pytest.raises(InvalidInputError, match=r"shape \(n, 16\), got \(") as error:
        pair_map.apply(lib.from_numpy(np.zeros(shape, np.float32)))
    assert str(shape) in error.value.message


def test_map_reports_widths_and_memory_and_converts_every_array() -> None:
    w = make_spaces(60, 16, 20)
    x, y = Frame.from_anchors(w.x_anchors), Frame.from_anchors(w.y_anchors)
    pair_map = compose("ridge", FittedSpace(x), FittedSpace(y))
    assert (pair_map.source_width, pair_map.target_width) == (16, 20)
    # F, mu_X F, mu_Y, and mu_X in two parts.
    assert pair_map.nbytes == 4 * (16 * 20 + 20 + 20 + 2 * 16)
    kernel = compose("exp", FittedSpace(x), FittedSpace(y))
    assert (kernel.source_width, kernel.target_width) == (16, 20)
    assert kernel.nbytes == 4 * (60 * 16 + 60 * 20 + 20 + 2 * 16)
    same = identity_map(x)
    assert (same.source_width, same.target_width, same.nbytes) == (16, 16, 4 * 2 * 16)
    for one in (pair_map, kernel, same):
        moved = one.convert_arrays(torch.as_tensor)
        assert moved.nbytes == one.nbytes
        rows = w.x.astype(np.float32)
        actual = moved.apply(torch.as_tensor(rows))
        assert isinstance(actual.rows, torch.Tensor)
        np.testing.assert_allclose(actual.rows.numpy(), one.apply(rows).rows, rtol=1e-5, atol=5e-4)


def test_composed_map_has_only_float32_arrays(lib: ArrayLibrary) -> None:
    w = make_spaces(60, 16, 20)
    pair_map = compose(
        "ridge",
        *(FittedSpace(Frame.from_anchors(lib.from_numpy(a))) for a in (w.x_anchors, w.y_anchors)),
    )
    assert isinstance(pair_map, LinearMap)
    arrays = (pair_map.matrix, pair_map.offset, pair_map.mean, pair_map.origin.parts)
    assert {lib.to_numpy(array).dtype for array in arrays} == {np.dtype(np.float32)}
    np.testing.assert_allclose(
        lib.to_numpy(pair_map.offset),
        w.x_anchors.mean(0) @ lib.to_numpy(pair_map.matrix),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1.0, 1e38])
def test_identity_map_returns_rows_of_any_size_as_defined(lib: ArrayLibrary, size: float) -> None:
    w = centred(make_spaces(30, 16, 20))
    x = (size * np.sign(w.x)).astype(np.float32)
    x[5], x[6, 2] = 0, np.nan
    actual, defined = (
        identity_map(Frame.from_anchors(w.x_anchors))
        .convert_arrays(lib.from_numpy)
        .apply(lib.from_numpy(x))
    )
    np.testing.assert_array_equal(lib.to_numpy(actual), x)
    assert np.flatnonzero(~lib.to_numpy(defined)).tolist() == [5, 6]


def test_ridge_from_a_space_to_itself_is_not_the_identity() -> None:
    # Not a law, which is why callers use `identity_map` there.
    frame: Frame = Frame.from_anchors(make_spaces(60, 16, 20).x_anchors)
    x = make_spaces(60, 16, 20).x
    actual = (
        compose("ridge", FittedSpace(frame), FittedSpace(frame)).apply(x.astype(np.float32)).rows
    )
    assert cosines(actual - frame.mean, x - frame.mean).min() < 0.999
