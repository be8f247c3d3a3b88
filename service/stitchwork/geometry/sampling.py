"""Anchor pruning by farthest-point sampling, and subspaces of several prunings."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.linalg import index_array

Indices = NDArray[np.int64]

DISTANCE_GRID: Final = 2.0**40
"""Distances are rounded to a grid of about 1e-12. Products of equal anchors may differ in their
last bit with the library, its threads or the row's position; on the grid they tie, so that every
machine selects the same anchors."""


def farthest_point_sampling(unit: Array, delta: float, starts: Sequence[int]) -> list[Indices]:
    """Anchors that differ from each other, by farthest-point sampling under dcos = 1 − |cos|.

    Args:
        unit: (k, d) unit anchors; zero rows have no direction and are never selected.
        delta: Minimum distance in [0, 1] of each selected anchor from those before it.
        starts: Indices to start from, 0 to k − 1, one for each sampling; a zero row is replaced
            by the next row that is not zero, cyclically.

    Returns:
        For each start (m,) int64 indices in the order of selection, without repetition: a smaller
        delta only appends. The lowest index wins ties. All samplings advance together, so that
        the anchors are read once for all: O(k·m·d) time and O(k) memory for each sampling.

    Raises:
        InvalidInputError: If every row is zero.

    Source:
        Maiorca et al., arXiv 2406.15057, anchor pruning; Gonzalez, Clustering to Minimize the
        Maximum Intercluster Distance, 1985 (farthest-first traversal).
    """
    xp = array_namespace(unit)
    k = unit.shape[0]
    nonzero = xp.any(unit != 0, axis=1)
    candidates = np.flatnonzero(np.asarray(nonzero.tolist()))
    if not len(candidates):
        raise InvalidInputError(f"expected a unit anchor to start from, got {k} zero rows")
    positions = np.searchsorted(candidates, np.asarray(starts, np.int64)) % len(candidates)
    # Zero rows and selected rows have distance −1, below every delta.
    nearest = [xp.where(nonzero, xp.ones_like(unit[:, 0]), -1.0) for _ in starts]
    active = dict(enumerate(candidates[positions].tolist()))
    selected: list[list[int]] = [[] for _ in starts]
    while active:
        latest = index_array(np.asarray(list(active.values()), np.int64), unit)
        cosines = unit[latest, :] @ unit.T
        following = {}
        for row, (i, anchor) in enumerate(active.items()):
            selected[i].append(anchor)
            distance = xp.round((1.0 - xp.abs(cosines[row, :])) * DISTANCE_GRID) / DISTANCE_GRID
            nearest[i] = xp.minimum(nearest[i], distance)
            nearest[i][anchor] = -1.0
            farthest = int(xp.argmax(nearest[i]))
            if float(nearest[i][farthest]) >= delta:
                following[i] = farthest
        active = following
    return [np.asarray(indices, np.int64) for indices in selected]


def prunings(unit: Array, delta: float, omega: int) -> list[Indices]:
    """ω prunings of the anchors, each from a seeded random start.

    Args:
        unit: (k, d) unit anchors.
        delta: Minimum distance in [0, 1] between the anchors of a pruning.
        omega: Number of prunings, ω.

    Returns:
        ω index arrays as from `farthest_point_sampling`. The i-th, counted from 0, starts at
        `numpy.random.default_rng(i).integers(k)`: equal k gives equal starts on every machine.

    Raises:
        InvalidInputError: If every row is zero.

    Source:
        Maiorca et al., arXiv 2406.15057, anchor subspaces.
    """
    k = unit.shape[0]
    starts = [int(np.random.default_rng(seed).integers(k)) for seed in range(omega)]
    return farthest_point_sampling(unit, delta, starts)
