"""Reports on the anchors of a space and, with a target, of a pair of spaces."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.api.reports.report_jobs import ProcessCall, ReportPart, ReportState
from stitchwork.api.schemas.report_responses import (
    AnchorMapResponse,
    AnchorName,
    AnchorReportResponse,
    ChosenAnchor,
    ChosenAnchorsResponse,
    DuplicateAnchors,
    LearningCurvePointResponse,
    LearningCurveResponse,
    MisalignedAnchor,
    NearestAnchor,
    NearestAnchorsResponse,
    RedundantAnchor,
)
from stitchwork.api.schemas.responses import Progress, ResourceRef
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.diagnostics.anchor_quality import (
    AnchorQuality,
    anchor_quality,
    sample_indices,
)
from stitchwork.geometry.diagnostics.anchor_selection import choose_anchors
from stitchwork.geometry.diagnostics.learning_curve import LearningCurve
from stitchwork.geometry.diagnostics.misalignment import MisalignedPair
from stitchwork.geometry.diagnostics.redundancy import AnchorCandidate, Duplicates
from stitchwork.geometry.frame import Frame, relative_representation, unit_rows
from stitchwork.geometry.maps import Origin
from stitchwork.registry.registry import Registry
from stitchwork.registry.report_store import ReportStore
from stitchwork.resources import AnchorSet, Floats, Space, unpack_items

Namer = Callable[[int], AnchorName]

BLOCK: Final = 256
"""Rows whose cosines to all anchors are in memory at a time."""
MAX_TEXT: Final = 200
"""Characters of an anchor's text in a response."""


class AnchorReports:
    """Reports on anchors, each computed once for its versions.

    Args:
        registry: Where anchors come from.
        store: Where reports are kept.
    """

    def __init__(self, registry: Registry, store: ReportStore) -> None:
        self._registry = registry
        self._store = store

    def report(
        self,
        space: Space,
        target: Space | None,
        bridge: BridgeName,
        headers: Mapping[str, str],
    ) -> ReportState:
        """The report of a space, and of its pair with a target.

        Args:
            space: The space.
            target: A space on the same anchor set; None reports on the space alone, and its
                learning curve translates it onto itself.
            bridge: The bridge of the learning curve.
            headers: Headers of the response.
        """
        refs = [f"{record.id}@{record.version}" for record in (space, target) if record]
        name = ":".join(("anchors", *refs, bridge))
        stored = self._store.get([name])
        response = None
        if stored:
            response = AnchorReportResponse.model_validate(stored[name])
        part = ReportPart(name, partial(self._compute, name, space, target, bridge))
        return ReportState(
            name=name,
            response=response,
            progress=Progress(done=len(stored), total=1),
            parts=[] if stored else [part],
            headers=headers,
        )

    def _compute(
        self,
        name: str,
        space: Space,
        target: Space | None,
        bridge: BridgeName,
        call: ProcessCall,
    ) -> dict[str, Any]:
        if self._store.get([name]):
            return {}  # Another process has computed it since this one read the store.
        (anchor_set,), _ = self._registry.anchor_sets.ready(space.anchor_set)
        anchors = self._anchors(space)
        quality = call(
            anchor_quality,
            anchors,
            target and self._anchors(target),
            bridge,
            space.parameters.checked(),
            (target or space).parameters.checked(),
        )
        response = _response(space, target, bridge, quality, _namer(anchor_set))
        return {name: response.model_dump(mode="json")}

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

    def nearest(self, rows: Floats, count: int, space: Space) -> NearestAnchorsResponse:
        """The anchors that rows have the largest cosines to; none for a row without a direction.

        Args:
            rows: (n, d) float32 embeddings of the space, need not be unit.
            count: Number of anchors for each row, at most.
            space: The space.
        """
        (anchor_set,), _ = self._registry.anchor_sets.ready(space.anchor_set)
        name, text = _namer(anchor_set), self._texter(anchor_set)
        frame = self._registry.frame(space)
        # As a translation has it, which computes in the rows' own precision.
        _, defined = Origin.from_mean(frame.mean).unit_rows(rows)
        nearest: list[list[NearestAnchor]] = [[] for _ in rows]
        for start in range(0, len(rows), BLOCK):
            cosines = relative_representation(rows[start : start + BLOCK], frame)
            for i, indices in enumerate(largest_indices(cosines, count), start):
                if defined[i]:
                    row = cosines[i - start]
                    nearest[i] = [
                        NearestAnchor(anchor=name(j), cosine=round(float(row[j]), 6), text=text(j))
                        for j in indices.tolist()
                    ]
        return NearestAnchorsResponse(
            space=ResourceRef.of(space),
            nearest=nearest,
            undefined=np.flatnonzero(~defined).tolist(),
        )

    def _texter(self, anchor_set: AnchorSet) -> Callable[[int], str | None]:
        """Returns the beginnings of the texts of a set; None where its anchors have none."""
        if not anchor_set.has_items or anchor_set.modality != "text":
            return _no_text
        arrays = self._registry.anchor_sets.arrays(anchor_set.id, anchor_set.version)
        texts = unpack_items(arrays, "text")
        return lambda index: str(texts[index])[:MAX_TEXT]

    def _anchors(self, space: Space) -> Floats:
        anchors: Floats = self._registry.spaces.arrays(space.id, space.version)["anchors"]
        return anchors


def _no_text(_: int) -> None:
    """The text of an anchor that has none."""


def largest_indices(values: Floats, count: int) -> Iterator[NDArray[np.intp]]:
    """For each row the indices of its largest values, in descending order, then by index.

    Args:
        values: (n, k).
        count: Number of indices for each row, at most.
    """
    count = min(count, values.shape[1])
    for row in values:
        # Not all values are sorted: there may be many, of which few are wanted.
        candidates = np.flatnonzero(row >= np.partition(row, -count)[-count])
        order = np.argsort(-row[candidates], kind="stable")[:count]
        yield candidates[order]


def _response(
    space: Space,
    target: Space | None,
    bridge: BridgeName,
    quality: AnchorQuality,
    name: Namer,
) -> AnchorReportResponse:
    def used_name(row: int) -> AnchorName:
        return name(int(quality.used[row]))

    suspects = quality.misaligned
    return AnchorReportResponse(
        space=ResourceRef.of(space),
        target=target and ResourceRef.of(target),
        bridge=bridge,
        anchors=space.size,
        compared=quality.compared,
        used=len(quality.used),
        duplicates=_duplicates(quality.duplicates, name),
        drop=[_redundant(step, used_name) for step in quality.redundant],
        learning_curve=_learning_curve(quality.curve),
        misaligned=suspects and [_misaligned(suspect, used_name) for suspect in suspects],
        spectrum=[round(share, 6) for share in quality.projection.spectrum.tolist()],
        map=_map(quality, name),
    )


def _map(quality: AnchorQuality, name: Namer) -> AnchorMapResponse:
    def points(rows: NDArray[np.float64] | None) -> list[tuple[float, float]] | None:
        return None if rows is None else [(x, y) for x, y in rows.round(4).tolist()]

    return AnchorMapResponse(
        anchors=[name(index) for index in quality.projected.tolist()],
        source=points(quality.projection.source) or [],
        target=points(quality.projection.target),
        translated=points(quality.projection.translated),
    )


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
