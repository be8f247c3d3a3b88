"""How well the spaces of an anchor set translate into each other, from their anchors alone."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from stitchwork.api.reports.report_jobs import (
    ProcessCall,
    ReportPart,
    ReportState,
    joint_name,
)
from stitchwork.api.reports.verdicts import pair_verdict
from stitchwork.api.schemas.report_responses import (
    CompatibilityResponse,
    PairQuality,
    SpaceQuality,
)
from stitchwork.api.schemas.responses import Progress, ResourceRef
from stitchwork.errors import AnchorSetMismatchError, ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.diagnostics.cross_validation import (
    FOLDS,
    MAX_ANCHORS,
    AnchoredSpace,
    CrossValidationScore,
    Pair,
)
from stitchwork.geometry.diagnostics.space_pairs import PairComparison, compare_pairs
from stitchwork.geometry.linalg import evenly_spaced
from stitchwork.registry.registry import Registry
from stitchwork.registry.report_store import ReportStore
from stitchwork.resources import AnchorSet, Floats, Space

MAX_SPACES: Final = 1000
"""Spaces of one report, on all its pages."""
PAGE_SIZE: Final = 16
"""Sources on one page; each is compared with all other spaces."""
GROUP_SIZE: Final = 16
"""Spaces whose pairs with the sources of a page are computed in one call."""


class SpaceComparisons:
    """Comparisons of all pairs of spaces on an anchor set, each made once for its versions.

    Args:
        registry: Where anchors come from.
        store: Where comparisons are kept.
    """

    def __init__(self, registry: Registry, store: ReportStore) -> None:
        self._registry = registry
        self._store = store

    def page(
        self,
        anchor_set: AnchorSet,
        names: Sequence[str] | None,
        bridge: BridgeName,
        cursor: str | None,
        headers: Mapping[str, str],
    ) -> ReportState:
        """One page of the report on an anchor set: the pairs of up to `PAGE_SIZE` sources.

        Args:
            anchor_set: The set.
            names: Ids of spaces on it; None compares all that are ready, in the order of their ids.
            bridge: The bridge of all pairs.
            cursor: The last source of the page before; None for the first page.
            headers: Headers of the response.

        Raises:
            InvalidInputError: If there are more than `MAX_SPACES`, or the cursor is none of the
                named spaces.
            AnchorSetMismatchError: If one of the named spaces is on another set.
            UnknownResourceError: If one of them is not registered.
            NotReadyError: If one of them has no ready version.
        """
        spaces = self._select(anchor_set, names)
        sources, next_cursor = _page_of(spaces, cursor, is_sorted=names is None)
        pairs = [(x.id, y.id) for x in sources for y in spaces if x is not y]
        keys = pair_names(spaces, pairs, bridge)
        stored = self._store.get(keys.values())
        missing = {pair: key for pair, key in keys.items() if key not in stored}
        response = None
        if not missing:
            anchors = min(anchor_set.size, MAX_ANCHORS)
            response = CompatibilityResponse(
                anchor_set=ResourceRef.of(anchor_set),
                bridge=bridge,
                anchors=anchors,
                folds=FOLDS,
                spaces=[_space_quality(space) for space in spaces],
                pairs=[
                    pair_quality(*pair, _comparison(stored[key]), anchors, bridge)
                    for pair, key in keys.items()
                ],
                cursor=next_cursor,
            )
        return ReportState(
            name=joint_name(keys.values()),
            response=response,
            progress=Progress(done=len(keys) - len(missing), total=len(keys)),
            parts=self._parts(spaces, list(missing), bridge),
            headers=headers,
        )

    def _select(self, anchor_set: AnchorSet, names: Sequence[str] | None) -> list[Space]:
        """The spaces with these names, or all ready spaces of the set by their ids."""
        if names is None:
            dependents = self._registry.anchor_sets.dependents(anchor_set.id)
            names = sorted(dependent.removeprefix("space:") for dependent in dependents)
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
        return list(spaces)

    def _parts(
        self, spaces: Sequence[Space], missing: Sequence[Pair], bridge: BridgeName
    ) -> list[ReportPart]:
        """The calls that compare these pairs: a group of targets with all sources in each.

        Both directions of a pair are compared, since to fit the spaces takes most of the time.
        """
        wanted = set(missing)
        by_id = {space.id: space for space in spaces}
        sources = list(dict.fromkeys(x for x, _ in missing))
        targets = list(dict.fromkeys(y for _, y in missing))
        parts = []
        for start in range(0, len(targets), GROUP_SIZE):
            group = targets[start : start + GROUP_SIZE]
            pairs = [(x, y) for x in sources for y in group if (x, y) in wanted]
            pairs = list(dict.fromkeys([*pairs, *((y, x) for x, y in pairs)]))
            keys = pair_names(spaces, pairs, bridge)
            compute = partial(self._compare, by_id, keys, bridge)
            parts.append(ReportPart(joint_name(keys.values()), compute))
        return parts

    def _compare(
        self,
        spaces: Mapping[str, Space],
        keys: Mapping[Pair, str],
        bridge: BridgeName,
        call: ProcessCall,
    ) -> dict[str, Any]:
        # Another report may have compared some of them since this one began.
        stored = self._store.get(keys.values())
        pairs = [pair for pair, key in keys.items() if key not in stored]
        if not pairs:
            return {}
        anchored = {
            name: AnchoredSpace(self._anchors(spaces[name]), spaces[name].parameters.checked())
            for name in dict.fromkeys(name for pair in pairs for name in pair)
        }
        results = call(compare_pairs, anchored, pairs, bridge)
        return {keys[pair]: _stored(result) for pair, result in results.items()}

    def _anchors(self, space: Space) -> Floats:
        anchors = self._registry.spaces.arrays(space.id, space.version)["anchors"]
        used: Floats = anchors[evenly_spaced(len(anchors), MAX_ANCHORS)]
        return used


def pair_names(
    spaces: Sequence[Space], pairs: Sequence[Pair], bridge: BridgeName
) -> dict[Pair, str]:
    """The names of stored comparisons, by pairs of ids."""
    versions = {space.id: space.version for space in spaces}
    return {(x, y): f"pair:{versions[x]}:{versions[y]}:{bridge}" for x, y in pairs}


def pair_quality(
    source: str, target: str, comparison: PairComparison, anchors: int, bridge: BridgeName
) -> PairQuality:
    """The response for one pair, with its verdict.

    Args:
        source: Id of the source.
        target: Id of the target.
        comparison: Their comparison.
        anchors: Number of anchors it used.
        bridge: The bridge it used.
    """
    score = comparison.score
    verdict = pair_verdict(score, comparison.agreement, anchors, bridge)
    return PairQuality(
        source=source,
        target=target,
        similarity=score and score.similarity,
        recall_at_1=score and score.recall,
        chance=score and score.chance,
        agreement=comparison.agreement,
        verdict=verdict.level,
        reason=verdict.reason,
    )


def _stored(comparison: PairComparison) -> list[Any]:
    """A comparison as the store has it."""
    return [comparison.score and list(comparison.score), comparison.agreement]


def _comparison(stored: Sequence[Any]) -> PairComparison:
    score, agreement = stored
    return PairComparison(score and CrossValidationScore(*score), agreement)


def _page_of(
    spaces: Sequence[Space], cursor: str | None, *, is_sorted: bool
) -> tuple[Sequence[Space], str | None]:
    """The sources after a cursor, and the cursor of the next page."""
    if cursor is None:
        rest = spaces
    elif is_sorted:
        # The space of the cursor may have been deleted since.
        rest = [space for space in spaces if space.id > cursor]
    else:
        ids = [space.id for space in spaces]
        if cursor not in ids:
            raise InvalidInputError(
                "cursor: expected the cursor of a previous page", pointer="/cursor"
            )
        rest = spaces[ids.index(cursor) + 1 :]
    page = rest[:PAGE_SIZE]
    return page, page[-1].id if len(rest) > len(page) else None


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
            f"expected at most {MAX_SPACES} spaces, got {len(names)}; name some of them by "
            "spaces=a,b,c",
            pointer="/spaces",
            code=ErrorCode.TOO_MANY_SPACES,
        )
