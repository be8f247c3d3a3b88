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

from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import RTOL
from stitchwork.geometry.sampling import DISTANCE_GRID, Indices

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
        write: D (k, d), what `geometry.inverses.irp_inverse` gives the rows of.
        kept: Mean number of anchors in a subspace.
        condition: Mean condition number of the kept unit anchors, where it was asked for.
    """

    write: NDArray[np.float64]
    kept: float
    condition: float | None


class Path(NamedTuple):
    """Anchors in the order of a traversal, and the distance of each from those before it."""

    picked: Indices
    distances: NDArray[np.float64]


class Pruner:
    """`irp`'s inverses of one space; products and traversals are taken once for all settings.

    Args:
        seen: The frame of the space that is written into.
    """

    def __init__(self, seen: Frame) -> None:
        self._unit: NDArray[np.float64] = np.asarray(seen.unit_anchors)
        self._gram = self._unit @ self._unit.T
        self._paths: dict[tuple[int, float], Path] = {}

    def sweep(
        self, deltas: Sequence[float], omegas: Sequence[int], *, conditions: bool = False
    ) -> dict[Setting, Pruned]:
        """`irp`'s inverse at every δ and ω.

        Args:
            deltas: Least distances in [0, 1].
            omegas: Numbers of subspaces.
            conditions: Whether condition numbers are wanted, which cost more than the rest.

        Returns:
            By setting, what `geometry.inverses.irp_inverse` gives at it to within rounding.
        """
        found: dict[Setting, Pruned] = {}
        paths = [self._path(number, min(deltas)) for number in range(max(omegas))]
        for delta in deltas:
            total = np.zeros_like(self._unit)
            kept, known = [], []
            for number, (picked, distances) in enumerate(paths):
                short = np.flatnonzero(distances < delta)
                at = picked[: int(short[0]) if len(short) else len(picked)]
                gram = self._gram[np.ix_(at, at)]
                total[at] += _inverted(self._unit[at], gram)
                kept.append(len(at))
                if conditions:
                    known.append(_condition(self._unit[at], gram))
                if number + 1 in omegas:
                    found[Setting(delta, number + 1)] = Pruned(
                        total / (number + 1),
                        float(np.mean(kept)),
                        float(np.mean(known)) if conditions else None,
                    )
        return found

    def _path(self, number: int, delta: float) -> Path:
        """The traversal of one seeded start, down to a δ at least this small."""
        for (start, least), path in self._paths.items():
            if start == number and least <= delta:
                return path
        first = int(np.random.default_rng(number).integers(len(self._unit)))
        path = _traversal(self._unit, self._gram, first, delta)
        self._paths[number, delta] = path
        return path


def _traversal(unit: NDArray[Any], gram: NDArray[Any], first: int, delta: float) -> Path:
    """As `geometry.anchors.farthest_first` picks, with each pick's distance from those before."""
    k = len(unit)
    alive = np.any(unit != 0, axis=1)
    at = next(i for i in ((first + step) % k for step in range(k)) if alive[i])
    nearest = np.where(alive, 1.0, -1.0)
    picked, distances, distance = [], [], 1.0
    while True:
        picked.append(at)
        distances.append(distance)
        nearest = np.minimum(
            nearest, np.round((1.0 - np.abs(gram[at])) * DISTANCE_GRID) / DISTANCE_GRID
        )
        nearest[at] = -1.0
        at = int(np.argmax(nearest))
        distance = float(nearest[at])
        if not distance >= delta:
            return Path(np.asarray(picked, np.int64), np.asarray(distances))


def _inverted(rows: NDArray[np.float64], gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """pinv(Vᵀ) of (m, d) rows V, as (m, d): from V Vᵀ where that is far from singular."""
    from scipy.linalg.lapack import dpocon, dpotrf, dpotrs

    factor, failed = dpotrf(gram, lower=1)
    if not failed and dpocon(factor, np.abs(gram).sum(axis=0).max(), uplo="L")[0] > FINE:
        solved: NDArray[np.float64] = dpotrs(factor, rows, lower=1)[0]
        return solved
    w, s, zt = np.linalg.svd(rows, full_matrices=False)
    kept = s > RTOL * s[0]
    return np.asarray((w[:, kept] / s[kept]) @ zt[kept])


def _condition(rows: NDArray[np.float64], gram: NDArray[np.float64]) -> float:
    """Largest singular value of V over the smallest above 1e-6 of it."""
    squares = np.linalg.eigvalsh(gram)
    if squares[0] > FINE * squares[-1]:
        return float(np.sqrt(squares[-1] / squares[0]))
    # Squared, what is left of small values is rounding.
    s = np.linalg.svd(rows, compute_uv=False)
    return float(s[0] / s[s > RTOL * s[0]][-1])
