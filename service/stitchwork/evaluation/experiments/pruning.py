"""`irp`'s inverse at many δ and ω at once, for sweeps.

Farthest-point sampling at a smaller δ only appends, and an ensemble of ω subspaces starts with
that of ω − 1; so one traversal per start, at the smallest δ, contains all prunings. The products of
all anchors are computed once, which a sweep can afford and the service, at any k, cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import RTOL
from stitchwork.geometry.sampling import DISTANCE_GRID, Indices

MIN_EIGENVALUE: Final = 1e-9
"""Smallest eigenvalue of V Vᵀ, relative to the largest, that is accurate to six digits."""


class PruningSetting(NamedTuple):
    """One choice of `irp`'s parameters."""

    delta: float
    omega: int


@dataclass(frozen=True, slots=True)
class PrunedInverse:
    """`irp`'s inverse at one δ and ω.

    Attributes:
        write: D (k, d) float64, whose nonzero rows `irp_inverse` returns.
        anchors: Mean number of anchors in a subspace.
        condition: Mean condition number of the subspaces' unit anchors, where it was requested.
    """

    write: NDArray[np.float64]
    anchors: float
    condition: float | None


class Traversal(NamedTuple):
    """Anchors in the order of farthest-point sampling, each with its distance from those before."""

    indices: Indices
    distances: NDArray[np.float64]


class Pruner:
    """`irp`'s inverses of one space; products and traversals are computed once for all settings.

    Args:
        frame: The frame of the target space.
    """

    def __init__(self, frame: Frame) -> None:
        self._unit: NDArray[np.float64] = np.asarray(frame.unit_anchors)
        self._gram = self._unit @ self._unit.T
        self._traversals: dict[tuple[int, float], Traversal] = {}

    def sweep(
        self, deltas: Sequence[float], omegas: Sequence[int], *, conditions: bool = False
    ) -> dict[PruningSetting, PrunedInverse]:
        """`irp`'s inverse at every δ and ω.

        Args:
            deltas: Minimum distances in [0, 1].
            omegas: Numbers of subspaces.
            conditions: Whether to compute condition numbers, which cost more than the rest.

        Returns:
            By setting, what `irp_inverse` returns at it to within rounding.
        """
        inverses: dict[PruningSetting, PrunedInverse] = {}
        traversals = [self._traversal(number, min(deltas)) for number in range(max(omegas))]
        for delta in deltas:
            total = np.zeros_like(self._unit)
            counts, condition_numbers = [], []
            for number, (indices, distances) in enumerate(traversals):
                too_close = np.flatnonzero(distances < delta)
                subspace = indices[: int(too_close[0]) if len(too_close) else len(indices)]
                gram = self._gram[np.ix_(subspace, subspace)]
                total[subspace] += _pseudo_inverse(self._unit[subspace], gram)
                counts.append(len(subspace))
                if conditions:
                    condition_numbers.append(_condition(self._unit[subspace], gram))
                if number + 1 in omegas:
                    inverses[PruningSetting(delta, number + 1)] = PrunedInverse(
                        write=total / (number + 1),
                        anchors=float(np.mean(counts)),
                        condition=float(np.mean(condition_numbers)) if conditions else None,
                    )
        return inverses

    def _traversal(self, number: int, delta: float) -> Traversal:
        """The traversal from one seeded start, down to a δ at least this small."""
        for (start, min_delta), traversal in self._traversals.items():
            if start == number and min_delta <= delta:
                return traversal
        first = int(np.random.default_rng(number).integers(len(self._unit)))
        traversal = _traverse(self._unit, self._gram, first, delta)
        self._traversals[number, delta] = traversal
        return traversal


def _traverse(unit: NDArray[Any], gram: NDArray[Any], first: int, delta: float) -> Traversal:
    """The anchors that `farthest_point_sampling` selects, with their distances."""
    k = len(unit)
    nonzero = np.any(unit != 0, axis=1)
    farthest = next(i for i in ((first + step) % k for step in range(k)) if nonzero[i])
    nearest = np.where(nonzero, 1.0, -1.0)
    indices, distances, distance = [], [], 1.0
    while True:
        indices.append(farthest)
        distances.append(distance)
        rounded = np.round((1.0 - np.abs(gram[farthest])) * DISTANCE_GRID) / DISTANCE_GRID
        nearest = np.minimum(nearest, rounded)
        nearest[farthest] = -1.0
        farthest = int(np.argmax(nearest))
        distance = float(nearest[farthest])
        if not distance >= delta:
            return Traversal(np.asarray(indices, np.int64), np.asarray(distances))


def _pseudo_inverse(rows: NDArray[np.float64], gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """pinv(Vᵀ) of (m, d) rows V, as (m, d): from V Vᵀ where that is far from singular."""
    from scipy.linalg.lapack import dpocon, dpotrf, dpotrs

    factor, failed = dpotrf(gram, lower=1)
    if not failed and dpocon(factor, np.abs(gram).sum(axis=0).max(), uplo="L")[0] > MIN_EIGENVALUE:
        solution: NDArray[np.float64] = dpotrs(factor, rows, lower=1)[0]
        return solution
    w, s, zt = np.linalg.svd(rows, full_matrices=False)
    significant = s > RTOL * s[0]
    return np.asarray((w[:, significant] / s[significant]) @ zt[significant])


def _condition(rows: NDArray[np.float64], gram: NDArray[np.float64]) -> float:
    """Largest singular value of V over the smallest above 1e-6 of it."""
    squares = np.linalg.eigvalsh(gram)
    if squares[0] > MIN_EIGENVALUE * squares[-1]:
        return float(np.sqrt(squares[-1] / squares[0]))
    # Squares of small singular values are rounding error.
    s = np.linalg.svd(rows, compute_uv=False)
    return float(s[0] / s[s > RTOL * s[0]][-1])
