"""How well the spaces of an anchor set translate into each other, from their anchors alone."""

from collections.abc import Sequence
from itertools import permutations
from threading import Lock
from typing import Final, NamedTuple

import numpy as np
from cachetools import LRUCache

from stitchwork.api.reports.verdicts import pair_verdict
from stitchwork.api.schemas.report_responses import (
    CompatibilityResponse,
    PairQuality,
    SpaceQuality,
)
from stitchwork.api.schemas.responses import ResourceRef
from stitchwork.errors import AnchorSetMismatchError, ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.diagnostics.cross_validation import (
    FOLDS,
    MAX_ANCHORS,
    AnchoredSpace,
    CrossValidationScore,
    cross_validate,
)
from stitchwork.geometry.diagnostics.space_metrics import agreement
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import evenly_spaced
from stitchwork.registry.registry import Registry
from stitchwork.resources import AnchorSet, Floats, Space

MAX_SPACES: Final = 16
"""Spaces that one report compares: 240 pairs."""
MAX_PAIRS: Final = 4096

Pair = tuple[str, str]
Key = tuple[str, str, str]


class SpaceComparison(NamedTuple):
    """One ordered pair of spaces.

    Attributes:
        quality: Cross-validated quality of held-out anchors; None if they are too few or too
            much alike.
        agreement: Correlation of the cosines of the two spaces' anchors.
    """

    quality: CrossValidationScore | None
    agreement: float


class SpaceComparisons:
    """Pairs of spaces that this process has compared, each once for its versions.

    Args:
        registry: Where anchors come from.
        max_pairs: Pairs to keep; the least recently used is dropped first.
    """

    def __init__(self, registry: Registry, max_pairs: int = MAX_PAIRS) -> None:
        self._registry = registry
        self._cache: LRUCache[Key, SpaceComparison] = LRUCache(max_pairs)
        self._lock = Lock()

    def report(
        self, anchor_set: AnchorSet, names: Sequence[str] | None, bridge: BridgeName
    ) -> CompatibilityResponse:
        """Compare spaces of an anchor set.

        Args:
            anchor_set: The set.
            names: Ids of spaces on it; None compares all that are ready.
            bridge: The bridge of all pairs.

        Raises:
            InvalidInputError: If there are more than `MAX_SPACES`.
            AnchorSetMismatchError: If one of the named spaces is on another set.
            UnknownResourceError: If one of them is not registered.
            NotReadyError: If one of them has no ready version.
        """
        spaces = self._select(anchor_set, names)
        anchors = min(anchor_set.size, MAX_ANCHORS)
        return CompatibilityResponse(
            anchor_set=ResourceRef.of(anchor_set),
            bridge=bridge,
            anchors=anchors,
            folds=FOLDS,
            spaces=[_space_quality(space) for space in spaces],
            pairs=[
                pair_quality(source, target, comparison, anchors, bridge)
                for (source, target), comparison in self.compare(spaces, bridge).items()
            ],
        )

    def compare(self, spaces: Sequence[Space], bridge: BridgeName) -> dict[Pair, SpaceComparison]:
        """All ordered pairs of these spaces, which are on one anchor set, by their ids."""
        by_id = {space.id: space for space in spaces}
        pairs = list(permutations(by_id, 2))
        keys = {(x, y): (by_id[x].version, by_id[y].version, bridge) for x, y in pairs}
        with self._lock:
            cached = {pair: self._cache[key] for pair, key in keys.items() if key in self._cache}
        missing = [pair for pair in pairs if pair not in cached]
        computed = self._compute(by_id, missing, bridge) if missing else {}
        with self._lock:
            self._cache.update({keys[pair]: result for pair, result in computed.items()})
        results = cached | computed
        return {pair: results[pair] for pair in pairs}

    def _select(self, anchor_set: AnchorSet, names: Sequence[str] | None) -> list[Space]:
        """The spaces with these names, or all ready spaces of the set."""
        if names is None:
            dependents = self._registry.anchor_sets.dependents(anchor_set.id)
            names = [dependent.removeprefix("space:") for dependent in dependents]
            _check_count(names)
            entries = self._registry.spaces.read(*names) if names else []
            ready = [entry.record for entry in entries if entry.record]
            return [space for space in ready if space.anchor_set_version == anchor_set.version]
        names = list(dict.fromkeys(names))
        _check_count(names)
        spaces, _ = self._registry.spaces.ready(*names)
        for space in spaces:
            if (space.anchor_set, space.anchor_set_version) != (anchor_set.id, anchor_set.version):
                raise AnchorSetMismatchError(
                    f"space {space.id} is on anchor set {space.anchor_set}, not {anchor_set.id}",
                    pointer="/spaces",
                )
        return spaces

    def _compute(
        self, by_id: dict[str, Space], pairs: list[Pair], bridge: BridgeName
    ) -> dict[Pair, SpaceComparison]:
        names = sorted({name for pair in pairs for name in pair})
        anchors = {name: self._anchors(by_id[name]) for name in names}
        units = {
            name: np.asarray(Frame.from_anchors(rows).unit_anchors, np.float32)
            for name, rows in anchors.items()
        }
        agreements: dict[tuple[str, ...], float] = {}
        for pair in pairs:
            unordered = tuple(sorted(pair))
            if unordered not in agreements:
                agreements[unordered] = agreement(units[pair[0]], units[pair[1]])
        del units
        frames = {
            name: AnchoredSpace(rows, by_id[name].parameters.checked())
            for name, rows in anchors.items()
        }
        return {
            pair: SpaceComparison(quality, agreements[tuple(sorted(pair))])
            for pair, quality in cross_validate(frames, pairs, bridge)
        }

    def _anchors(self, space: Space) -> Floats:
        anchors = self._registry.spaces.arrays(space.id, space.version)["anchors"]
        used: Floats = anchors[evenly_spaced(len(anchors), MAX_ANCHORS)]
        return used


def pair_quality(
    source: str, target: str, comparison: SpaceComparison, anchors: int, bridge: BridgeName
) -> PairQuality:
    """The response for one pair, with its verdict.

    Args:
        source: Id of the source.
        target: Id of the target.
        comparison: Their comparison.
        anchors: Number of anchors it used.
        bridge: The bridge it used.
    """
    quality = comparison.quality
    verdict = pair_verdict(quality, comparison.agreement, anchors, bridge)
    return PairQuality(
        source=source,
        target=target,
        similarity=quality and quality.similarity,
        recall_at_1=quality and quality.recall,
        chance=quality and quality.chance,
        agreement=comparison.agreement,
        verdict=verdict.level,
        reason=verdict.reason,
    )


def _space_quality(space: Space) -> SpaceQuality:
    return SpaceQuality(
        id=space.id,
        version=space.version,
        dim=space.dim,
        rank=space.rank,
        condition_number=space.condition_number,
        warnings=space.warnings,
    )


def _check_count(names: Sequence[str]) -> None:
    if len(names) > MAX_SPACES:
        raise InvalidInputError(
            f"expected at most {MAX_SPACES} spaces at once, got {len(names)}; name some of them by "
            "spaces=a,b,c",
            pointer="/spaces",
            code=ErrorCode.TOO_MANY_SPACES,
        )
