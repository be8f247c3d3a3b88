"""Frames, unit rows and relative representations."""

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
    frame = Frame.from_anchors(lib.from_numpy(anchors))
    mean = anchors.mean(0)
    np.testing.assert_allclose(lib.to_numpy(frame.mean), mean, rtol=1e-12, atol=1e-12)
    assert frame.scale == pytest.approx(np.linalg.norm(anchors - mean, axis=1).mean(), rel=1e-12)
    np.testing.assert_allclose(
        lib.to_numpy(frame.unit_anchors), plain_unit(anchors, mean), atol=1e-12
    )
    assert (frame.count, frame.width) == (k, d)
    assert lib.to_numpy(frame.unit_anchors).dtype == np.float64
    assert type(frame.scale) is float


@pytest.mark.parametrize("factor", [1e-6, 0.5, 3.0, 1e6])
def test_frame_follows_scaling_rotation_and_translation_of_anchors(
    lib: ArrayLibrary, factor: float
) -> None:
    anchors = make_spaces(30, 12, 5).x_anchors
    turn, step = rotation(12), np.linspace(-4, 4, 12) * factor
    was, frame = (
        Frame.from_anchors(lib.from_numpy(anchors)),
        Frame.from_anchors(lib.from_numpy(factor * anchors @ turn + step)),
    )
    assert frame.scale == pytest.approx(factor * was.scale, rel=1e-9)
    np.testing.assert_allclose(
        lib.to_numpy(frame.unit_anchors), lib.to_numpy(was.unit_anchors) @ turn, atol=1e-9
    )
    np.testing.assert_allclose(
        lib.to_numpy(frame.mean), factor * lib.to_numpy(was.mean) @ turn + step, rtol=1e-9
    )


def test_anchor_at_the_mean_keeps_its_index_and_is_left_out_of_the_scale(lib: ArrayLibrary) -> None:
    anchors = np.array([[1.0, 0], [3, 0], [2, 2], [2, 0], [2, -2]])
    frame = Frame.from_anchors(lib.from_numpy(anchors))
    np.testing.assert_array_equal(
        lib.to_numpy(frame.unit_anchors), [[-1, 0], [1, 0], [0, 1], [0, 0], [0, -1]]
    )
    assert frame.scale == pytest.approx((1 + 1 + 2 + 2) / 4)


@pytest.mark.parametrize(("length", "nonzero"), [(1e-7, True), (1e-9, False)])
def test_distance_from_the_mean_is_relative_to_the_farthest_anchor(
    lib: ArrayLibrary, length: float, nonzero: bool
) -> None:
    # In pairs of opposites, so that the mean is exactly zero.
    anchors = np.array([[1.0, 0], [-1, 0], [0, length], [0, -length]])
    frame = Frame.from_anchors(lib.from_numpy(anchors))
    assert bool(lib.to_numpy(frame.unit_anchors)[2, 1] == 1.0) is nonzero
    assert frame.scale == pytest.approx(0.5 + length / 2 if nonzero else 1.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.int64])
def test_frame_of_any_real_dtype_is_float64(lib: ArrayLibrary, dtype: type) -> None:
    anchors: NDArray[Any] = np.array([[1, 2], [3, -4], [-5, 6]], dtype)
    np.testing.assert_allclose(
        lib.to_numpy(Frame.from_anchors(lib.from_numpy(anchors)).unit_anchors),
        lib.to_numpy(Frame.from_anchors(lib.from_numpy(anchors.astype(np.float64))).unit_anchors),
    )


@pytest.mark.parametrize("step", [0.0, 1e6])
def test_mean_that_is_zero_but_for_rounding_is_zero(lib: ArrayLibrary, step: float) -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 3))
    anchors = np.vstack([rows, -rows]) + np.array([0, step, 0])
    mean = lib.to_numpy(Frame.from_anchors(lib.from_numpy(anchors)).mean)
    assert mean[0] == mean[2] == 0
    assert mean[1] == pytest.approx(step, rel=1e-12)


GOOD = np.array([[1.0, 0], [0, 1], [2, 2]])


@pytest.mark.parametrize(
    ("anchors", "message"),
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
def test_anchors_without_a_frame_are_refused(
    lib: ArrayLibrary, anchors: np.ndarray, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Frame.from_anchors(lib.from_numpy(anchors))


def test_converted_frame_is_equal() -> None:
    frame = Frame.from_anchors(GOOD)
    moved = frame.convert_arrays(lambda x: x.astype(np.float32))
    assert (moved.mean.dtype, moved.unit_anchors.dtype, moved.scale) == (
        np.float32,
        np.float32,
        frame.scale,
    )


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_unit_rows_have_norm_one_and_the_direction_of_x(lib: ArrayLibrary, size: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 5))
    actual = lib.to_numpy(unit_rows(lib.from_numpy(rows * size), lib.from_numpy(np.zeros(5))))
    np.testing.assert_allclose(actual, plain_unit(rows, np.zeros(5)), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_row_at_the_mean_within_rounding_has_no_direction(lib: ArrayLibrary, dtype: type) -> None:
    mean = np.random.default_rng(0).normal(size=50) * 7
    step = np.zeros(50)
    step[3] = 10 * np.finfo(dtype).eps * np.linalg.norm(mean)
    rows: NDArray[Any] = np.stack(
        [mean, mean + step, np.full(50, np.nan), np.full(50, np.inf)]
    ).astype(dtype)
    actual = lib.to_numpy(unit_rows(lib.from_numpy(rows), lib.from_numpy(mean)))
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), [0, 1, 0, 0], atol=1e-12)


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_normalise_of_any_row_is_unit_or_zero(rows: list[list[float]]) -> None:
    x = np.array(rows, np.float32)
    unit, length = normalise(x)
    sound = np.isfinite(x).all(axis=1) & (x != 0).any(axis=1)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), sound, atol=1e-6)
    np.testing.assert_array_equal(length > 0, sound)


def test_relative_representation_is_the_cosines_to_the_anchors(lib: ArrayLibrary) -> None:
    w = make_spaces(30, 12, 5)
    frame = Frame.from_anchors(lib.from_numpy(w.x_anchors))
    mean = w.x_anchors.mean(0)
    actual = lib.to_numpy(relative_representation(lib.from_numpy(w.x), frame))
    np.testing.assert_allclose(
        actual, cosine_similarity(w.x - mean, w.x_anchors - mean), atol=1e-12
    )
    assert actual.shape == (40, 30)
    assert np.abs(actual).max() <= 1


@given(seed=st.integers(0, 1000), factor=st.floats(1e-3, 1e3), step=st.floats(-1e3, 1e3))
def test_relative_representation_ignores_rotation_scaling_and_translation(
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


def test_relative_representation_changes_when_samples_alone_are_scaled() -> None:
    w = make_spaces(15, 6, 4)
    frame = Frame.from_anchors(w.x_anchors)
    assert (
        np.abs(relative_representation(2 * w.x, frame) - relative_representation(w.x, frame)).max()
        > 0.1
    )


def test_frames_compare_by_identity() -> None:
    # An elementwise comparison of arrays has no truth value.
    frame = Frame.from_anchors(GOOD)
    assert frame == frame
    assert frame != Frame(frame.mean, frame.scale, frame.unit_anchors)
