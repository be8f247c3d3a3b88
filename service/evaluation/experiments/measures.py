"""What the experiments measure: numbers from arrays, each from rows of equal index."""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.client import Floats
from service.geometry.relative import Frame, unit_rows

Labels = NDArray[np.int64]
Z95: Final = 1.959964
BINS: Final = 15


class Retrieval(NamedTuple):
    """How well translated rows find their own item among the target's rows.

    Attributes:
        recall1: Share whose own item is the nearest.
        recall10: Share whose own item is among the ten nearest.
        overlap10: Mean share of the true row's ten nearest among the translated row's.
    """

    recall1: float
    recall10: float
    overlap10: float


def cosines(a: Floats, b: Floats, mean: NDArray[Any] | None = None) -> float:
    """Mean cosine between rows of equal index, about a mean or about the origin.

    Args:
        a: (n, d).
        b: (n, d).
        mean: (d,) that both are seen from; None for the origin, as the paper has it.

    Returns:
        In [−1, 1]; a row without a direction counts as 0.
    """
    about = np.zeros(a.shape[1], np.float32) if mean is None else mean.astype(np.float32)
    return float(np.mean(np.vecdot(unit_rows(a, about), unit_rows(b, about))))


def retrieval(found: Floats, true: Floats, seen: Frame, neighbours: int = 10) -> Retrieval:
    """Nearest rows by cosine about the target's mean.

    Args:
        found: (n, d) translated rows, the queries.
        true: (n, d) rows of the same inputs in the target, the gallery.
        seen: The target's frame.
        neighbours: How many count as near.

    Returns:
        Shares in [0, 1]; an item as close as the query's own counts against it.
    """
    mean = np.asarray(seen.mean, np.float32)
    gallery = unit_rows(true, mean)
    scores = unit_rows(found, mean) @ gallery.T
    own = np.diagonal(scores)[:, None]
    rank = np.sum(scores >= own, axis=1) - 1
    near = min(neighbours, len(true))
    ours, theirs = (_nearest(s, near) for s in (scores, gallery @ gallery.T))
    shared = [len(np.intersect1d(a, b)) for a, b in zip(ours, theirs, strict=True)]
    return Retrieval(
        float(np.mean(rank < 1)), float(np.mean(rank < near)), float(np.mean(shared)) / near
    )


def _nearest(scores: Floats, count: int) -> NDArray[np.int64]:
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]


def auroc(confidence: NDArray[Any], right: NDArray[np.bool_]) -> float | None:
    """Chance that a right prediction has more confidence than a wrong one; ties count half.

    Args:
        confidence: (n,).
        right: (n,).

    Returns:
        In [0, 1]; None where all predictions are right, or none is.
    """
    from scipy.stats import rankdata

    good = int(np.sum(right))
    bad = len(right) - good
    if not good or not bad:
        return None
    ranks = rankdata(confidence)
    return float((np.sum(ranks[right]) - good * (good + 1) / 2) / (good * bad))


class Reliability(NamedTuple):
    """Confidence against accuracy, in bins of equal width.

    Attributes:
        error: Expected calibration error: mean gap between the two, weighted by rows.
        confidence: Mean confidence of each bin that holds a row.
        accuracy: Share of right predictions in it.
        rows: Rows in it.
    """

    error: float
    confidence: list[float]
    accuracy: list[float]
    rows: list[int]


def reliability(
    confidence: NDArray[Any], right: NDArray[np.bool_], bins: int = BINS
) -> Reliability:
    """How far confidence can be read as a probability.

    Args:
        confidence: (n,) in [0, 1].
        right: (n,) whether the prediction was right.
        bins: Number of bins over [0, 1].

    Source:
        Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    place = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    filled = [place == i for i in range(bins) if np.any(place == i)]
    said = [float(np.mean(confidence[at])) for at in filled]
    true = [float(np.mean(right[at])) for at in filled]
    rows = [int(np.sum(at)) for at in filled]
    gaps = [abs(a - b) * n for a, b, n in zip(said, true, rows, strict=True)]
    return Reliability(sum(gaps) / len(right), said, true, rows)


class Correlation(NamedTuple):
    """Pearson's r with its 95% interval; None where it is not defined."""

    r: float | None
    low: float | None
    high: float | None
    points: int


def correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Pearson's r and Fisher's 95% interval, which takes the points as independent.

    Args:
        x: n numbers.
        y: n numbers.

    Returns:
        Not defined below four points, or where either does not vary.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n = len(a)
    if n < 4 or np.ptp(a) < 1e-12 or np.ptp(b) < 1e-12:
        return Correlation(None, None, None, n)
    r = float(np.clip(np.corrcoef(a, b)[0, 1], -1.0, 1.0))
    z = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))
    half = Z95 / math.sqrt(n - 3)
    return Correlation(r, math.tanh(z - half), math.tanh(z + half), n)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation."""
    return float(np.mean(values)), float(np.std(values))
