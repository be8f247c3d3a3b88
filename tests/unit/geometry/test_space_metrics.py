"""Metrics of spaces against plain computations."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import paired_distances

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.diagnostics.space_metrics import (
    agreement,
    head_confidence,
    mean_cosine,
    neighbour_confidence,
    norm_statistics,
    spectrum,
)
from stitchwork.geometry.frame import Frame
from tests.support.latent_spaces import ArrayLibrary, Floats, make_spaces, plain_unit, rotation


@pytest.mark.parametrize(("k", "d"), [(9, 16), (16, 16), (60, 16)])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_spectrum_equals_that_of_the_singular_values(
    lib: ArrayLibrary, k: int, d: int, noise: float
) -> None:
    anchors = make_spaces(k, d, 4, latent=5, noise=noise).x_anchors
    values = np.linalg.svd(plain_unit(anchors, anchors.mean(0)), compute_uv=False)
    significant = values[values > 1e-6 * values[0]]
    rank, condition = spectrum(Frame.from_anchors(lib.from_numpy(anchors)))
    assert rank == len(significant) == (5 if noise == 0 else min(k - 1, d))
    assert condition == pytest.approx(significant[0] / significant[-1], rel=1e-5)


@pytest.mark.parametrize(("size", "rank"), [(1e-5, 2), (1e-7, 1)])
def test_rank_counts_directions_above_a_millionth_of_the_largest(
    lib: ArrayLibrary, size: float, rank: int
) -> None:
    anchors = np.array([[1, size], [1, -size], [-1, size], [-1, -size]])
    actual = spectrum(Frame.from_anchors(lib.from_numpy(anchors)))
    assert actual.rank == rank
    assert actual.condition == pytest.approx(1 / size if rank == 2 else 1.0, rel=1e-4)


def plain_agreement(a: Floats, b: Floats) -> float:
    above = np.triu_indices(len(a), 1)
    x, y = (plain_unit(rows, rows.mean(0)) for rows in (a, b))
    return float(np.corrcoef((x @ x.T)[above], (y @ y.T)[above])[0, 1])


@pytest.mark.parametrize("k", [5, 60, 1024])
def test_agreement_is_the_correlation_of_all_pairs_of_cosines(lib: ArrayLibrary, k: int) -> None:
    w = make_spaces(k, 12, 20, noise=1.0)
    x, y = (
        Frame.from_anchors(lib.from_numpy(w.x_anchors)),
        Frame.from_anchors(lib.from_numpy(w.y_anchors)),
    )
    actual = agreement(x, y)
    assert actual == pytest.approx(plain_agreement(w.x_anchors, w.y_anchors), abs=1e-9)
    assert agreement(y, x) == pytest.approx(actual, abs=1e-12)
    assert agreement(x.unit_anchors, y.unit_anchors) == actual


def test_agreement_of_many_anchors_uses_evenly_spaced_ones(lib: ArrayLibrary) -> None:
    w = make_spaces(2500, 6, 7, noise=1.0)
    x, y = Frame.from_anchors(w.x_anchors), Frame.from_anchors(w.y_anchors)
    some = [i * 2500 // 1024 for i in range(1024)]
    above = np.triu_indices(1024, 1)
    pairs = [(frame.unit_anchors[some] @ frame.unit_anchors[some].T)[above] for frame in (x, y)]
    actual = agreement(x.convert_arrays(lib.from_numpy), y.convert_arrays(lib.from_numpy))
    assert actual == pytest.approx(np.corrcoef(*pairs)[0, 1], abs=1e-9)


def test_agreement_is_one_for_a_moved_copy_and_near_zero_for_shuffled_or_other_anchors(
    lib: ArrayLibrary,
) -> None:
    w = make_spaces(300, 12, 20)
    shuffled = np.random.default_rng(1).permutation(w.y_anchors)
    foreign = make_spaces(300, 12, 20, seed=9).y_anchors
    moved = 5 * w.x_anchors @ rotation(12) - 2
    x = Frame.from_anchors(lib.from_numpy(w.x_anchors))
    actual = [
        agreement(x, Frame.from_anchors(lib.from_numpy(a)))
        for a in (moved, w.y_anchors, shuffled, foreign)
    ]
    assert actual[0] == pytest.approx(1.0, abs=1e-9)
    assert actual[0] <= 1.0
    assert actual[1] > 0.6
    assert max(map(abs, actual[2:])) < 0.05


@pytest.mark.parametrize("k", [2, 3, 50])
def test_agreement_of_equal_cosines_is_zero(lib: ArrayLibrary, k: int) -> None:
    simplex, other = (
        Frame.from_anchors(lib.from_numpy(np.eye(k))),
        Frame.from_anchors(lib.from_numpy(make_spaces(k, 6, 7).y_anchors)),
    )
    assert agreement(simplex, other) == 0.0
    assert agreement(simplex, simplex) == 0.0
    turned = (7 * np.eye(k) @ rotation(k) + 2).astype(np.float32)
    rounded = Frame.from_anchors(lib.from_numpy(turned))
    assert agreement(rounded, other) == agreement(rounded, rounded) == 0.0


def test_agreement_of_different_numbers_of_anchors_is_refused() -> None:
    a, b = (
        Frame.from_anchors(make_spaces(20, 5, 4).x_anchors),
        Frame.from_anchors(make_spaces(21, 5, 4).x_anchors),
    )
    with pytest.raises(InvalidInputError, match="got 20 and 21"):
        agreement(a, b)


def test_mean_cosine_equals_its_formula(lib: ArrayLibrary) -> None:
    a, b = (np.random.default_rng(seed).normal(size=(30, 7)) + 0.5 for seed in (0, 1))
    expected = 1 - paired_distances(a, b, metric="cosine").mean()
    assert mean_cosine(lib.from_numpy(a), lib.from_numpy(b)) == pytest.approx(expected, abs=1e-12)
    assert mean_cosine(lib.from_numpy(a), lib.from_numpy(1e30 * a)) == pytest.approx(1.0)
    assert mean_cosine(lib.from_numpy(a), lib.from_numpy(-a)) == pytest.approx(-1.0)


def test_mean_cosine_counts_a_zero_row_as_zero(lib: ArrayLibrary) -> None:
    a = np.array([[1.0, 0], [0, 0]], np.float32)
    assert mean_cosine(lib.from_numpy(a), lib.from_numpy(a)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (3, 5)), ((3, 4), (2, 4)), ((0, 4), (0, 4)), ((4,), (4,))]
)
def test_mean_cosine_of_different_shapes_is_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="rows of one shape"):
        mean_cosine(np.ones(a), np.ones(b))


def test_norm_statistics_are_float64_about_the_origin(lib: ArrayLibrary) -> None:
    x = (1e30 * np.random.default_rng(0).normal(size=(50, 7)) + 1e30).astype(np.float32)
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    actual = norm_statistics(lib.from_numpy(x))
    assert actual.mean == pytest.approx(lengths.mean(), rel=1e-12)
    assert actual.std == pytest.approx(lengths.std(), rel=1e-9)
    with pytest.raises(InvalidInputError, match="at least one row"):
        norm_statistics(np.ones((0, 3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("k", "neighbours"), [(60, 10), (60, 1), (6, 10), (10, 10)])
def test_neighbour_confidence_is_the_mean_of_the_largest_cosines(
    lib: ArrayLibrary, k: int, neighbours: int, dtype: type
) -> None:
    w = make_spaces(k, 6, 12)
    frame = Frame.from_anchors(lib.from_numpy(w.y_anchors))
    mean = w.y_anchors.mean(0)
    cosines = plain_unit(w.y, mean) @ plain_unit(w.y_anchors, mean).T
    expected = np.clip(np.sort(cosines, axis=1)[:, -neighbours:].mean(1), 0, 1)
    actual = lib.to_numpy(
        neighbour_confidence(lib.from_numpy(w.y.astype(dtype)), frame, neighbours)
    )
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert expected.std() > 0.01


def test_neighbour_confidence_is_zero_at_the_mean_and_never_negative(lib: ArrayLibrary) -> None:
    anchors = np.array([[1.0, 0.1], [1, -0.1], [0.9, 0], [-4, 0]]) + 2
    frame = Frame.from_anchors(lib.from_numpy(anchors))
    mean = lib.to_numpy(frame.mean)
    y = (mean + np.array([[0, 0], [1, 0], [-1, 0]])).astype(np.float32)
    actual = lib.to_numpy(neighbour_confidence(lib.from_numpy(y), frame, 2))
    assert actual[0] == 0
    assert actual[1] > 0.99
    # The mean of a cosine of 1 and of one of almost −1, which all but cancel.
    assert actual[2] == pytest.approx(0, abs=0.01)
    assert lib.to_numpy(neighbour_confidence(lib.from_numpy(y), frame, 4))[2] == 0
    with pytest.raises(InvalidInputError, match="at least 1 neighbour, got 0"):
        neighbour_confidence(lib.from_numpy(y), frame, 0)


def test_neighbour_confidence_is_higher_for_samples_than_for_noise() -> None:
    w = make_spaces(300, 8, 40, latent=4)
    frame = Frame.from_anchors(w.y_anchors)
    noise = np.random.default_rng(0).normal(size=w.y.shape)
    noise = frame.mean + frame.scale * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    inside = neighbour_confidence(w.y, frame)
    assert inside.mean() > neighbour_confidence(noise, frame).mean() + 0.3


def test_head_confidence_is_the_largest_probability_of_defined_rows(
    lib: ArrayLibrary,
) -> None:
    shares = np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]], np.float32)
    defined = np.array([True, True, False])
    actual = lib.to_numpy(head_confidence(lib.from_numpy(shares), lib.from_numpy(defined)))
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, np.array([0.7, 0.8, 0], np.float32))
