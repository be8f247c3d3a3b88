"""What fits what: spaces among themselves by their anchors, an encoder and a head by a sample."""

import asyncio
from typing import Annotated, Final

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
from stitchwork.api.routes.provenance import result_headers
from stitchwork.api.routes.raw_inputs import infer_items
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
from stitchwork.geometry.diagnostics.cross_validation import FOLDS, MAX_ANCHORS
from stitchwork.inference.resolve import Resolution, check_width
from stitchwork.resources import ID_PATTERN, AnchorSet, Floats, Space, check_id

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
    count = min(anchor_set.size, MAX_ANCHORS)
    return negotiation.json_response(
        CompatibilityResponse(
            anchor_set=ResourceRef.of(anchor_set),
            bridge=bridge,
            anchors=count,
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
                pair_quality(source, target, comparison, count, bridge)
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
    payload = await negotiation.read_body(
        request, HeadEvaluationRequest, state.limits, main="embeddings", raw=True
    )
    if payload.calibrate:
        # It changes the confidence of everyone's predictions.
        auth.require_scope(request, auth.ADMIN)
    ids = check_id(encoder), check_id(head)
    resolution, truth = await asyncio.to_thread(_resolve, state, *ids, payload)
    embedding = _embed_sample(state, resolution, payload, seconds)
    rows, native = await run_while_connected(request, embedding)
    return await state.executor.run(
        lambda: _evaluate(state, resolution, truth, payload, rows, native), seconds
    )


def _resolve(
    state: AppState, encoder: str, head_id: str, payload: HeadEvaluationRequest
) -> tuple[Resolution, NDArray[np.int64]]:
    """The versions to evaluate, and the true classes of the sample."""
    resolution = state.pipeline.resolve(source=encoder, head=head_id, bridge=payload.bridge)
    head = resolution.head
    assert head is not None  # noqa: S101 a head was named
    truth = head_evaluation.class_indices(payload.labels, head)
    if payload.embeddings is not None:
        check_width(payload.embeddings, resolution.source)
    if payload.native_embeddings is not None:
        check_width(payload.native_embeddings, resolution.destination, "/native_embeddings")
    return resolution, truth


async def _embed_sample(
    state: AppState, resolution: Resolution, payload: HeadEvaluationRequest, seconds: float
) -> tuple[Floats, Floats | str]:
    """The sample in the source's space and in the head's own, or why it is not there."""
    source, target = resolution.source, resolution.destination

    async def embed(space: Space) -> Floats:
        result = await infer_items(
            state,
            Resolution(space),
            payload.items or [],
            truncate=payload.truncate,
            seconds=seconds,
        )
        rows: Floats = result.rows
        return rows

    async def embed_native() -> Floats | str:
        if payload.native_embeddings is not None:
            native: Floats = payload.native_embeddings
            return native
        if payload.items is None:
            return f"send native_embeddings of space {target.id} to compare with"
        try:
            return await embed(target)
        except (InvalidInputError, ConflictError, UnavailableError) as error:
            # It is only for comparison.
            return f"the items were not embedded in space {target.id}: {error.message}"

    is_native = source.version == target.version
    task = None if is_native else asyncio.ensure_future(embed_native())
    try:
        rows = payload.embeddings
        if rows is None:
            rows = await embed(source)
        return rows, rows if task is None else await task
    finally:
        if task:
            task.cancel()


def _evaluate(
    state: AppState,
    resolution: Resolution,
    truth: NDArray[np.int64],
    payload: HeadEvaluationRequest,
    rows: Floats,
    native: Floats | str,
) -> Response:
    source, target, head = resolution.source, resolution.destination, resolution.head
    assert head is not None  # noqa: S101 `_resolve` named one

    def score(rows: Floats, origin: Space, bridge: BridgeName) -> HeadScores:
        result = state.pipeline.stitch_rows(Resolution(origin, target, head, bridge), rows)
        return HeadScores(result.rows, result.defined, result.covered)

    result = state.pipeline.stitch_rows(resolution, rows)
    translated = HeadScores(result.rows, result.defined, result.covered)
    absolute = (
        score(rows, source, "none")
        if source.dim == target.dim
        else f"space {source.id} is {source.dim} wide, the head takes {target.dim}"
    )
    own = native if isinstance(native, str) else score(native, target, "none")
    evaluation = head_evaluation.evaluate(truth, translated, absolute, own, head, payload.bridge)
    optional = {}
    if payload.calibrate:
        fitted, confidence = head_evaluation.calibrate(translated, truth)
        calibrations = state.pipeline.registry.calibrations
        calibrations.put(source, target, head, payload.bridge, fitted, len(truth))
        optional["calibration"] = CalibrationResponse(slope=fitted.slope, offset=fitted.offset)
    else:
        confidence = head_evaluation.confidence_quality(translated, truth, resolution.calibration)
    response = HeadEvaluationResponse(
        encoder=ResourceRef.of(source),
        head=ResourceRef.of(head),
        bridge=payload.bridge,
        samples=evaluation.samples,
        chance=evaluation.chance,
        absolute=evaluation.absolute,
        translated=evaluation.translated,
        native=evaluation.native,
        verdict=evaluation.verdict.level,
        reason=evaluation.verdict.reason,
        undefined=result.undefined,
        uncovered=result.coverage.uncovered,
        warnings=result.coverage.warnings,
        confidence=confidence,
        **optional,
    )
    return negotiation.json_response(response, headers=result_headers(result))
