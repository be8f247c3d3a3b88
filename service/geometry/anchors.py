"""Which anchors to keep: pruning by farthest-point sampling, and subspaces of several prunings."""

import numpy as np
from array_api_compat import array_namespace, is_torch_array
from numpy.typing import NDArray

from service.geometry import Array

Indices = NDArray[np.int64]


def farthest_first(unit: Array, delta: float, first: int) -> Indices:
    """Anchors that differ, found by farthest-point sampling under dcos = 1 − |cos|.

    Args:
        unit: (k, d) unit anchors; zero rows have no direction and are never picked.
        delta: Least distance in [0, 1] of each picked anchor from those before it.
        first: Index to start from; a zero row gives its turn to the next one that is not.

    Returns:
        (m,) int64 indices in the order in which they were picked; a smaller delta only appends.
        The lowest index wins ties. Takes O(k·m·d) time and O(k) memory.

    Source:
        Maiorca et al., arXiv 2406.15057, anchor pruning; Eldar et al., 1997 (farthest-point
        sampling).
    """
    xp = array_namespace(unit)
    k = unit.shape[0]
    alive = xp.max(xp.abs(unit), axis=1) > 0
    nearest = xp.where(alive, xp.ones_like(unit[:, 0]), -xp.ones_like(unit[:, 0]))
    order = [(first + step) % k for step in range(k)]
    at = next(i for i in order if bool(alive[i]))
    picked: list[int] = []
    while True:
        picked.append(at)
        cosines = xp.abs(unit @ unit[at, :])
        nearest = xp.minimum(nearest, 1 - cosines)
        nearest[at] = -1.0
        at = int(xp.argmax(nearest))
        if float(nearest[at]) < delta or float(nearest[at]) < 0:
            return np.array(picked, np.int64)


def prunings(unit: Array, delta: float, omega: int) -> list[Indices]:
    """ω prunings of the anchors, each from a seeded random start.

    Args:
        unit: (k, d) unit anchors.
        delta: Least distance between kept anchors.
        omega: How many prunings; seeds are 0 to ω − 1.

    Returns:
        ω index arrays.

    Source:
        Maiorca et al., arXiv 2406.15057, anchor subspaces.
    """
    k = unit.shape[0]
    starts = [int(np.random.default_rng(seed).integers(k)) for seed in range(omega)]
    return [farthest_first(unit, delta, start) for start in starts]


def rows_at(unit: Array, picked: Indices) -> Array:
    """The picked rows, whatever library the array is of."""
    if is_torch_array(unit):
        xp = array_namespace(unit)
        return unit[xp.asarray(picked, device=unit.device)]
    return unit[picked]
