"""Choosing anchors from a pool by kernel herding."""

from typing import Final

from array_api_compat import array_namespace, device

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.diagnostics.redundancy import EXACT_DUPLICATE_COSINE, AnchorCandidate
from stitchwork.geometry.linalg import evenly_spaced, index_array

SHARPNESS: Final = 4.0
"""The kernel is exp(SHARPNESS · (cos - 1)), at least as sharp as that of the `exp` bridge."""
MAX_REFERENCE: Final = 4096
"""Evenly spaced rows of a pool that represent its distribution: the cost is their number times the
pool's."""
BLOCK: Final = 512
"""Rows of the pool compared at a time with all that represent it."""
SCORE_GRID: Final = 2.0**20
"""Scores are rounded to a grid of about 1e-6, so that the first of equal rows is chosen although
float32 products may differ in their last bits."""


def choose_anchors(
    pool: Array, count: int, anchors: Array | None = None, *, max_reference: int = MAX_REFERENCE
) -> list[AnchorCandidate]:
    """The rows of a pool that represent it best as anchors, by kernel herding.

    Each step takes the row with the largest mean κ(row, pool) − mean κ(row, chosen), κ(u, v) =
    exp(4 (u·v − 1)): typical of the pool, and unlike what has been chosen.

    Args:
        pool: (n, d) float32 or float64 unit rows about a mean; zero rows are never chosen.
        count: Maximum number of rows to choose.
        anchors: (k, d) unit anchors that exist already; they count as chosen.
        max_reference: Maximum number of evenly spaced rows m that represent the pool.

    Returns:
        Rows in the order of choice, each with 1 − cos to the nearest anchor or row before it, 2 if
        there is none; a smaller count is a prefix of a larger one. Rows equal to an anchor or to a
        row before are never chosen. The lowest index wins ties. Takes O(n·d·(m + k + count)) time
        and O(n) memory.

    Raises:
        InvalidInputError: If the count is less than 1.

    Source:
        Chen, Welling and Smola, Super-Samples from Kernel Herding, UAI 2010.
    """
    if count < 1:
        raise InvalidInputError(f"expected to choose at least 1 row, got {count}", pointer="/count")
    xp = array_namespace(pool)
    sample = index_array(evenly_spaced(pool.shape[0], max_reference), pool)
    typical = _sums(pool, pool[sample, :])[0] / sample.shape[0]
    total, closest, size = xp.zeros_like(typical), xp.full_like(typical, -1.0), 0
    if anchors is not None and anchors.shape[0]:
        total, closest = _sums(pool, xp.astype(anchors, pool.dtype))
        size = anchors.shape[0]
    nonzero = xp.any(pool != 0, axis=1)
    excluded = xp.asarray(-2.0, dtype=typical.dtype, device=device(pool))
    chosen: list[AnchorCandidate] = []
    while len(chosen) < count:
        scores = xp.round((typical - total / (size + 1)) * SCORE_GRID) / SCORE_GRID
        is_free = nonzero & (closest < EXACT_DUPLICATE_COSINE)
        best = int(xp.argmax(xp.where(is_free, scores, excluded)))
        if not bool(is_free[best]):
            break
        chosen.append(AnchorCandidate(best, 1.0 - float(closest[best])))
        cosines = pool @ pool[best, :]
        # Its own cosine may be less than one by rounding.
        cosines[best] = 1.0
        total = total + _kernel(cosines)
        closest = xp.maximum(closest, cosines)
        size += 1
    return chosen


def _sums(rows: Array, others: Array) -> tuple[Array, Array]:
    """(n,) the sum of the kernel of each row with all others, and its largest cosine with them."""
    xp = array_namespace(rows)
    sums, largest = [], []
    for start in range(0, rows.shape[0], BLOCK):
        cosines = rows[start : start + BLOCK, :] @ others.T
        largest.append(xp.max(cosines, axis=1))
        sums.append(xp.sum(_kernel(cosines), axis=1))
    return xp.concat(sums), xp.concat(largest)


def _kernel(cosines: Array) -> Array:
    return array_namespace(cosines).exp(SHARPNESS * (cosines - 1.0))
