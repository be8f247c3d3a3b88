"""How well the spaces of a set translate into each other, computed once and remembered."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import permutations
from typing import Final, NamedTuple

import numpy as np

from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.diagnostics.cross_validation import (
    MAX_ANCHORS,
    AnchoredSpace,
    CrossValidationScore,
    cross_validate,
)
from stitchwork.geometry.diagnostics.space_metrics import agreement
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import evenly_spaced
from stitchwork.registry.registry import Registry
from stitchwork.resources import Floats, Space

MOST_REMEMBERED: Final = 4096


class Comparison(NamedTuple):
    """One ordered pair of spaces.

    Attributes:
        held: What anchors tell that were held out; None where that cannot be told.
        agreement: Of the two spaces' anchors.
    """

    held: CrossValidationScore | None
    agreement: float


Key = tuple[str, str, str]


class Comparisons:
    """Pairs of spaces that this process has compared.

    Args:
        registry: Where anchors come from.
        most: Pairs that are remembered; the least recently used go first.
    """

    def __init__(self, registry: Registry, most: int = MOST_REMEMBERED) -> None:
        self._registry = registry
        self._most = most
        self._guard = threading.Lock()
        self._known: OrderedDict[Key, Comparison] = OrderedDict()

    def of(self, spaces: Sequence[Space], bridge: BridgeName) -> dict[tuple[str, str], Comparison]:
        """All ordered pairs of these spaces, which are on one set, by their ids."""
        by_id = {space.id: space for space in spaces}
        pairs = list(permutations(by_id, 2))
        keys = {(x, y): (by_id[x].version, by_id[y].version, bridge) for x, y in pairs}
        with self._guard:
            found = {pair: self._known[key] for pair, key in keys.items() if key in self._known}
        missing = [pair for pair in pairs if pair not in found]
        if missing:
            found |= self._compare(by_id, missing, bridge)
        with self._guard:
            for pair in pairs:
                self._known[keys[pair]] = found[pair]
                self._known.move_to_end(keys[pair])
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return {pair: found[pair] for pair in pairs}

    def _compare(
        self, by_id: dict[str, Space], pairs: list[tuple[str, str]], bridge: BridgeName
    ) -> dict[tuple[str, str], Comparison]:
        names = sorted({name for pair in pairs for name in pair})
        anchors = {name: self._anchors(by_id[name]) for name in names}
        units = {
            name: np.asarray(Frame.from_anchors(rows).unit_anchors, np.float32)
            for name, rows in anchors.items()
        }
        agreed: dict[tuple[str, ...], float] = {}
        for pair in pairs:
            either = tuple(sorted(pair))
            if either not in agreed:
                agreed[either] = agreement(units[pair[0]], units[pair[1]])
        del units
        seen = {
            name: AnchoredSpace(rows, by_id[name].parameters.checked())
            for name, rows in anchors.items()
        }
        return {
            pair: Comparison(held, agreed[tuple(sorted(pair))])
            for pair, held in cross_validate(seen, pairs, bridge)
        }

    def _anchors(self, space: Space) -> Floats:
        kept = self._registry.spaces.arrays(space.id, space.version)["anchors"]
        used: Floats = kept[evenly_spaced(len(kept), MAX_ANCHORS)]
        return used
