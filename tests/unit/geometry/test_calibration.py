"""Calibration from few labels, and its measures against those of scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.calibration import (
    MIN_SLOPE,
    Calibration,
    Floats,
    auroc,
    expected_calibration_error,
    fit_calibration,
    log_odds,
    reliability_bins,
    wilson_interval,
)


def sample_of(
    n: int, slope: float, offset: float, seed: int = 0
) -> tuple[Floats, NDArray[np.bool_]]:
    """Log-odds, and correctness drawn from a known calibration."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(3, 3, n)
    return odds, rng.random(n) < Calibration(slope, offset)(odds)


def test_calibration_without_labels_is_the_softmax() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.25, 0.25, 0.5]])
    confidence = Calibration()(log_odds(probabilities))
    np.testing.assert_allclose(confidence, [0.7, 0.9, 0.5], rtol=1e-12)
    empty = fit_calibration(np.empty(0), np.empty(0, bool))
    assert (empty.slope, empty.offset) == (1, 0)


def test_log_odds_distinguish_float32_probabilities_of_one() -> None:
    probabilities = np.array([[1, 1e-9], [1, 1e-12], [1, 0], [0.5, 0.5]], np.float32)
    odds = log_odds(probabilities)
    np.testing.assert_allclose(odds[:2], [math.log(1e9), math.log(1e12)], rtol=1e-5)
    assert odds[2] == 40
    assert odds[3] == 0
    assert log_odds(np.ones((1, 1)))[0] == 40, "a head of one class"


@pytest.mark.parametrize(("slope", "offset"), [(0.3, 0.0), (1.0, -2.0), (2.0, 0.5)])
def test_calibration_of_many_labels_recovers_the_truth(slope: float, offset: float) -> None:
    odds, right = sample_of(20_000, slope, offset)
    calibration = fit_calibration(odds, right)
    assert calibration.slope == pytest.approx(slope, rel=0.1)
    assert calibration.offset == pytest.approx(offset, abs=0.15)
    other = LogisticRegression(C=1e9).fit(odds[:, None], right)
    assert calibration.slope == pytest.approx(other.coef_[0, 0], rel=0.01)
    test_odds, right = sample_of(20_000, slope, offset, seed=1)
    assert expected_calibration_error(calibration(test_odds), right) < 0.02


@given(
    st.lists(st.tuples(st.floats(-40, 40), st.booleans()), max_size=40),
)
def test_calibration_of_any_sample_is_finite_and_increasing(
    sample: list[tuple[float, bool]],
) -> None:
    odds = np.array([o for o, _ in sample], float)
    calibration = fit_calibration(odds, np.array([r for _, r in sample], bool))
    assert math.isfinite(calibration.offset)
    assert MIN_SLOPE <= calibration.slope < 100
    confidence = calibration(np.linspace(-40, 40, 81))
    assert ((confidence >= 0) & (confidence <= 1)).all()
    assert (np.diff(confidence) >= 0).all()


def test_calibration_of_twenty_correct_labels_is_not_certain() -> None:
    odds = np.linspace(0, 6, 20)
    assert fit_calibration(odds, np.ones(20, bool))(np.array([3.0]))[0] < 0.999
    assert fit_calibration(odds, np.zeros(20, bool))(np.array([3.0]))[0] > 0.001
    separated = fit_calibration(odds, odds > 3)
    assert separated.slope < 4


def test_calibration_is_almost_constant_when_correct_predictions_have_lower_scores() -> None:
    odds = np.linspace(0, 10, 200)
    calibration = fit_calibration(odds, odds < 5)
    assert calibration.slope == MIN_SLOPE
    assert calibration(odds) == pytest.approx(np.full(200, 0.5), abs=0.01)


def test_auroc_with_ties_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(500) < 0.7
    scores = np.round(rng.normal(size=500) + right, 1)
    assert auroc(scores, right) == pytest.approx(roc_auc_score(right, scores))
    assert auroc(scores, np.ones(500, bool)) is None
    assert auroc(np.ones(500), right) == 0.5


def test_expected_calibration_error_is_the_weighted_gap_of_each_bin() -> None:
    confidence = np.array([0.05, 0.05, 0.95, 0.95, 0.95, 1.0])
    right = np.array([False, True, True, True, True, False])
    bins = reliability_bins(confidence, right, 10)
    assert [(b.low, b.size) for b in bins] == [(0.0, 2), (0.9, 4)]
    assert bins[1].high == 1
    assert bins[1].accuracy == 0.75
    expected = (2 * 0.45 + 4 * abs(0.9625 - 0.75)) / 6
    assert expected_calibration_error(confidence, right, 10) == pytest.approx(expected)
    with pytest.raises(InvalidInputError, match="at least one prediction"):
        expected_calibration_error(np.empty(0), np.empty(0, bool))
    with pytest.raises(InvalidInputError, match="arrays of one shape"):
        auroc(np.ones(3), np.ones(2, bool))


@pytest.mark.parametrize(
    ("successes", "n", "bounds"),
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I.
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611))],
)
def test_wilson_interval_equals_published_values(
    successes: int, n: int, bounds: tuple[float, float]
) -> None:
    assert wilson_interval(successes, n) == pytest.approx(bounds, abs=5e-5)
    assert wilson_interval(n - successes, n) == pytest.approx(
        (1 - bounds[1], 1 - bounds[0]), abs=5e-5
    )
