"""Redundancy of anchors: duplicates, and anchors to drop."""

from typing import Final, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame, nonzero_anchors
from stitchwork.geometry.linalg import to_numpy
from stitchwork.geometry.sampling import DISTANCE_GRID

EXACT_DUPLICATE_COSINE: Final = 1 - 5e-7
"""Cosine from which anchors are equal but for float32 rounding: about a thousandth of a radian."""
NEAR_DUPLICATE_COSINE: Final = 0.98
"""Cosine from which an anchor adds no direction: closer than one space predicts the other (their
anchors' median is 0.78 to 0.90). Of 1,500 digits or Fashion-MNIST images through EfficientNet-Lite
0 and 1 no two are this close. Of 3,000 banking77 questions 25 pairs are with MiniLM and 14 with
Universal Sentence Encoder: the same question in almost the same words."""
MAX_COMPARED: Final = 4096
"""Anchors among which callers should look for duplicates: the cost is their square."""
BLOCK: Final = 128
"""Anchors compared with all before them at once: 100,000 of them take 51 MB."""
EXCLUDED: Final = 4.0
"""A distance larger than any between directions."""


class Duplicates(NamedTuple):
    """Groups of anchors that repeat each other; the first of a group is the one to keep.

    Attributes:
        exact: Groups that differ by float32 rounding alone.
        near: Groups of the remaining anchors, each within `NEAR_DUPLICATE_COSINE` of its first.
    """

    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]

    @property
    def spare(self) -> list[int]:
        """All anchors that repeat another, ascending."""
        return sorted({i for group in (*self.exact, *self.near) for i in group[1:]})


class AnchorCandidate(NamedTuple):
    """Index of a row to drop or to add, and 1 − cos to the nearest other anchor."""

    row: int
    distance: float


def find_duplicates(frame: Frame, near: float = NEAR_DUPLICATE_COSINE) -> Duplicates:
    """Exact and near duplicates among the anchors.

    Args:
        frame: The space's frame.
        near: Cosine about the mean from which anchors are near duplicates.

    Returns:
        Groups in the order of their firsts, indices ascending; no index is in two groups of one
        kind, and near groups contain only firsts of exact ones. Anchors at the mean are exact
        duplicates of each other. Scaling, rotating or moving all anchors changes nothing. Takes
        O(k²·d) time at worst, less with more duplicates, and O(k) memory.
    """
    xp = array_namespace(frame.unit_anchors)
    # float32 takes half the time; its error is less than a tenth of the exact bound.
    unit = xp.astype(frame.unit_anchors, xp.float32)
    nonzero = to_numpy(nonzero_anchors(frame))
    indices = np.arange(frame.count)
    exact = _leaders(unit, indices[nonzero], EXACT_DUPLICATE_COSINE)
    groups = _groups(exact)
    if (~nonzero).sum() > 1:
        groups = sorted([*groups, tuple(indices[~nonzero].tolist())])
    firsts = np.asarray([i for i, leader in exact.items() if i == leader], np.int64)
    return Duplicates(tuple(groups), tuple(_groups(_leaders(unit, firsts, near))))


def redundant_anchors(frame: Frame, count: int) -> list[AnchorCandidate]:
    """The anchors to drop first.

    Args:
        frame: The space's frame.
        count: Maximum number of anchors to return.

    Returns:
        Cheapest first: anchors whose nearest other one, by 1 − cos, is closest. Each distance is
        to the nearest anchor that then remains. At least two anchors remain. Takes O(k²) time and
        memory, so that the caller limits k.
    """
    unit = frame.unit_anchors
    xp = array_namespace(unit)
    k = frame.count
    eye = xp.eye(k, dtype=unit.dtype, device=device(unit))
    # On the grid of pruning, so that every machine drops the same one of several equal anchors.
    distance = xp.round((1.0 - unit @ unit.T) * DISTANCE_GRID) / DISTANCE_GRID + EXCLUDED * eye
    dropped: list[AnchorCandidate] = []
    nearest, neighbours = xp.min(distance, axis=1), xp.argmin(distance, axis=1)
    for _ in range(min(count, k - 2)):
        smallest = float(xp.min(nearest))
        # Of the closest pair the later one is dropped: the first of a group remains.
        is_closest = xp.astype(nearest <= smallest, xp.int64)
        index = k - 1 - int(xp.argmax(xp.flip(is_closest)))
        dropped.append(AnchorCandidate(index, smallest))
        distance[:, index] = EXCLUDED
        distance[index, :] = EXCLUDED
        nearest[index] = EXCLUDED
        for i in np.flatnonzero(to_numpy(neighbours) == index).tolist():
            if float(nearest[i]) < EXCLUDED:
                nearest[i] = xp.min(distance[i, :])
                neighbours[i] = xp.argmin(distance[i, :])
    return dropped


def _leaders(unit: Array, order: NDArray[np.int64], min_cosine: float) -> dict[int, int]:
    """For each index, in this order, the first leader at `min_cosine` or more, or itself."""
    xp = array_namespace(unit)
    leader_of: dict[int, int] = {}
    leaders: list[int] = []

    def select(indices: list[int]) -> Array:
        return unit[xp.asarray(indices, device=device(unit)), :]

    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK].tolist()
        rows = select(block)
        earlier: list[int | None] = [None] * len(block)
        # Leaders in blocks too, so that a block's products stay small whatever k.
        for i in range(0, len(leaders), BLOCK * BLOCK):
            candidates = leaders[i : i + BLOCK * BLOCK]
            close = rows @ select(candidates).T >= min_cosine
            hits = to_numpy(xp.any(close, axis=1)).tolist()
            firsts = to_numpy(xp.argmax(xp.astype(close, xp.int64), axis=1)).tolist()
            earlier = [
                leader if leader is not None or not hit else candidates[first]
                for leader, hit, first in zip(earlier, hits, firsts, strict=True)
            ]
        close_in_block = to_numpy(rows @ rows.T >= min_cosine)
        new: list[int] = []
        for j, index in enumerate(block):
            leader = earlier[j]
            if leader is None:
                leader = next((block[i] for i in new if close_in_block[j, i]), None)
            if leader is None:
                new.append(j)
                leaders.append(index)
                leader = index
            leader_of[index] = leader
    return leader_of


def _groups(leader_of: dict[int, int]) -> list[tuple[int, ...]]:
    """Groups of at least two indices with one leader."""
    groups: dict[int, list[int]] = {}
    for index, leader in leader_of.items():
        groups.setdefault(leader, []).append(index)
    return sorted(tuple(group) for group in groups.values() if len(group) > 1)
