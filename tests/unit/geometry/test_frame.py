"""A space as its anchors see it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics.pairwise import cosine_similarity

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.frame import Frame, normalise, relative_representation, unit_rows
from tests.support.latent_spaces import ArrayLibrary, make_spaces, plain_unit, rotation

SHAPES = [(8, 20), (20, 20), (60, 20)]


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_a_frame_is_mean_scale_and_unit_anchors(lib: ArrayLibrary, k: int, d: int) -> None:
    anchors = make_spaces(k, d, 5).x_anchors
    seen = Frame.from_anchors(lib.from_numpy(anchors))
    mean = anchors.mean(0)
    np.testing.assert_allclose(lib.to_numpy(seen.mean), mean, rtol=1e-12, atol=1e-12)
    assert seen.scale == pytest.approx(np.linalg.norm(anchors - mean, axis=1).mean(), rel=1e-12)
    np.testing.assert_allclose(
        lib.to_numpy(seen.unit_anchors), plain_unit(anchors, mean), atol=1e-12
    )
    assert (seen.count, seen.width) == (k, d)
    assert lib.to_numpy(seen.unit_anchors).dtype == np.float64
    assert type(seen.scale) is float


@pytest.mark.parametrize("factor", [1e-6, 0.5, 3.0, 1e6])
def test_scaling_turning_and_moving_anchors_moves_the_frame_along(
    lib: ArrayLibrary, factor: float
) -> None:
    anchors = make_spaces(30, 12, 5).x_anchors
    turn, step = rotation(12), np.linspace(-4, 4, 12) * factor
    was, seen = (
        Frame.from_anchors(lib.from_numpy(anchors)),
        Frame.from_anchors(lib.from_numpy(factor * anchors @ turn + step)),
    )
    assert seen.scale == pytest.approx(factor * was.scale, rel=1e-9)
    np.testing.assert_allclose(
        lib.to_numpy(seen.unit_anchors), lib.to_numpy(was.unit_anchors) @ turn, atol=1e-9
    )
    np.testing.assert_allclose(
        lib.to_numpy(seen.mean), factor * lib.to_numpy(was.mean) @ turn + step, rtol=1e-9
    )


def test_an_anchor_at_the_mean_keeps_its_index_and_counts_for_nothing(lib: ArrayLibrary) -> None:
    anchors = np.array([[1.0, 0], [3, 0], [2, 2], [2, 0], [2, -2]])
    seen = Frame.from_anchors(lib.from_numpy(anchors))
    np.testing.assert_array_equal(
        lib.to_numpy(seen.unit_anchors), [[-1, 0], [1, 0], [0, 1], [0, 0], [0, -1]]
    )
    assert seen.scale == pytest.approx((1 + 1 + 2 + 2) / 4)


@pytest.mark.parametrize(("length", "kept"), [(1e-7, True), (1e-9, False)])
def test_near_the_mean_is_relative_to_the_longest_anchor(
    lib: ArrayLibrary, length: float, kept: bool
) -> None:
    # In pairs of opposites, so that the mean is zero and stays there.
    anchors = np.array([[1.0, 0], [-1, 0], [0, length], [0, -length]])
    seen = Frame.from_anchors(lib.from_numpy(anchors))
    assert bool(lib.to_numpy(seen.unit_anchors)[2, 1] == 1.0) is kept
    assert seen.scale == pytest.approx(0.5 + length / 2 if kept else 1.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.int64])
def test_anchors_of_any_real_dtype_are_fitted_in_float64(lib: ArrayLibrary, dtype: type) -> None:
    anchors: NDArray[Any] = np.array([[1, 2], [3, -4], [-5, 6]], dtype)
    np.testing.assert_allclose(
        lib.to_numpy(Frame.from_anchors(lib.from_numpy(anchors)).unit_anchors),
        lib.to_numpy(Frame.from_anchors(lib.from_numpy(anchors.astype(np.float64))).unit_anchors),
    )


@pytest.mark.parametrize("step", [0.0, 1e6])
def test_a_mean_that_is_zero_but_for_rounding_is_zero(lib: ArrayLibrary, step: float) -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 3))
    anchors = np.vstack([rows, -rows]) + np.array([0, step, 0])
    mean = lib.to_numpy(Frame.from_anchors(lib.from_numpy(anchors)).mean)
    assert mean[0] == mean[2] == 0
    assert mean[1] == pytest.approx(step, rel=1e-12)


GOOD = np.array([[1.0, 0], [0, 1], [2, 2]])


@pytest.mark.parametrize(
    ("anchors", "said"),
    [
        (np.ones(4), r"shape \(n, d\), got \(4,\)"),
        (np.ones((2, 2, 2)), r"shape \(n, d\), got \(2, 2, 2\)"),
        (np.array([[1.0, 2], [np.nan, 0], [0, 1]]), "finite anchors, got NaN"),
        (np.array([[1.0, 2], [np.inf, 0], [0, 1]]), "finite anchors"),
        (GOOD > 0, "real numbers, got .*bool"),
        (GOOD * 1j, "real numbers, got .*complex128"),
        (np.ones((0, 3)), r"got shape \(0, 3\)"),
        (np.ones((3, 0)), r"got shape \(3, 0\)"),
        (np.array([[1.0, 2]]), "at least 2 anchors .* got 0 of 1"),
        (np.full((7, 3), 0.1), "at least 2 anchors .* got 0 of 7"),
        (np.full((7, 3), 0.1, np.float32), "got 0 of 7"),
        (GOOD * 1e19, "up to 1e.18, got 2.0e.19"),
        (GOOD * 1e-19, "at least 9e-19 apart"),
    ],
)
def test_anchors_that_are_no_frame_are_refused(
    lib: ArrayLibrary, anchors: np.ndarray, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        Frame.from_anchors(lib.from_numpy(anchors))


def test_a_converted_frame_is_the_same_frame() -> None:
    seen = Frame.from_anchors(GOOD)
    moved = seen.convert_arrays(lambda x: x.astype(np.float32))
    assert (moved.mean.dtype, moved.unit_anchors.dtype, moved.scale) == (
        np.float32,
        np.float32,
        seen.scale,
    )


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_unit_rows_have_norm_one_and_the_direction_of_x(lib: ArrayLibrary, size: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 5))
    got = lib.to_numpy(unit_rows(lib.from_numpy(rows * size), lib.from_numpy(np.zeros(5))))
    np.testing.assert_allclose(got, plain_unit(rows, np.zeros(5)), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_at_the_mean_to_its_own_rounding_has_no_direction(
    lib: ArrayLibrary, dtype: type
) -> None:
    mean = np.random.default_rng(0).normal(size=50) * 7
    step = np.zeros(50)
    step[3] = 10 * np.finfo(dtype).eps * np.linalg.norm(mean)
    rows: NDArray[Any] = np.stack(
        [mean, mean + step, np.full(50, np.nan), np.full(50, np.inf)]
    ).astype(dtype)
    got = lib.to_numpy(unit_rows(lib.from_numpy(rows), lib.from_numpy(mean)))
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), [0, 1, 0, 0], atol=1e-12)


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_directions_are_unit_or_zero_whatever_the_row(rows: list[list[float]]) -> None:
    x = np.array(rows, np.float32)
    unit, length = normalise(x)
    sound = np.isfinite(x).all(axis=1) & (x != 0).any(axis=1)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), sound, atol=1e-6)
    np.testing.assert_array_equal(length > 0, sound)


def test_the_relative_representation_is_the_cosines_to_the_anchors(lib: ArrayLibrary) -> None:
    w = make_spaces(30, 12, 5)
    seen = Frame.from_anchors(lib.from_numpy(w.x_anchors))
    mean = w.x_anchors.mean(0)
    got = lib.to_numpy(relative_representation(lib.from_numpy(w.x), seen))
    np.testing.assert_allclose(got, cosine_similarity(w.x - mean, w.x_anchors - mean), atol=1e-12)
    assert got.shape == (40, 30)
    assert np.abs(got).max() <= 1


@given(seed=st.integers(0, 1000), factor=st.floats(1e-3, 1e3), step=st.floats(-1e3, 1e3))
def test_the_relative_representation_ignores_how_a_space_is_turned_scaled_and_moved(
    seed: int, factor: float, step: float
) -> None:
    w = make_spaces(15, 6, 4, seed=seed, n=5)
    turn = rotation(6, seed)

    def moved(rows: np.ndarray) -> np.ndarray:
        return factor * (rows @ turn + step)

    np.testing.assert_allclose(
        relative_representation(moved(w.x), Frame.from_anchors(moved(w.x_anchors))),
        relative_representation(w.x, Frame.from_anchors(w.x_anchors)),
        atol=1e-7,
    )


def test_scaling_samples_alone_is_no_invariance_once_rows_are_centred() -> None:
    w = make_spaces(15, 6, 4)
    seen = Frame.from_anchors(w.x_anchors)
    assert (
        np.abs(relative_representation(2 * w.x, seen) - relative_representation(w.x, seen)).max()
        > 0.1
    )


def test_two_frames_are_equal_only_if_they_are_one() -> None:
    # Comparing arrays would have no truth value.
    seen = Frame.from_anchors(GOOD)
    assert seen == seen
    assert seen != Frame(seen.mean, seen.scale, seen.unit_anchors)
