"""Measures of the experiments: cosines, retrieval, correlations."""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.geometry.frame import unit_rows

Z95: Final = 1.959964
"""The quantile of the standard normal distribution in a 95% interval."""

Labels = NDArray[np.int64]


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
        mean: (d,) that both are centred by; None for the origin, as in the paper.

    Returns:
        In [−1, 1]; a row without a direction counts as 0.
    """
    centre = np.zeros(a.shape[1], np.float32) if mean is None else mean.astype(np.float32)
    return float(np.mean(np.vecdot(unit_rows(a, centre), unit_rows(b, centre))))


class Gallery:
    """Rows among which items are searched, by cosine about a mean.

    Args:
        rows: (n, d) rows of the inputs that queries are translations of.
        mean: (d,) mean of the target's anchors.
        neighbours: How many nearest rows count.
    """

    def __init__(self, rows: Floats, mean: NDArray[Any], neighbours: int = 10) -> None:
        self._mean = mean.astype(np.float32)
        self._rows = unit_rows(rows, self._mean)
        self._neighbours = min(neighbours, len(rows))
        self._nearest = nearest(self._rows @ self._rows.T, self._neighbours)

    def retrieval(self, queries: Floats) -> Retrieval:
        """How well (n, d) translated rows find their own items.

        Returns:
            Shares in [0, 1]; another item at the same distance as the own one ranks before it.
        """
        scores = unit_rows(queries, self._mean) @ self._rows.T
        own = np.diagonal(scores)[:, None]
        rank = np.sum(scores >= own, axis=1) - 1
        shared = np.sum(nearest(scores, self._neighbours) & self._nearest, axis=1)
        return Retrieval(
            float(np.mean(rank < 1)),
            float(np.mean(rank < self._neighbours)),
            float(np.mean(shared)) / self._neighbours,
        )


def nearest(scores: Floats, count: int) -> NDArray[np.bool_]:
    """(n, m) bool, True for the `count` largest scores of each row."""
    result = np.zeros(scores.shape, np.bool_)
    indices = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    np.put_along_axis(result, indices, True, axis=1)
    return result


class StoreOverlaps(NamedTuple):
    """What is left of the ten nearest rows of a store when its model changes.

    Every row is a query once, searched among all other rows by cosine about the origin, as a store
    searches; each value is the mean share of true neighbours among the ten retrieved.

    Attributes:
        mq: Translated queries in the old store, against what the old model's queries find there.
        ms: Queries of the new model in the translated store, against a store embedded anew.
        mqx: Translated queries in the old store, against the new model in a store embedded anew.
    """

    mq: float
    ms: float
    mqx: float


def store_neighbours(rows: Floats, count: int = 10) -> NDArray[np.bool_]:
    """(n, n) bool, the nearest other rows of each row by cosine about the origin."""
    return nearest_others(_unit(rows) @ _unit(rows).T, count)


def nearest_others(scores: Floats, count: int = 10) -> NDArray[np.bool_]:
    """(n, n) bool, the largest scores of each row but its own, which is overwritten."""
    np.fill_diagonal(scores, -np.inf)
    return nearest(scores, min(count, len(scores) - 1))


def overlap(retrieved: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Mean share of the true neighbours (n, m) that are among the retrieved (n, m)."""
    return float(np.mean(np.sum(retrieved & true, axis=1) / np.sum(true, axis=1)))


def store_overlaps(
    translated: Floats,
    rows: Floats,
    neighbours_x: NDArray[np.bool_],
    neighbours_y: NDArray[np.bool_],
) -> StoreOverlaps:
    """Overlaps of a move between a source and a target.

    Args:
        translated: (n, d) rows of the source, translated: queries in a store of the target (`mq`,
            `mqx`), or a store that queries of the target search (`ms`).
        rows: (n, d) rows of the same inputs in the target.
        neighbours_x: (n, n) `store_neighbours` in the source.
        neighbours_y: (n, n) those in the target.
    """
    scores = _unit(translated) @ _unit(rows).T
    of_queries, of_store = nearest_others(scores), nearest_others(scores.T)
    return StoreOverlaps(
        mq=overlap(of_queries, neighbours_y),
        ms=overlap(of_store, neighbours_y),
        mqx=overlap(of_queries, neighbours_x),
    )


def _unit(rows: Floats) -> Floats:
    unit: Floats = unit_rows(rows, np.zeros(rows.shape[1], np.float32))
    return unit


class Correlation(NamedTuple):
    """Pearson's r with its 95% interval; None where it is not defined."""

    r: float | None
    low: float | None
    high: float | None
    points: int


def correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Pearson's r and Fisher's 95% interval, which assumes independent points.

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
