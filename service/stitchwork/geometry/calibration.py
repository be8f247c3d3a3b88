"""Calibration: how likely a prediction is to be correct, learnt from a labelled sample.

    logits ──softmax──> log-odds of the best class ──Calibration──> probability of being correct

Samples are small and in host memory, so this part of the method is plain numpy in float64.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError

Floats = NDArray[np.float64]

BINS: Final = 15
MAX_LOG_ODDS: Final = 40.0
"""Log-odds are limited to this, one in 1e17: larger ones are rounding error."""
MIN_SLOPE: Final = 1e-3
"""Confidence must increase with the score; where a sample contradicts this it is almost
constant."""
PRIOR_PRECISIONS: Final = (4.0, 0.25)
"""Of the normal priors of the slope about 1 and of the offset about 0: they outweigh a handful of
labels, and a hundred labels outweigh them."""
MAX_STEPS: Final = 50
STEP_TOLERANCE: Final = 1e-9
LOSS_RTOL: Final = 1e-12
CONFIDENCE_LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence as a logistic function of the best class's log-odds.

    Attributes:
        slope: Factor of the log-odds, more than 0: a higher score never has a lower confidence.
        offset: Added to the product, in log-odds.
    """

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, odds: NDArray[Any]) -> Floats:
        """Confidence in [0, 1] of (n,) log-odds; with slope 1 and offset 0, the softmax itself."""
        scores: Floats = np.asarray(odds, np.float64)
        return _logistic(self.slope * scores + self.offset)


class ReliabilityBin(NamedTuple):
    """One bar of a reliability diagram.

    Attributes:
        low: Lower bound of its confidences.
        high: Upper bound.
        size: Number of predictions in it.
        confidence: Their mean confidence.
        accuracy: The share of them that is correct.
    """

    low: float
    high: float
    size: int
    confidence: float
    accuracy: float


def log_odds(probabilities: NDArray[Any]) -> Floats:
    """Log-odds of the best class against all others.

    Args:
        probabilities: (n, c) softmax of a head's logits.

    Returns:
        (n,) log(p / (1 − p)) of each row's largest probability p, within ±40. Computed from the
        sum of the others, which distinguishes rows whose float32 p is 1.
    """
    ordered = np.sort(np.asarray(probabilities, np.float64), axis=1)
    tiny = math.exp(-MAX_LOG_ODDS)
    best, rest = ordered[:, -1], ordered[:, :-1].sum(axis=1)
    odds: Floats = np.log(np.maximum(best, tiny)) - np.log(np.maximum(rest, tiny))
    return np.clip(odds, -MAX_LOG_ODDS, MAX_LOG_ODDS)


def joint_log_odds(probabilities: NDArray[Any], decisions: NDArray[np.bool_]) -> Floats:
    """Log-odds that every decision about independent labels is correct.

    Args:
        probabilities: (n, c) probability of each label.
        decisions: (n, c) whether each label was predicted.

    Returns:
        (n,) log(q / (1 − q)), within ±40, of the product q over a row's labels of the probability
        of what was decided.
    """
    p = np.asarray(probabilities, np.float64)
    tiny = math.exp(-MAX_LOG_ODDS)
    log_q = np.log(np.maximum(np.where(decisions, p, 1 - p), tiny)).sum(axis=1)
    odds: Floats = log_q - np.log(np.maximum(-np.expm1(log_q), tiny))
    return np.clip(odds, -MAX_LOG_ODDS, MAX_LOG_ODDS)


def fit_calibration(odds: NDArray[Any], correct: NDArray[np.bool_]) -> Calibration:
    """The calibration of a labelled sample.

    Args:
        odds: (n,) log-odds of each prediction, such as those of the best class.
        correct: (n,) whether each prediction was correct.

    Returns:
        The most probable slope and offset under weak priors about the head's own softmax, which
        is the result for an empty sample. Finite, and increasing, also where every prediction is
        correct, or none, or the correct ones have the lower scores.

    Raises:
        InvalidInputError: If the two arrays differ in shape or are not one-dimensional.

    Source:
        Platt, Probabilistic Outputs for Support Vector Machines, 1999; Guo et al., On Calibration
        of Modern Neural Networks, 2017, arXiv 1706.04599. The priors are ours.
    """
    x, y = check_sample(odds, correct)
    design = np.stack([x, np.ones_like(x)], axis=1)
    estimate, prior_mean = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    precision = np.diag(PRIOR_PRECISIONS)
    loss = _loss(estimate, design, y, prior_mean)
    for _ in range(MAX_STEPS):
        p = _logistic(design @ estimate)
        gradient = design.T @ (p - y) + precision @ (estimate - prior_mean)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + precision
        step = np.linalg.solve(curvature, gradient)
        if np.abs(step).max() < STEP_TOLERANCE:
            break
        # Newton's step may overshoot where the sample is saturated.
        max_loss = loss + LOSS_RTOL * abs(loss)
        while (new_loss := _loss(estimate - step, design, y, prior_mean)) > max_loss:
            step = step / 2
        estimate, loss = estimate - step, new_loss
    slope, offset = estimate.tolist()
    if slope < MIN_SLOPE:
        share = (y.sum() + 0.5) / (len(y) + 1)
        return Calibration(MIN_SLOPE, math.log(share / (1 - share)) - MIN_SLOPE * x.mean())
    return Calibration(slope, offset)


def auroc(scores: NDArray[Any], correct: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve of scores as a classifier of correct predictions.

    Args:
        scores: (n,); any increasing function of them gives the same result.
        correct: (n,) bool.

    Returns:
        The probability that a correct prediction has a higher score than a wrong one, ties counted
        half: 0.5 is chance, 1 is perfect. None where all are correct, or all wrong.

    Raises:
        InvalidInputError: If the two arrays differ in shape or are not one-dimensional.
    """
    x, y = check_sample(scores, correct)
    right, wrong = int(y.sum()), int(len(y) - y.sum())
    if not right or not wrong:
        return None
    _, positions, counts = np.unique(x, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_ranks[positions][y == 1].sum())
    return (rank_sum - right * (right + 1) / 2) / (right * wrong)


def reliability_bins(
    confidence: NDArray[Any], correct: NDArray[np.bool_], bins: int = BINS
) -> list[ReliabilityBin]:
    """The bars of a reliability diagram.

    Args:
        confidence: (n,) in [0, 1].
        correct: (n,) bool.
        bins: Number of bins of equal width.

    Returns:
        The bins that are not empty, from low to high; their sizes sum to n.

    Raises:
        InvalidInputError: If the two arrays differ in shape or are not one-dimensional, or there is
            no bin.
    """
    x, y = check_sample(confidence, correct)
    if bins < 1:
        raise InvalidInputError(f"expected at least 1 bin, got {bins}")
    positions = np.clip((x * bins).astype(np.int64), 0, bins - 1)
    return [
        ReliabilityBin(
            low=b / bins,
            high=(b + 1) / bins,
            size=int(members.sum()),
            confidence=float(x[members].mean()),
            accuracy=float(y[members].mean()),
        )
        for b in range(bins)
        if (members := positions == b).any()
    ]


def expected_calibration_error(
    confidence: NDArray[Any], correct: NDArray[np.bool_], bins: int = BINS
) -> float:
    """Mean distance between confidence and accuracy over bins, weighted by their sizes.

    Args:
        confidence: (n,) in [0, 1].
        correct: (n,) bool.
        bins: Number of bins of equal width.

    Returns:
        In [0, 1]. Biased upwards on small samples, whose bins deviate by chance alone.

    Raises:
        InvalidInputError: If the two arrays differ in shape, are not one-dimensional or are empty,
            or there is no bin.

    Source:
        Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, 2015.
    """
    diagram = reliability_bins(confidence, correct, bins)
    if not diagram:
        raise InvalidInputError("expected at least one prediction, got none")
    total = sum(bar.size for bar in diagram)
    return sum(bar.size * abs(bar.confidence - bar.accuracy) for bar in diagram) / total


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95% confidence interval of a share.

    Args:
        successes: How many of n, 0 to n.
        n: At least 1.

    Returns:
        The bounds, within [0, 1], with successes / n between them.

    Source:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    # Imported here because scipy.stats is slow to import and only reports need it.
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(CONFIDENCE_LEVEL, "wilson")
    return float(low), float(high)


def check_sample(values: NDArray[Any], correct: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Values (n,) of predictions, and 1 for each that is correct, as float64.

    Raises:
        InvalidInputError: If the two arrays differ in shape or are not one-dimensional.
    """
    x, y = np.asarray(values, np.float64), np.asarray(correct, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InvalidInputError(
            f"expected two arrays of one shape (n,), got {x.shape} and {y.shape}"
        )
    return x, y


def _loss(estimate: Floats, design: Floats, y: Floats, prior_mean: Floats) -> float:
    z = design @ estimate
    # log(1 + exp z) − y z, without overflow.
    fit = np.logaddexp(0.0, z) - y * z
    return float(
        fit.sum() + 0.5 * (np.array(PRIOR_PRECISIONS) * (estimate - prior_mean) ** 2).sum()
    )


def _logistic(z: Floats) -> Floats:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * z))
