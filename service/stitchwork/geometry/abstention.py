"""The confidence from which on predictions are accurate enough to act on."""

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.geometry.calibration import CONFIDENCE_LEVEL, check_sample

TAIL: Final = (1 - CONFIDENCE_LEVEL) / 2
"""Probability that a share is below its bound."""


class ConfidenceThreshold(NamedTuple):
    """Predictions of a labelled sample that are accepted by their confidence.

    Attributes:
        confidence: The smallest confidence that is accepted.
        accuracy: The share of the accepted predictions that is correct.
        interval: The 95% confidence interval of that share.
        coverage: The share of all predictions that is accepted.
    """

    confidence: float
    accuracy: float
    interval: tuple[float, float]
    coverage: float


def confidence_threshold(
    confidence: NDArray[Any], correct: NDArray[np.bool_], min_accuracy: float
) -> ConfidenceThreshold | None:
    """The smallest confidence from which on the sample assures an accuracy.

    Args:
        confidence: (n,) in [0, 1] of each prediction; those of 0 are never accepted.
        correct: (n,) whether each prediction is correct.
        min_accuracy: The accuracy that accepted predictions are to have, in (0, 1).

    Returns:
        The threshold that accepts the most predictions among those at which the exact lower bound
        of the accuracy is at least `min_accuracy`. Since the best of many thresholds is taken, the
        share of times that a bound misses, one in forty, is divided among the doublings of the
        number of accepted predictions; in simulations the result missed in fewer than one of twenty
        samples. None if there is no such threshold, such as in a sample that is too small.

    Raises:
        InvalidInputError: If the two arrays differ in shape or are not one-dimensional.

    Source:
        Clopper and Pearson, The Use of Confidence or Fiducial Limits Illustrated in the Case of
        the Binomial, 1934; El-Yaniv and Wiener, On the Foundations of Noise-free Selective
        Classification, 2010. The division among doublings is ours.
    """
    # Imported here because scipy.stats is slow to import and only reports need it.
    from scipy.stats import beta, binomtest

    values, right = check_sample(confidence, correct)
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    accepted = np.arange(1, len(order) + 1)
    successes = np.cumsum(right[order])
    doublings = math.log2(max(1.0, len(order) / correct_labels_needed(min_accuracy)))
    low = beta.ppf(TAIL / (1 + math.ceil(doublings)), successes, accepted - successes + 1)
    # Predictions of one confidence are accepted together.
    is_last = np.append(ordered[1:] < ordered[:-1], True)[: len(order)]
    (reached,) = np.nonzero(is_last & (ordered > 0) & (low >= min_accuracy))
    if not len(reached):
        return None
    last = int(reached[-1])
    count, correct_count = last + 1, int(successes[last])
    interval = binomtest(correct_count, count).proportion_ci(CONFIDENCE_LEVEL, "exact")
    return ConfidenceThreshold(
        float(ordered[last]),
        correct_count / count,
        (float(interval.low), float(interval.high)),
        count / len(order),
    )


def correct_labels_needed(min_accuracy: float) -> int:
    """How many predictions assure an accuracy if all of them are correct."""
    return math.ceil(math.log(TAIL) / math.log(min_accuracy))
