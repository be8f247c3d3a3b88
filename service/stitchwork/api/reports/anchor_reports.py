"""What the anchors of a space tell about themselves and, with a target, about the pair."""

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.diagnostics.learning_curve import LearningCurve, learning_curve
from stitchwork.geometry.diagnostics.misalignment import MisalignedPair, misaligned_pairs
from stitchwork.geometry.diagnostics.redundancy import (
    MAX_COMPARED,
    AnchorCandidate,
    find_duplicates,
    next_anchors,
    redundant_anchors,
)
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import evenly_spaced
from stitchwork.registry.registry import Registry
from stitchwork.resources import AnchorSet, Floats, Space

MAX_ANCHORS: Final = 2000
"""Evenly spaced anchors that are used where the cost is their square or more."""
MOST_DROPPED: Final = 10
MOST_REMEMBERED: Final = 256

Name = str | int
Key = tuple[str, str | None, str]


class AnchorReports:
    """Reports that this process has made, each once for its versions.

    Args:
        registry: Where anchors come from.
        most: Reports that are remembered; the least recently used go first.
    """

    def __init__(self, registry: Registry, most: int = MOST_REMEMBERED) -> None:
        self._registry = registry
        self._most = most
        self._guard = threading.Lock()
        self._known: OrderedDict[Key, dict[str, Any]] = OrderedDict()

    def of(self, space: Space, target: Space | None, bridge: BridgeName) -> dict[str, Any]:
        """The report of a space, towards another on the same set or onto itself.

        Args:
            space: The space.
            target: The other space, None for none.
            bridge: The bridge of the learning curve.

        Returns:
            `anchors`, how many there are; `compared` and `used`, how many were looked at for
            duplicates and for the rest; `duplicates`, `drop`, `learning_curve` and, with a target,
            `misaligned`. Anchors are named by id, or by index where their set has no ids.
        """
        key = (space.version, target.version if target else None, bridge)
        with self._guard:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found
        found = self._made(space, target, bridge)
        with self._guard:
            self._known[key] = found
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return found

    def next(self, space: Space, pool: Floats, count: int) -> dict[str, Any]:
        """Which rows of a pool to take as anchors next."""
        anchors = self._anchors(space)
        used = evenly_spaced(len(anchors), MAX_ANCHORS)
        steps = next_anchors(_part(Frame.from_anchors(anchors), used), pool, count)
        shown = [{"index": step.row, "distance": step.distance} for step in steps]
        return {"anchors": len(anchors), "used": len(used), "next": shown}

    def _made(self, space: Space, target: Space | None, bridge: BridgeName) -> dict[str, Any]:
        (anchor_set,), _ = self._registry.anchor_sets.ready(space.anchor_set)
        anchors = self._anchors(space)
        used = evenly_spaced(len(anchors), MAX_ANCHORS)
        some = anchors[used]
        whole = Frame.from_anchors(anchors)
        seen = _part(whole, used)
        theirs = anchors if target is None else self._anchors(target)
        onto = space if target is None else target
        curve = learning_curve(
            some, theirs[used], bridge, space.parameters.checked(), onto.parameters.checked()
        )
        compared = min(len(anchors), MAX_COMPARED)
        twice = find_duplicates(_part(whole, np.arange(compared)))
        suspects = (
            None
            if target is None
            else misaligned_pairs(seen, _part(Frame.from_anchors(theirs), used))
        )
        names = _names(anchor_set)

        def groups(found: tuple[tuple[int, ...], ...]) -> list[list[Name]]:
            return [[names[i] for i in group] for group in found]

        return {
            "anchors": len(anchors),
            "compared": compared,
            "used": len(used),
            "duplicates": {"exact": groups(twice.exact), "near": groups(twice.near)},
            "drop": [_dropped(step, used, names) for step in redundant_anchors(seen, MOST_DROPPED)],
            "learning_curve": _curve(curve),
            "misaligned": suspects and [_suspected(one, used, names) for one in suspects],
        }

    def _anchors(self, space: Space) -> Floats:
        kept: Floats = self._registry.spaces.arrays(space.id, space.version)["anchors"]
        return kept


def _part(seen: Frame, used: NDArray[np.int64]) -> Frame:
    """The same frame with some of its anchors."""
    return replace(seen, unit_anchors=seen.unit_anchors[used])


def _names(anchor_set: AnchorSet) -> tuple[Name, ...] | range:
    return range(anchor_set.size) if anchor_set.ids is None else anchor_set.ids


def _dropped(
    step: AnchorCandidate, used: NDArray[np.int64], names: tuple[Name, ...] | range
) -> dict[str, Any]:
    return {"anchor": names[int(used[step.row])], "distance": step.distance}


def _curve(curve: LearningCurve) -> dict[str, Any]:
    return {
        "points": [point._asdict() for point in curve.points],
        "doubled": curve.doubled,
        "enough": curve.enough,
        "reason": curve.reason,
    }


def _suspected(
    suspect: MisalignedPair, used: NDArray[np.int64], names: tuple[Name, ...] | range
) -> dict[str, Any]:
    return {
        "anchor": names[int(used[suspect.pair])],
        "probability": suspect.probability,
        "cosine": suspect.cosine,
        "rank": suspect.rank,
        "fits": names[int(used[suspect.best_match])],
    }
