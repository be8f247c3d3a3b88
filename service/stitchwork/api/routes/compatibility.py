"""What fits what: spaces among themselves by their anchors, an encoder and a head by a sample."""

import asyncio
from typing import Annotated, Final, NamedTuple

import numpy as np
from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    ID_SCHEMA,
    AppState,
    PathId,
    StateDep,
    request_timeout,
    run_while_connected,
)
from stitchwork.api.middleware import auth
from stitchwork.api.openapi import body, with_timeout
from stitchwork.api.reports import head_evaluation
from stitchwork.api.reports.head_evaluation import HeadScores
from stitchwork.api.reports.space_comparison import pair_quality
from stitchwork.api.routes.queued_work import job_of, run
from stitchwork.api.routes.response_facts import outside, undefined, used, width
from stitchwork.api.schemas.report_requests import HeadEvaluationRequest
from stitchwork.api.schemas.report_responses import (
    CalibrationResponse,
    CompatibilityResponse,
    HeadEvaluationResponse,
    SpaceQuality,
)
from stitchwork.api.schemas.responses import ResourceRef
from stitchwork.errors import (
    AnchorSetMismatchError,
    ConflictError,
    ErrorCode,
    InvalidInputError,
    UnavailableError,
)
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.geometry.classifier import probabilities
from stitchwork.geometry.diagnostics.cross_validation import FOLDS, MAX_ANCHORS
from stitchwork.inference.translator import check_pair
from stitchwork.resources import ID_PATTERN, AnchorSet, Floats, Head, Space, check_id

router = APIRouter(tags=["compatibility"])

MOST_SPACES: Final = 16
"""Spaces that are compared in one request: 240 pairs."""
_ONE: Final = ID_PATTERN.strip("^$")
IDS_PATTERN: Final = f"^{_ONE}(,{_ONE}){{0,{MOST_SPACES - 1}}}$"


@router.get(
    "/compatibility",
    summary="Compare the spaces of an anchor set",
    response_model=CompatibilityResponse,
    openapi_extra=with_timeout(),
)
async def matrix(
    request: Request,
    state: StateDep,
    anchor_set: Annotated[str, Query(description="Id of the set.", json_schema_extra=ID_SCHEMA)],
    bridge: BridgeName = DEFAULT_BRIDGE,
    spaces: Annotated[
        str | None,
        Query(
            description=f"Ids between commas, at most {MOST_SPACES}; unset: all.",
            json_schema_extra={"type": "string", "pattern": IDS_PATTERN},
        ),
    ] = None,
) -> Response:
    """All ordered pairs of spaces: how held-out anchors of one come back in the other, no labels.

    Computed once for each pair of versions. What takes longer than the request may is computed
    to its end all the same: ask again.
    """
    names = None if spaces is None else [check_id(name, "/spaces") for name in spaces.split(",")]
    check_id(anchor_set, "/anchor_set")
    return await state.comparison_executor.run(
        lambda: _matrix(state, anchor_set, names, bridge), request_timeout(request)
    )


def _matrix(state: AppState, set_id: str, names: list[str] | None, bridge: BridgeName) -> Response:
    (anchor_set,), stale = state.registry.anchor_sets.ready(set_id)
    spaces = _spaces(state, anchor_set, names)
    found = state.comparisons.compare(spaces, bridge)
    used = min(anchor_set.size, MAX_ANCHORS)
    return negotiation.json_response(
        CompatibilityResponse(
            anchor_set=ResourceRef.of(anchor_set),
            bridge=bridge,
            anchors=used,
            folds=FOLDS,
            spaces=[
                SpaceQuality(
                    id=space.id,
                    version=space.version,
                    dim=space.dim,
                    rank=space.rank,
                    condition_number=space.condition_number,
                    warnings=space.warnings,
                )
                for space in spaces
            ],
            pairs=[
                pair_quality(source, target, comparison, used, bridge)
                for (source, target), comparison in found.items()
            ],
        ),
        headers={"Stitchwork-Stale": "true"} if stale else {},
    )


def _spaces(state: AppState, anchor_set: AnchorSet, names: list[str] | None) -> list[Space]:
    """The spaces that are to be compared: those named, or all of the set that serve."""
    if names is None:
        kept = state.registry.anchor_sets.dependents(anchor_set.id)
        ids = [name.removeprefix("space:") for name in kept]
    else:
        ids = list(dict.fromkeys(names))
    if len(ids) > MOST_SPACES:
        raise InvalidInputError(
            f"expected at most {MOST_SPACES} spaces at once, got {len(ids)}; name some of them by "
            "spaces=a,b,c",
            pointer="/spaces",
            code=ErrorCode.TOO_MANY_SPACES,
        )
    if names is not None:
        chosen, _ = state.registry.spaces.ready(*ids)
        for space in chosen:
            if space.anchor_set_version != anchor_set.version or space.anchor_set != anchor_set.id:
                raise AnchorSetMismatchError(
                    f"space {space.id} is on anchor set {space.anchor_set}, not {anchor_set.id}",
                    pointer="/spaces",
                )
        return chosen
    entries = state.registry.spaces.read(*ids) if ids else []
    serving = [entry.record for entry in entries if entry.record]
    return [space for space in serving if space.anchor_set_version == anchor_set.version]


@router.post(
    "/compatibility/{encoder}/{head}",
    summary="Judge an encoder and a head by a labelled sample",
    response_model=HeadEvaluationResponse,
    openapi_extra=with_timeout(body(HeadEvaluationRequest, binary="embeddings")),
)
async def sample(encoder: PathId, head: PathId, request: Request, state: StateDep) -> Response:
    """Accuracy through the bridge, without one, and native; with `calibrate`, confidence learns."""
    seconds = request_timeout(request)
    state.executor.check_capacity()
    asked = await negotiation.read_body(
        request, HeadEvaluationRequest, state.limits, main="embeddings", raw=True
    )
    if asked.calibrate:
        # It changes what everyone else is told.
        auth.require_scope(request, auth.ADMIN)
    names = check_id(encoder), check_id(head)
    used_by = await asyncio.to_thread(_resolve, state, *names, asked)
    rows, native = await run_while_connected(request, _embedded(state, used_by, asked, seconds))
    return await state.executor.run(lambda: _judge(state, used_by, asked, rows, native), seconds)


class _Cast(NamedTuple):
    """The versions that play in one judgement."""

    source: Space
    target: Space
    head: Head
    truth: NDArray[np.int64]
    stale: bool


def _resolve(state: AppState, encoder: str, head_id: str, asked: HeadEvaluationRequest) -> _Cast:
    source, target, head, stale = state.registry.stitch(encoder, head_id)
    check_pair(source, target, asked.bridge)
    truth = head_evaluation.class_indices(asked.labels, head)
    if asked.embeddings is not None:
        width(asked.embeddings, source)
    if asked.native_embeddings is not None:
        width(asked.native_embeddings, target, "/native_embeddings")
    return _Cast(source, target, head, truth, stale)


async def _embedded(
    state: AppState, cast: _Cast, asked: HeadEvaluationRequest, seconds: float
) -> tuple[Floats, Floats | str]:
    """The sample in the source's space and in the head's own, or why it is not there."""

    async def embed(space: Space) -> Floats:
        job = job_of(space, truncate=asked.truncate)
        reply = await run(state, job, asked.items or [], seconds)
        embedded: Floats = reply.rows  # type: ignore[assignment]
        return embedded

    async def own() -> Floats | str:
        if asked.native_embeddings is not None:
            given: Floats = asked.native_embeddings
            return given
        if asked.items is None:
            return f"send native_embeddings of space {cast.target.id} to compare with"
        try:
            return await embed(cast.target)
        except (InvalidInputError, ConflictError, UnavailableError) as error:
            # It is only what the answer is compared with.
            return f"the items were not embedded in space {cast.target.id}: {error.message}"

    alone = cast.source.version == cast.target.version
    beside = None if alone else asyncio.ensure_future(own())
    try:
        rows = asked.embeddings
        if rows is None:
            rows = await embed(cast.source)
        return rows, rows if beside is None else await beside
    finally:
        if beside:
            beside.cancel()


def _judge(
    state: AppState, cast: _Cast, asked: HeadEvaluationRequest, rows: Floats, native: Floats | str
) -> Response:
    source, target, head, truth, stale = cast

    def scored(rows: Floats, origin: Space, bridge: BridgeName) -> HeadScores:
        there, defined, covered = state.translator.way(origin, target, bridge).apply(rows)
        return HeadScores(
            probabilities(state.classifiers.get(head).logits(there)), defined, covered
        )

    through = scored(rows, source, asked.bridge)
    absolute = (
        scored(rows, source, "none")
        if source.dim == target.dim
        else f"space {source.id} is {source.dim} wide, the head takes {target.dim}"
    )
    own = native if isinstance(native, str) else scored(native, target, "none")
    evaluation = head_evaluation.evaluate(truth, through, absolute, own, head, asked.bridge)
    beyond = outside(through.covered, source)
    calibrations = state.registry.calibrations
    optional = {}
    if asked.calibrate:
        fitted, confidence = head_evaluation.calibrate(through, truth)
        calibrations.put(source, target, head, asked.bridge, fitted, len(truth))
        optional["calibration"] = CalibrationResponse(slope=fitted.slope, offset=fitted.offset)
    else:
        known = calibrations.get(source, target, head, asked.bridge)
        confidence = head_evaluation.confidence_quality(through, truth, known)
    answer = HeadEvaluationResponse(
        encoder=ResourceRef.of(source),
        head=ResourceRef.of(head),
        bridge=asked.bridge,
        samples=evaluation.samples,
        chance=evaluation.chance,
        absolute=evaluation.absolute,
        translated=evaluation.translated,
        native=evaluation.native,
        verdict=evaluation.verdict.level,
        reason=evaluation.verdict.reason,
        undefined=undefined(through.defined),
        uncovered=beyond.rows,
        warnings=beyond.warnings,
        confidence=confidence,
        **optional,
    )
    return negotiation.json_response(
        answer, headers=used(stale, source=source, target=target, head=head)
    )
