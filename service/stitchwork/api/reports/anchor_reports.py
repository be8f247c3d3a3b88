"""Reports on the anchors of a space and, with a target, of a pair of spaces."""

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from threading import Lock
from typing import Final

import numpy as np
from cachetools import LRUCache, cachedmethod
from numpy.typing import NDArray

from stitchwork.api.schemas.report_responses import (
    AnchorName,
    AnchorReportResponse,
    ChosenAnchor,
    ChosenAnchorsResponse,
    DuplicateAnchors,
    LearningCurvePointResponse,
    LearningCurveResponse,
    MisalignedAnchor,
    RedundantAnchor,
)
from stitchwork.api.schemas.responses import ResourceRef
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.diagnostics.anchor_selection import choose_anchors
from stitchwork.geometry.diagnostics.learning_curve import LearningCurve, learning_curve
from stitchwork.geometry.diagnostics.misalignment import MisalignedPair, misaligned_pairs
from stitchwork.geometry.diagnostics.redundancy import (
    MAX_COMPARED,
    AnchorCandidate,
    Duplicates,
    find_duplicates,
    redundant_anchors,
)
from stitchwork.geometry.frame import Frame, unit_rows
from stitchwork.geometry.linalg import evenly_spaced
from stitchwork.registry.registry import Registry
from stitchwork.resources import AnchorSet, Floats, Space

MAX_ANCHORS: Final = 2000
"""Evenly spaced anchors that are used where the cost grows with their square or more."""
MAX_REDUNDANT: Final = 10
MAX_REPORTS: Final = 256

Key = tuple[str, str | None, str]
Namer = Callable[[int], AnchorName]


def _key(_: object, space: Space, target: Space | None, bridge: BridgeName) -> Key:
    return space.version, target.version if target else None, bridge


class AnchorReports:
    """Reports of this process, each computed once for its versions.

    Args:
        registry: Where anchors come from.
        max_reports: Reports to keep; the least recently used is dropped first.
    """

    def __init__(self, registry: Registry, max_reports: int = MAX_REPORTS) -> None:
        self._registry = registry
        self._cache: LRUCache[Key, AnchorReportResponse] = LRUCache(max_reports)
        self._lock = Lock()

    @cachedmethod(attrgetter("_cache"), key=_key, lock=attrgetter("_lock"))
    def report(
        self, space: Space, target: Space | None, bridge: BridgeName
    ) -> AnchorReportResponse:
        """The report of a space, and of its pair with a target.

        Args:
            space: The space.
            target: A space on the same anchor set; None reports on the space alone, and its
                learning curve translates it onto itself.
            bridge: The bridge of the learning curve.
        """
        (anchor_set,), _ = self._registry.anchor_sets.ready(space.anchor_set)
        anchors = self._anchors(space)
        used = sample_indices(len(anchors))
        whole = Frame.from_anchors(anchors)
        part = _subset(whole, used)
        target_anchors = anchors if target is None else self._anchors(target)
        curve = learning_curve(
            anchors[used],
            target_anchors[used],
            bridge,
            space.parameters.checked(),
            (target or space).parameters.checked(),
        )
        compared = min(len(anchors), MAX_COMPARED)
        groups = find_duplicates(_subset(whole, np.arange(compared)))
        suspects = None
        if target is not None:
            suspects = misaligned_pairs(part, _subset(Frame.from_anchors(target_anchors), used))
        name = _namer(anchor_set)

        def used_name(row: int) -> AnchorName:
            return name(int(used[row]))

        return AnchorReportResponse(
            space=ResourceRef.of(space),
            target=target and ResourceRef.of(target),
            bridge=bridge,
            anchors=len(anchors),
            compared=compared,
            used=len(used),
            duplicates=_duplicates(groups, name),
            drop=[_redundant(step, used_name) for step in redundant_anchors(part, MAX_REDUNDANT)],
            learning_curve=_learning_curve(curve),
            misaligned=suspects and [_misaligned(suspect, used_name) for suspect in suspects],
        )

    def choose(self, pool: Floats, count: int, space: Space | None) -> ChosenAnchorsResponse:
        """The rows of a pool to take as anchors.

        Args:
            pool: (n, d) float32 embeddings of one encoder.
            count: Number of rows to choose, at most.
            space: A space of this encoder, whose anchors count as chosen; None if there is none.
        """
        anchors, mean = None, pool.mean(axis=0, dtype=np.float64)
        if space is not None:
            rows = self._anchors(space)
            frame = Frame.from_anchors(rows)
            anchors, mean = frame.unit_anchors[sample_indices(len(rows))], frame.mean
        unit = unit_rows(pool, mean.astype(np.float32))
        steps = choose_anchors(unit, count, anchors)
        return ChosenAnchorsResponse(
            space=space and ResourceRef.of(space),
            pool=len(pool),
            chosen=[ChosenAnchor(index=step.row, distance=step.distance) for step in steps],
        )

    def _anchors(self, space: Space) -> Floats:
        anchors: Floats = self._registry.spaces.arrays(space.id, space.version)["anchors"]
        return anchors


def sample_indices(count: int) -> NDArray[np.int64]:
    """Indices of the anchors that are used: all, or `MAX_ANCHORS` evenly spaced ones."""
    return evenly_spaced(count, MAX_ANCHORS)


def _subset(whole: Frame, rows: NDArray[np.int64]) -> Frame:
    """The same frame with some of its anchors."""
    return replace(whole, unit_anchors=whole.unit_anchors[rows])


def _namer(anchor_set: AnchorSet) -> Namer:
    """Names anchors by their ids or, in a set without ids, by their indices."""
    ids = range(anchor_set.size) if anchor_set.ids is None else anchor_set.ids
    return lambda index: ids[index]


def _duplicates(groups: Duplicates, name: Namer) -> DuplicateAnchors:
    return DuplicateAnchors(
        exact=[[name(i) for i in group] for group in groups.exact],
        near=[[name(i) for i in group] for group in groups.near],
    )


def _redundant(step: AnchorCandidate, name: Namer) -> RedundantAnchor:
    return RedundantAnchor(anchor=name(step.row), distance=step.distance)


def _learning_curve(curve: LearningCurve) -> LearningCurveResponse:
    points = [
        LearningCurvePointResponse(
            anchors=point.anchors, similarity=point.similarity, std=point.std
        )
        for point in curve.points
    ]
    return LearningCurveResponse(
        points=points, doubled=curve.doubled, enough=curve.enough, reason=curve.reason
    )


def _misaligned(suspect: MisalignedPair, name: Namer) -> MisalignedAnchor:
    return MisalignedAnchor(
        anchor=name(suspect.pair),
        probability=suspect.probability,
        cosine=suspect.cosine,
        rank=suspect.rank,
        fits=name(suspect.best_match),
    )
