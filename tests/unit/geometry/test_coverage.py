"""Coverage distinguishes inputs like the anchors from others, from the anchors alone."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from stitchwork.geometry.coverage import FOLDS, MIN_ANCHORS, Coverage
from stitchwork.geometry.frame import Frame
from tests.support.latent_spaces import ArrayLibrary, Floats, make_spaces, plain_unit, rotation


def plain_threshold(anchors: Floats, axes: int) -> float:
    """The first percentile of the anchors' shares in the span of the other folds' axes."""
    unit = plain_unit(anchors, anchors.mean(0))
    shares = np.empty(len(unit))
    for i in range(FOLDS):
        test = np.arange(len(unit)) % FOLDS == i
        _, _, directions = np.linalg.svd(unit[~test])
        shares[test] = np.square(unit[test] @ directions[:axes].T).sum(1)
    return float(np.sort(shares)[len(anchors) // 100])


def test_threshold_is_the_lowest_percentile_of_validation_anchors(lib: ArrayLibrary) -> None:
    anchors = make_spaces(200, 8, 12, latent=5).y_anchors
    coverage = Coverage.from_frame(Frame.from_anchors(lib.from_numpy(anchors)))
    assert coverage.axes.shape == (12, 4)
    assert coverage.threshold == pytest.approx(plain_threshold(anchors, 4), abs=1e-6)


def test_coverage_ignores_rotation_scaling_and_translation(lib: ArrayLibrary) -> None:
    w = make_spaces(300, 8, 12, latent=5, n=200)
    rows = np.concatenate([w.y, np.random.default_rng(0).normal(size=w.y.shape)])
    one = Coverage.from_frame(Frame.from_anchors(lib.from_numpy(w.y_anchors)))
    rotated = 7 * w.y_anchors @ rotation(12) + 3
    other = Coverage.from_frame(Frame.from_anchors(lib.from_numpy(rotated)))
    assert other.threshold == pytest.approx(one.threshold, abs=1e-6)
    first = lib.to_numpy(one.covers(lib.from_numpy(rows.astype(np.float32))))
    again = lib.to_numpy(
        other.covers(lib.from_numpy((7 * rows @ rotation(12) + 3).astype(np.float32)))
    )
    np.testing.assert_array_equal(first, again)
    assert first[:200].mean() > 0.95
    assert first[200:].mean() < 0.5


def test_digits_cover_digits_but_neither_noise_nor_their_negatives() -> None:
    images, _ = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(images.astype(np.float32))
    anchors, test_rows = rows[:800], rows[800:]
    coverage = Coverage.from_frame(Frame.from_anchors(anchors))
    noise = np.random.default_rng(1).integers(0, 17, (300, 64)).astype(np.float32)
    assert coverage.axes.shape == (64, 21)
    assert coverage.covers(test_rows).mean() > 0.95
    assert coverage.covers(noise).mean() < 0.02
    assert coverage.covers(16 - test_rows).mean() < 0.05


def test_coverage_of_rows_at_the_mean_and_of_huge_rows(lib: ArrayLibrary) -> None:
    anchors = make_spaces(100, 8, 12, latent=5).y_anchors
    coverage = Coverage.from_frame(Frame.from_anchors(lib.from_numpy(anchors)))
    rows = np.stack([np.asarray(lib.to_numpy(coverage.mean)), np.full(12, 1e30), np.zeros(12)])
    actual = lib.to_numpy(coverage.covers(lib.from_numpy(rows.astype(np.float32))))
    assert actual.tolist()[:2] == [True, False], "the row at the mean, and a huge row"
    few = Coverage.from_frame(Frame.from_anchors(lib.from_numpy(anchors[: MIN_ANCHORS - 1])))
    assert lib.to_numpy(few.covers(lib.from_numpy(rows.astype(np.float32)))).all()
    assert coverage.nbytes == 4 * (12 + 12 * 4)
