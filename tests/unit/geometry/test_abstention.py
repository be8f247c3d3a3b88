"""Thresholds of confidence: what a sample assures holds for further predictions."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.abstention import confidence_threshold, correct_labels_needed


def test_threshold_accepts_as_many_predictions_as_the_interval_allows() -> None:
    # A hundred correct ones, then alternately wrong and correct.
    correct = np.r_[np.ones(100, bool), np.arange(100) % 2 == 1]
    confidence = np.linspace(0.99, 0.01, 200)
    threshold = confidence_threshold(confidence, correct, 0.9)
    assert threshold is not None
    doublings = math.ceil(math.log2(200 / correct_labels_needed(0.9)))
    level = 1 - 0.05 / (1 + doublings)
    bounds = [
        binomtest(int(correct[:n].sum()), n).proportion_ci(level, "exact").low
        for n in range(1, 201)
    ]
    count = max(n for n in range(1, 201) if bounds[n - 1] >= 0.9)
    assert 100 < count < 200
    assert threshold.confidence == confidence[count - 1]
    assert threshold.coverage == count / 200
    assert threshold.accuracy == pytest.approx(correct[:count].mean())
    exact = binomtest(int(correct[:count].sum()), count).proportion_ci(0.95, "exact")
    assert threshold.interval == pytest.approx((exact.low, exact.high))
    assert threshold.interval[0] > 0.9
    shuffled = np.random.default_rng(0).permutation(200)
    assert confidence_threshold(confidence[shuffled], correct[shuffled], 0.9) == threshold


def test_predictions_of_one_confidence_are_accepted_together() -> None:
    correct = np.r_[np.ones(100, bool), np.zeros(100, bool)]
    assert confidence_threshold(np.full(200, 0.7), correct, 0.9) is None
    threshold = confidence_threshold(np.r_[np.full(100, 0.7), np.full(100, 0.6)], correct, 0.9)
    assert threshold is not None
    assert (threshold.confidence, threshold.accuracy, threshold.coverage) == (0.7, 1.0, 0.5)
    assert confidence_threshold(np.zeros(200), np.ones(200, bool), 0.9) is None, "no direction"


@pytest.mark.parametrize("min_accuracy", [0.8, 0.95, 0.99])
def test_fewer_correct_labels_than_needed_assure_nothing(min_accuracy: float) -> None:
    needed = correct_labels_needed(min_accuracy)
    scores = np.linspace(0.5, 1.0, needed)
    assert confidence_threshold(scores, np.ones(needed, bool), min_accuracy) is not None
    assert confidence_threshold(scores[1:], np.ones(needed - 1, bool), min_accuracy) is None


def test_empty_sample_assures_nothing_and_unequal_shapes_are_refused() -> None:
    assert confidence_threshold(np.empty(0), np.empty(0, bool), 0.9) is None
    with pytest.raises(InvalidInputError, match="one shape"):
        confidence_threshold(np.ones(3), np.ones(2, bool), 0.9)


@pytest.mark.parametrize(("size", "min_accuracy"), [(300, 0.9), (1000, 0.95)])
def test_accuracy_that_a_sample_assures_holds_for_further_predictions(
    size: int, min_accuracy: float
) -> None:
    rng = np.random.default_rng(size)
    thresholds = []
    for _ in range(300):
        # Confidence that overstates the probability to be correct, and differs from it.
        probability = rng.beta(6, 1, size)
        confidence = probability ** (1 / 3)
        correct = rng.random(size) < probability
        threshold = confidence_threshold(confidence, correct, min_accuracy)
        thresholds += [] if threshold is None else [threshold.confidence]
    assert len(thresholds) > 150
    probability = rng.beta(6, 1, 200_000)
    order = np.sort(probability)[::-1]
    accuracies = np.cumsum(order) / np.arange(1, len(order) + 1)
    accepted = np.searchsorted(-(order ** (1 / 3)), -np.array(thresholds), side="right")
    is_reached = accuracies[accepted - 1] >= min_accuracy
    assert is_reached.mean() > 0.95


@pytest.mark.parametrize(("size", "min_accuracy"), [(100, 0.8), (1000, 0.95), (3000, 0.8)])
def test_confidence_that_says_nothing_rarely_assures_more_than_the_accuracy(
    size: int, min_accuracy: float
) -> None:
    rng = np.random.default_rng(size)
    confidence = np.linspace(1, 0.1, size)
    missed = [
        confidence_threshold(confidence, rng.random(size) < min_accuracy - 1e-3, min_accuracy)
        is not None
        for _ in range(400)
    ]
    assert np.mean(missed) < 0.05
