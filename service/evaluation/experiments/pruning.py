"""`irp`'s inverse at many δ and ω at once, which a sweep asks for.

Farthest-point sampling at a smaller δ only appends, and an ensemble of ω subspaces starts with
that of ω − 1; so one traversal per start, at the least δ, holds all prunings. The products of all
anchors are taken once, which the service cannot afford at any k, and a sweep can.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.geometry.anchors import GRID, Indices
from service.geometry.arrays import RTOL
from service.geometry.relative import Frame

FINE: Final = 1e-9
"""Smallest eigenvalue of V Vᵀ, relative to the largest, that is still known to six digits."""


class Setting(NamedTuple):
    """One choice of `irp`'s parameters."""

    delta: float
    omega: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """`irp` at one δ and ω.

    Attributes:
        write: D (k, d), what `geometry.inverses.irp_write` gives.
        kept: Mean number of anchors in a subspace.
        condition: Mean condition number of the kept unit anchors.
    """

    write: NDArray[np.float64]
    kept: float
    condition: float


def sweep(seen: Frame, deltas: Sequence[float], omegas: Sequence[int]) -> dict[Setting, Pruned]:
    """`irp`'s inverse at every δ and ω.

    Args:
        seen: The frame of the space that is written into.
        deltas: Least distances in [0, 1].
        omegas: Numbers of subspaces.

    Returns:
        By setting, what `irp_write` gives at it to within rounding.
    """
    unit: NDArray[np.float64] = np.asarray(seen.unit)
    k = len(unit)
    gram = unit @ unit.T
    found: dict[Setting, Pruned] = {}
    starts = [int(np.random.default_rng(i).integers(k)) for i in range(max(omegas))]
    paths = [_traversal(unit, gram, start, min(deltas)) for start in starts]
    for delta in deltas:
        total = np.zeros_like(unit)
        kept, conditions = [], []
        for i, (picked, distances) in enumerate(paths):
            short = np.flatnonzero(distances < delta)
            at = picked[: int(short[0]) if len(short) else len(picked)]
            inverse, condition = _inverted(unit[at], gram[np.ix_(at, at)])
            total[at] += inverse
            kept.append(len(at))
            conditions.append(condition)
            if i + 1 in omegas:
                found[Setting(delta, i + 1)] = Pruned(
                    total / (i + 1), float(np.mean(kept)), float(np.mean(conditions))
                )
    return found


def _traversal(
    unit: NDArray[Any], gram: NDArray[Any], first: int, delta: float
) -> tuple[Indices, NDArray[np.float64]]:
    """As `geometry.anchors.farthest_first` picks, with each pick's distance from those before."""
    k = len(unit)
    alive = np.any(unit != 0, axis=1)
    at = next(i for i in ((first + step) % k for step in range(k)) if alive[i])
    nearest = np.where(alive, 1.0, -1.0)
    picked, distances, distance = [], [], 1.0
    while True:
        picked.append(at)
        distances.append(distance)
        nearest = np.minimum(nearest, np.round((1.0 - np.abs(gram[at])) * GRID) / GRID)
        nearest[at] = -1.0
        at = int(np.argmax(nearest))
        distance = float(nearest[at])
        if not distance >= delta:
            return np.asarray(picked, np.int64), np.asarray(distances)


def _inverted(
    rows: NDArray[np.float64], gram: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """pinv(Vᵀ) of (m, d) rows V, as (m, d), and the condition number of V, from V Vᵀ."""
    squares, w = np.linalg.eigh(gram)
    if squares[0] < FINE * squares[-1]:
        # Squared, what is left of small values is rounding.
        w, s, zt = np.linalg.svd(rows, full_matrices=False)
        kept = s > RTOL * s[0]
        inverse: NDArray[np.float64] = (w[:, kept] / s[kept]) @ zt[kept]
        return inverse, float(s[0] / s[kept][-1])
    return ((w / squares) @ w.T) @ rows, float(np.sqrt(squares[-1] / squares[0]))
