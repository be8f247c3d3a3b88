"""Embed and stitch raw inputs: one hop to a worker that holds the encoder."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api import openapi
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    DirectRoute,
    PathId,
    app_state,
    request_timeout,
    run_while_connected,
)
from stitchwork.api.openapi import body, with_timeout
from stitchwork.api.routes.queued_work import check_room, job_of, run
from stitchwork.api.routes.response_facts import outside, undefined, used
from stitchwork.api.schemas.inference_requests import EmbedRequest, StitchRequest
from stitchwork.api.schemas.responses import EmbedResponse, ResourceRef, StitchResponse
from stitchwork.geometry.calibration import Calibration
from stitchwork.inference.predictions import predictions
from stitchwork.resources import Head, Space, check_id

router = APIRouter(tags=["inference"], route_class=DirectRoute)


@router.post(
    "/embed/{encoder}",
    summary="Embed raw inputs",
    responses=openapi.rows(EmbedResponse),
    openapi_extra=with_timeout(body(EmbedRequest)),
)
async def embed(encoder: PathId, request: Request) -> Response:
    """Raw inputs as embeddings of a space that has an encoder or, with `target`, of another."""
    state, seconds = app_state(request), request_timeout(request)
    check_room(state, encoder)
    asked = await negotiation.read_body(request, EmbedRequest, state.limits)
    names = [check_id(encoder), *([asked.target] if asked.target else [])]
    spaces, stale = await asyncio.to_thread(state.registry.spaces.ready, *names)
    source, target = spaces[0], spaces[1] if asked.target else None
    job = job_of(source, target, bridge=asked.bridge, truncate=asked.truncate)
    reply = await run_while_connected(request, run(state, job, asked.items, seconds))
    state.telemetry.metrics.record_inputs("embed", reply.covered)
    response = EmbedResponse(
        embeddings=reply.rows, encoder=ResourceRef.of(source), truncated=list(reply.truncated)
    )
    roles, headers = {"source": source}, {}
    if target:
        beyond = outside(reply.covered, source)
        response = EmbedResponse(
            embeddings=reply.rows,
            encoder=ResourceRef.of(source),
            truncated=list(reply.truncated),
            target=ResourceRef.of(target),
            bridge=asked.bridge,
            undefined=undefined(reply.defined),
            uncovered=beyond.rows,
            warnings=beyond.warnings,
        )
        roles["target"], headers = target, beyond.headers
    return negotiation.rows_response(
        request,
        response,
        as_base64=asked.encoding_format == "base64",
        headers=used(stale, **roles) | headers,
    )


@router.post(
    "/stitch/{encoder}/{head}",
    summary="Classify raw inputs",
    response_model=StitchResponse,
    openapi_extra=with_timeout(body(StitchRequest)),
)
async def stitch(encoder: PathId, head: PathId, request: Request) -> Response:
    """Raw inputs, embedded by one model and classified by a head that was made for another."""
    state, seconds = app_state(request), request_timeout(request)
    check_room(state, encoder)
    asked = await negotiation.read_body(request, StitchRequest, state.limits)
    ids = check_id(encoder), check_id(head)

    def look_up() -> tuple[Space, Space, Head, Calibration | None, bool]:
        # All of it on one thread: each hop would be waited for.
        source, target, head, stale = state.registry.stitch(*ids)
        calibration = state.registry.calibrations.get(source, target, head, asked.bridge)
        return source, target, head, calibration, stale

    source, target, used_head, calibration, stale = await asyncio.to_thread(look_up)
    job = job_of(source, target, used_head, bridge=asked.bridge, truncate=asked.truncate)
    reply = await run_while_connected(request, run(state, job, asked.items, seconds))
    beyond = outside(reply.covered, source)
    said = predictions(
        reply.rows,  # type: ignore[arg-type]
        reply.defined,
        used_head.labels,
        asked.top,
        calibration,
    )
    state.telemetry.metrics.record_inputs("stitch", reply.covered)
    state.telemetry.metrics.record_confidences(used_head.id, [told.confidence for told in said])
    response = StitchResponse(
        predictions=said,
        encoder=ResourceRef.of(source),
        head=ResourceRef.of(used_head),
        bridge=asked.bridge,
        truncated=list(reply.truncated),
        uncovered=beyond.rows,
        warnings=beyond.warnings,
    )
    headers = used(stale, source=source, target=target, head=used_head)
    return negotiation.json_response(response, headers=headers | beyond.headers)
