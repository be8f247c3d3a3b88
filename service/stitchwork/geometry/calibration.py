"""How far a prediction can be trusted, learnt from a labelled sample, and how well that was learnt.

    scores ──softmax──> log-odds of the best class ──calibrate──> probability of being correct

Samples are small and stay on the host, so this part of the method is plain numpy in float64.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError

Floats = NDArray[np.float64]

BINS: Final = 15
LIMIT: Final = 40.0
"""Log-odds beyond this, one in 1e17, are rounding."""
LEAST_SLOPE: Final = 1e-3
"""Confidence must rise with the score; where a sample says otherwise it is all but constant."""
PRIOR: Final = (4.0, 0.25)
"""Precisions of the normal priors of the slope about 1 and of the offset about 0: a handful of
labels cannot overturn them, and a hundred hardly feel them."""
STEPS: Final = 50
SETTLED: Final = 1e-9
ROUNDING: Final = 1e-12
Z95: Final = 1.959964


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence as a logistic function of the best class's log-odds.

    Attributes:
        slope: Factor of the log-odds, more than 0: a higher score is never trusted less.
        offset: What is added, in log-odds.
    """

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, odds: NDArray[Any]) -> Floats:
        """Confidence in [0, 1] of (n,) log-odds; without slope and offset, the softmax itself."""
        scores: Floats = np.asarray(odds, np.float64)
        return _logistic(self.slope * scores + self.offset)


class Bin(NamedTuple):
    """One bar of a reliability plot.

    Attributes:
        low: Least confidence in it.
        high: Largest.
        size: How many predictions.
        confidence: Their mean confidence.
        accuracy: The share of them that is correct.
    """

    low: float
    high: float
    size: int
    confidence: float
    accuracy: float


def log_odds(probabilities: NDArray[Any]) -> Floats:
    """The best class against all others.

    Args:
        probabilities: (n, c) softmax of a head's scores.

    Returns:
        (n,) log(p / (1 − p)) of each row's largest probability p, within ±40. Taken from the sum
        of the others, which tells apart what a float32 p of 1 no longer does.
    """
    shares = np.sort(np.asarray(probabilities, np.float64), axis=1)
    tiny = math.exp(-LIMIT)
    best, rest = shares[:, -1], shares[:, :-1].sum(axis=1)
    odds: Floats = np.log(np.maximum(best, tiny)) - np.log(np.maximum(rest, tiny))
    return np.clip(odds, -LIMIT, LIMIT)


def calibrate(odds: NDArray[Any], correct: NDArray[np.bool_]) -> Calibration:
    """The calibration that a labelled sample asks for.

    Args:
        odds: (n,) log-odds of the best class.
        correct: (n,) whether it was the right one.

    Returns:
        The most probable slope and offset under mild priors about the head's own softmax, which
        an empty sample leaves as it is. Finite, and increasing, also where every prediction is
        correct, or none, or the correct ones have the lower scores.

    Raises:
        InvalidInputError: If there is not one of each.

    Source:
        Platt, Probabilistic Outputs for Support Vector Machines, 1999; Guo et al., On Calibration
        of Modern Neural Networks, 2017, arXiv 1706.04599. The priors are ours.
    """
    x, y = _paired(odds, correct)
    design = np.stack([x, np.ones_like(x)], axis=1)
    at, centre = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    precision = np.diag(PRIOR)
    value = _loss(at, design, y, centre)
    for _ in range(STEPS):
        p = _logistic(design @ at)
        gradient = design.T @ (p - y) + precision @ (at - centre)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + precision
        step = np.linalg.solve(curvature, gradient)
        if np.abs(step).max() < SETTLED:
            break
        # Newton's step may overshoot where the sample is saturated.
        while (found := _loss(at - step, design, y, centre)) > value + ROUNDING * abs(value):
            step = step / 2
        at, value = at - step, found
    slope, offset = at.tolist()
    if slope < LEAST_SLOPE:
        share = (y.sum() + 0.5) / (len(y) + 1)
        return Calibration(LEAST_SLOPE, math.log(share / (1 - share)) - LEAST_SLOPE * x.mean())
    return Calibration(slope, offset)


def auroc(scores: NDArray[Any], correct: NDArray[np.bool_]) -> float | None:
    """How well scores tell correct predictions from wrong ones.

    Args:
        scores: (n,), any increasing function of them gives the same answer.
        correct: (n,) bool.

    Returns:
        The chance that a correct prediction has a higher score than a wrong one, ties counted
        half: 0.5 says nothing, 1 everything. None where all are correct, or all wrong.

    Raises:
        InvalidInputError: If there is not one of each.
    """
    x, y = _paired(scores, correct)
    right, wrong = int(y.sum()), int(len(y) - y.sum())
    if not right or not wrong:
        return None
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    ranks = float(middle[place][y == 1].sum())
    return (ranks - right * (right + 1) / 2) / (right * wrong)


def reliability(
    confidence: NDArray[Any], correct: NDArray[np.bool_], bins: int = BINS
) -> list[Bin]:
    """What a reliability plot shows.

    Args:
        confidence: (n,) in [0, 1].
        correct: (n,) bool.
        bins: Bins of equal width.

    Returns:
        The bins that hold something, from low to high; their sizes sum to n.

    Raises:
        InvalidInputError: If there is not one of each, or no bin.
    """
    x, y = _paired(confidence, correct)
    if bins < 1:
        raise InvalidInputError(f"expected at least 1 bin, got {bins}")
    place = np.clip((x * bins).astype(np.int64), 0, bins - 1)
    return [
        Bin(b / bins, (b + 1) / bins, int(held.sum()), float(x[held].mean()), float(y[held].mean()))
        for b in range(bins)
        if (held := place == b).any()
    ]


def expected_calibration_error(
    confidence: NDArray[Any], correct: NDArray[np.bool_], bins: int = BINS
) -> float:
    """Mean distance between confidence and accuracy over bins, weighted by what they hold.

    Args:
        confidence: (n,) in [0, 1].
        correct: (n,) bool.
        bins: Bins of equal width.

    Returns:
        In [0, 1]. Small samples raise it: bins of few predictions are off by chance alone.

    Raises:
        InvalidInputError: If there is not one of each, there are none, or no bin.

    Source:
        Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, 2015.
    """
    found = reliability(confidence, correct, bins)
    if not found:
        raise InvalidInputError("expected at least one prediction, got none")
    total = sum(held.size for held in found)
    return sum(held.size * abs(held.confidence - held.accuracy) for held in found) / total


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share.

    Args:
        successes: How many of n, 0 to n.
        n: At least 1.

    Returns:
        The bounds, within [0, 1], with successes / n between them.

    Source:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    share = successes / n
    middle = share + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _paired(values: NDArray[Any], correct: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    x, y = np.asarray(values, np.float64), np.asarray(correct, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InvalidInputError(f"expected one value each, got shapes {x.shape} and {y.shape}")
    return x, y


def _loss(at: Floats, design: Floats, y: Floats, centre: Floats) -> float:
    z = design @ at
    # log(1 + exp z) − y z, without overflow.
    fit = np.logaddexp(0.0, z) - y * z
    return float(fit.sum() + 0.5 * (np.array(PRIOR) * (at - centre) ** 2).sum())


def _logistic(z: Floats) -> Floats:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * z))
