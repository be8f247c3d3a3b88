"""What serves: the fused map against the two-step formula, and rows of any size."""

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
    irp_whole,
    plain_exp,
    plain_kernel,
    ridge_whole,
    whitened_whole,
)


def two_step(w: SpacePair, x: NDArray[Any], bridge: str) -> Floats:
    """The two steps, s_Y · normalise(unit(x) · read · write) + mu_Y, in float64, never fused."""
    source, target = Frame.from_anchors(w.x_anchors), Frame.from_anchors(w.y_anchors)
    coordinates = plain_unit(x, w.x_anchors.mean(0))
    if bridge == "exp":
        read, write = plain_exp(source.unit_anchors), whitened_whole(target, None, 0.2)
        coordinates = plain_kernel(coordinates, source.unit_anchors, source.count)
    elif bridge == "ridge":
        read, write = ridge_whole(source, None), target.unit_anchors
    else:
        read, write = source.unit_anchors.T, irp_whole(target, 0.8, 8)
    z = coordinates @ read @ write
    mean = w.y_anchors.mean(0)
    scale = np.linalg.norm(w.y_anchors - mean, axis=1).mean()
    return np.asarray(scale * z / np.linalg.norm(z, axis=1, keepdims=True) + mean)


def made(w: SpacePair, lib: ArrayLibrary, bridge: Any = "ridge") -> Map:
    x, y = (
        FittedSpace(Frame.from_anchors(a), FactorParameters()) for a in (w.x_anchors, w.y_anchors)
    )
    return compose(bridge, x, y).convert_arrays(lib.from_numpy)


@pytest.mark.parametrize(("k", "d"), [(9, 16), (16, 16), (60, 16)])
@pytest.mark.parametrize("bridge", ["exp", "ridge", "irp"])
def test_one_product_is_the_two_steps(lib: ArrayLibrary, bridge: str, k: int, d: int) -> None:
    w = make_spaces(k, d, 20)
    got, defined = made(w, lib, bridge).apply(lib.from_numpy(w.x.astype(np.float32)))
    want = two_step(w, w.x, bridge)
    assert lib.to_numpy(got).dtype == np.float32
    np.testing.assert_allclose(lib.to_numpy(got), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    assert lib.to_numpy(defined).all()


def test_rows_come_at_the_scale_of_the_target_about_its_mean(lib: ArrayLibrary) -> None:
    w = make_spaces(60, 16, 20)
    got, _ = made(w, lib).apply(lib.from_numpy(w.x.astype(np.float32)))
    distance = np.linalg.norm(lib.to_numpy(got) - w.y_anchors.mean(0), axis=1)
    np.testing.assert_allclose(distance, Frame.from_anchors(w.y_anchors).scale, rtol=1e-5)


def test_how_far_a_row_is_from_the_mean_does_not_matter(lib: ArrayLibrary) -> None:
    w = make_spaces(60, 16, 20)
    mean = w.x_anchors.mean(0)
    near, far = (
        made(w, lib).apply(lib.from_numpy((mean + t * (w.x - mean)).astype(np.float32))).rows
        for t in (0.01, 100.0)
    )
    np.testing.assert_allclose(lib.to_numpy(near), lib.to_numpy(far), rtol=1e-3, atol=1e-3)


def centred(w: SpacePair) -> SpacePair:
    """The same world with a source whose anchors have a mean of exactly zero."""
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
    got, defined = made(w, lib, bridge).apply(lib.from_numpy(x))
    want = two_step(w, x, bridge)
    assert lib.to_numpy(defined).all()
    np.testing.assert_allclose(lib.to_numpy(got), want, rtol=1e-3, atol=2e-4 * np.abs(want).max())


@pytest.mark.parametrize("gain", [1e-15, 1e-7, 1e5, 1e15])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e15])
def test_the_size_of_the_map_cancels(lib: ArrayLibrary, gain: float, size: float) -> None:
    w = centred(make_spaces(30, 16, 20))
    x, y = Frame.from_anchors(w.x_anchors), Frame.from_anchors(w.y_anchors)
    found = compose(
        "ridge",
        FittedSpace(x, inverse=ridge_inverse(x, None).convert_arrays(lambda c: c / gain**0.5)),
        FittedSpace(y),
    ).convert_arrays(lib.from_numpy)
    rows = (size * w.x).astype(np.float32)
    got, defined = found.apply(lib.from_numpy(rows))
    want = two_step(w, rows, "ridge")
    assert lib.to_numpy(defined).all()
    np.testing.assert_allclose(lib.to_numpy(got), want, rtol=1e-3, atol=2e-4 * np.abs(want).max())


@pytest.mark.parametrize("size", [1e8, 1e20, 1e38, 3.4e38])
def test_huge_rows_about_any_mean(lib: ArrayLibrary, size: float) -> None:
    w = make_spaces(60, 16, 20)
    x = (size * np.sign(w.x)).astype(np.float32)
    got, defined = made(w, lib).apply(lib.from_numpy(x))
    want = two_step(w, x, "ridge")
    assert lib.to_numpy(defined).all()
    np.testing.assert_allclose(lib.to_numpy(got), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5, 2e-6])
def test_rows_close_to_the_mean_keep_the_direction_that_float32_gave_them(
    lib: ArrayLibrary, distance: float
) -> None:
    w = make_spaces(60, 64, 20)
    mean = w.x_anchors.mean(0)
    x = (mean + distance * np.linalg.norm(mean) * plain_unit(w.x, mean)).astype(np.float32)
    got, defined = made(w, lib).apply(lib.from_numpy(x))
    target = w.y_anchors.mean(0)
    assert lib.to_numpy(defined).all()
    assert cosines(lib.to_numpy(got) - target, two_step(w, x, "ridge") - target).min() > 0.999999


def test_a_mean_far_from_the_origin_costs_no_accuracy(lib: ArrayLibrary) -> None:
    w = make_spaces(60, 64, 20)
    step = 1e4 * np.random.default_rng(5).normal(size=64)
    w = SpacePair(w.x_anchors + step, w.y_anchors, w.x + step, w.y)
    x = w.x.astype(np.float32)
    got, defined = made(w, lib).apply(lib.from_numpy(x))
    target = w.y_anchors.mean(0)
    assert lib.to_numpy(defined).all()
    assert cosines(lib.to_numpy(got) - target, two_step(w, x, "ridge") - target).min() > 0.9999


@pytest.mark.parametrize("bridge", ["exp", "ridge", "irp", "irp-completed", "none"])
def test_a_row_at_the_mean_has_no_direction(lib: ArrayLibrary, bridge: str) -> None:
    w = make_spaces(60, 20, 20)
    at = w.x_anchors.mean(0).astype(np.float32)
    beside = np.nextafter(at, np.float32(np.inf))
    x = np.stack([at, w.x[0].astype(np.float32), beside])
    got, defined = made(w, lib, bridge).apply(lib.from_numpy(x))
    assert lib.to_numpy(defined).tolist() == [False, True, False]
    want = x if bridge == "none" else np.tile(w.y_anchors.mean(0), (3, 1))
    np.testing.assert_allclose(lib.to_numpy(got)[[0, 2]], want[[0, 2]], rtol=1e-6)
    assert np.abs(lib.to_numpy(got)[1] - want[0]).max() > 1


def test_a_row_that_the_map_takes_to_nothing_has_no_direction(lib: ArrayLibrary) -> None:
    # The anchors span a plane in a generic position; the row is at right angles to it.
    rng = np.random.default_rng(0)
    anchors = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 300))
    seen = Frame.from_anchors(anchors)
    inside = seen.mean + seen.unit_anchors[0]
    normal = np.linalg.svd(seen.unit_anchors)[2][-1]
    x = np.stack([seen.mean + 50 * normal, inside]).astype(np.float32)
    found = compose(
        "ridge", FittedSpace(seen, FactorParameters(shrinkage=0.0)), FittedSpace(seen)
    ).convert_arrays(lib.from_numpy)
    got, defined = found.apply(lib.from_numpy(x))
    assert lib.to_numpy(defined).tolist() == [False, True]
    np.testing.assert_allclose(lib.to_numpy(got)[0], seen.mean, rtol=1e-5, atol=1e-6)


def test_odd_rows_do_not_touch_their_neighbours(lib: ArrayLibrary) -> None:
    w = make_spaces(60, 16, 20)
    x = np.repeat(w.x.astype(np.float32), 2, axis=0)
    found = made(w, lib)
    calm = lib.to_numpy(found.apply(lib.from_numpy(x)).rows)
    x[3], x[10], x[17], x[40], x[41] = 1e38, np.nan, np.inf, w.x_anchors.mean(0), -3e38
    before = x.copy()
    got, defined = found.apply(lib.from_numpy(x))
    odd = [3, 10, 17, 40, 41]
    np.testing.assert_array_equal(np.delete(lib.to_numpy(got), odd, 0), np.delete(calm, odd, 0))
    np.testing.assert_array_equal(x, before)
    assert np.flatnonzero(~lib.to_numpy(defined)).tolist() == [10, 17, 40]
    np.testing.assert_allclose(
        lib.to_numpy(got)[[10, 17, 40]], np.tile(w.y_anchors.mean(0), (3, 1)), rtol=1e-6
    )


WORLD = make_spaces(30, 3, 5)
MAPS = {
    bridge: made(WORLD, ArrayLibrary("numpy", np.asarray, np.asarray), bridge)
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
def test_whatever_comes_in_what_goes_out_is_finite_and_to_scale(
    bridge: str, rows: list[list[float]]
) -> None:
    x = np.array(rows, np.float32).reshape(-1, 3)
    got, defined = MAPS[bridge].apply(x)
    target = Frame.from_anchors(WORLD.y_anchors)
    assert got.shape == (len(x), 5)
    assert np.isfinite(got).all()
    distance = np.linalg.norm(got - target.mean, axis=1)
    np.testing.assert_allclose(distance, target.scale * defined, rtol=1e-4, atol=1e-4)
    mean = WORLD.x_anchors.mean(0)
    far = np.linalg.norm(x - mean, axis=1) > 1e-5 * np.linalg.norm(mean)
    np.testing.assert_array_equal(defined, far)


@pytest.mark.parametrize("bridge", ["exp", "ridge", "none"])
def test_a_batch_may_be_empty_of_another_dtype_or_out_of_order(
    lib: ArrayLibrary, bridge: str
) -> None:
    w = make_spaces(60, 16, 16)
    found = made(w, lib, bridge)
    rows, defined = found.apply(lib.from_numpy(np.empty((0, 16), np.float32)))
    assert (tuple(rows.shape), tuple(defined.shape)) == ((0, 16), (0,))
    want = lib.to_numpy(found.apply(lib.from_numpy(w.x.astype(np.float32))).rows)
    for x in (w.x, np.asfortranarray(w.x.astype(np.float32))):
        got = lib.to_numpy(found.apply(lib.from_numpy(x)).rows)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    whole = np.arange(32).reshape(2, 16)
    assert lib.to_numpy(found.apply(lib.from_numpy(whole)).rows).dtype == np.float32


@pytest.mark.parametrize("bridge", ["exp", "ridge", "none"])
@pytest.mark.parametrize("shape", [(3, 15), (16,), (2, 3, 16)])
def test_rows_of_another_width_are_refused(
    lib: ArrayLibrary, bridge: str, shape: tuple[int, ...]
) -> None:
    found = made(make_spaces(60, 16, 16), lib, bridge)
    with pytest.raises(InvalidInputError, match=r"shape \(n, 16\), got \(") as error:
        found.apply(lib.from_numpy(np.zeros(shape, np.float32)))
    assert str(shape) in error.value.message


def test_a_map_knows_its_widths_and_memory_and_moves_whole() -> None:
    w = make_spaces(60, 16, 20)
    x, y = Frame.from_anchors(w.x_anchors), Frame.from_anchors(w.y_anchors)
    found = compose("ridge", FittedSpace(x), FittedSpace(y))
    assert (found.source_width, found.target_width) == (16, 20)
    # F, mu_X F, mu_Y, and mu_X in two parts.
    assert found.nbytes == 4 * (16 * 20 + 20 + 20 + 2 * 16)
    kernel = compose("exp", FittedSpace(x), FittedSpace(y))
    assert (kernel.source_width, kernel.target_width) == (16, 20)
    assert kernel.nbytes == 4 * (60 * 16 + 60 * 20 + 20 + 2 * 16)
    same = identity_map(x)
    assert (same.source_width, same.target_width, same.nbytes) == (16, 16, 4 * 2 * 16)
    for one in (found, kernel, same):
        moved = one.convert_arrays(torch.as_tensor)
        assert moved.nbytes == one.nbytes
        rows = w.x.astype(np.float32)
        got = moved.apply(torch.as_tensor(rows))
        assert isinstance(got.rows, torch.Tensor)
        np.testing.assert_allclose(got.rows.numpy(), one.apply(rows).rows, rtol=1e-5, atol=5e-4)


def test_a_fused_map_serves_in_float32_only(lib: ArrayLibrary) -> None:
    w = make_spaces(60, 16, 20)
    found = compose(
        "ridge",
        *(FittedSpace(Frame.from_anchors(lib.from_numpy(a))) for a in (w.x_anchors, w.y_anchors)),
    )
    assert isinstance(found, LinearMap)
    arrays = (found.matrix, found.offset, found.mean, found.origin.parts)
    assert {lib.to_numpy(array).dtype for array in arrays} == {np.dtype(np.float32)}
    np.testing.assert_allclose(
        lib.to_numpy(found.offset),
        w.x_anchors.mean(0) @ lib.to_numpy(found.matrix),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1.0, 1e38])
def test_the_identity_passes_rows_of_any_size_and_knows_that_they_have_a_direction(
    lib: ArrayLibrary, size: float
) -> None:
    w = centred(make_spaces(30, 16, 20))
    x = (size * np.sign(w.x)).astype(np.float32)
    x[5], x[6, 2] = 0, np.nan
    got, defined = (
        identity_map(Frame.from_anchors(w.x_anchors))
        .convert_arrays(lib.from_numpy)
        .apply(lib.from_numpy(x))
    )
    np.testing.assert_array_equal(lib.to_numpy(got), x)
    assert np.flatnonzero(~lib.to_numpy(defined)).tolist() == [5, 6]


def test_ridge_from_a_space_to_itself_is_not_the_identity() -> None:
    # A law that does not hold, which is why callers take `identity` there.
    seen: Frame = Frame.from_anchors(make_spaces(60, 16, 20).x_anchors)
    x = make_spaces(60, 16, 20).x
    got = compose("ridge", FittedSpace(seen), FittedSpace(seen)).apply(x.astype(np.float32)).rows
    assert cosines(got - seen.mean, x - seen.mean).min() < 0.999
