"""Which anchors to keep: pruning by farthest-point sampling, and subspaces of several prunings."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.linalg import indices

Indices = NDArray[np.int64]

GRID: Final = 2.0**40
"""Distances are compared on a grid of about 1e-12. Products of equal anchors may differ in their
last bit with the library, its threads or the row's place; on the grid they tie, and every machine
picks the same anchors."""


def farthest_first(unit: Array, delta: float, firsts: Sequence[int]) -> list[Indices]:
    """Anchors that differ, found by farthest-point sampling under dcos = 1 − |cos|.

    Args:
        unit: (k, d) unit anchors; zero rows have no direction and are never picked.
        delta: Least distance in [0, 1] of each picked anchor from those before it.
        firsts: Indices to start from, 0 to k − 1, one for each sampling; a zero row passes its
            turn to the next row that is not, after the last to the first.

    Returns:
        For each start (m,) int64 indices in the order in which they were picked, none twice: a
        smaller delta only appends. The lowest index wins ties. All samplings take their steps
        together, so that the anchors are read once for all: O(k·m·d) time and O(k) memory each.

    Raises:
        InvalidInputError: If every row is zero.

    Source:
        Maiorca et al., arXiv 2406.15057, anchor pruning; Gonzalez, Clustering to Minimize the
        Maximum Intercluster Distance, 1985 (farthest-first traversal).
    """
    xp = array_namespace(unit)
    k = unit.shape[0]
    alive = xp.any(unit != 0, axis=1)
    living = np.flatnonzero(np.asarray(alive.tolist()))
    if not len(living):
        raise InvalidInputError(f"expected a unit anchor to start from, got {k} zero rows")
    after = np.searchsorted(living, np.asarray(firsts, np.int64)) % len(living)
    # Zero rows and rows already picked stand at −1, which no delta admits.
    nearest = [xp.where(alive, xp.ones_like(unit[:, 0]), -1.0) for _ in firsts]
    at = dict(enumerate(living[after].tolist()))
    picked: list[list[int]] = [[] for _ in firsts]
    while at:
        places = indices(np.asarray(list(at.values()), np.int64), unit)
        cosines = unit[places, :] @ unit.T
        going = {}
        for row, (i, place) in enumerate(at.items()):
            picked[i].append(place)
            distance = xp.round((1.0 - xp.abs(cosines[row, :])) * GRID) / GRID
            nearest[i] = xp.minimum(nearest[i], distance)
            nearest[i][place] = -1.0
            best = int(xp.argmax(nearest[i]))
            if float(nearest[i][best]) >= delta:
                going[i] = best
        at = going
    return [np.asarray(found, np.int64) for found in picked]


def prunings(unit: Array, delta: float, omega: int) -> list[Indices]:
    """ω prunings of the anchors, each from a seeded random start.

    Args:
        unit: (k, d) unit anchors.
        delta: Least distance in [0, 1] between kept anchors.
        omega: How many prunings.

    Returns:
        ω index arrays as `farthest_first` gives them. The i-th, from 0, starts at
        `numpy.random.default_rng(i).integers(k)`: the same k gives the same starts everywhere.

    Raises:
        InvalidInputError: If every row is zero.

    Source:
        Maiorca et al., arXiv 2406.15057, anchor subspaces.
    """
    k = unit.shape[0]
    starts = [int(np.random.default_rng(seed).integers(k)) for seed in range(omega)]
    return farthest_first(unit, delta, starts)
