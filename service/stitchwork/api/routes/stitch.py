"""Embed and stitch raw inputs, in one round trip to a worker that runs the encoder."""

import asyncio
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api import openapi
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    AppState,
    DirectRoute,
    PathId,
    app_state,
    request_timeout,
    run_while_connected,
)
from stitchwork.api.openapi import body as request_body
from stitchwork.api.openapi import with_timeout
from stitchwork.api.routes.provenance import result_headers
from stitchwork.api.routes.raw_inputs import check_capacity, infer_items
from stitchwork.api.schemas.inference_requests import EmbedRequest, StitchRequest
from stitchwork.api.schemas.responses import EmbedResponse, ResourceRef, StitchResponse
from stitchwork.inference.resolve import head_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import check_id

router = APIRouter(tags=["inference"], route_class=DirectRoute)


@router.post(
    "/embed/{encoder}",
    summary="Embed raw inputs",
    responses=openapi.rows(EmbedResponse),
    openapi_extra=with_timeout(request_body(EmbedRequest)),
)
async def embed(encoder: PathId, request: Request) -> Response:
    """Embed raw inputs in a space that has an encoder and, with `target`, translate them."""
    state, seconds = app_state(request), request_timeout(request)
    check_capacity(state, encoder)
    payload = await negotiation.read_body(request, EmbedRequest, state.limits)
    ids = {"source": check_id(encoder), "target": payload.target}
    result = await _infer(request, state, payload, seconds, **ids)
    render = partial(_embed_response, request, payload, result)
    return await state.executor.finish(render, result.rows.size)


def _embed_response(request: Request, payload: EmbedRequest, result: InferenceResult) -> Response:
    resolution = result.resolution
    response = EmbedResponse(
        embeddings=result.rows,
        encoder=ResourceRef.of(resolution.source),
        truncated=list(result.truncated),
    )
    if resolution.target:
        response = EmbedResponse(
            embeddings=result.rows,
            encoder=ResourceRef.of(resolution.source),
            truncated=list(result.truncated),
            target=ResourceRef.of(resolution.target),
            bridge=payload.bridge,
            undefined=result.undefined,
            uncovered=result.coverage.uncovered,
            warnings=result.warnings,
        )
    return negotiation.rows_response(
        request,
        response,
        as_base64=payload.encoding_format == "base64",
        headers=result_headers(result),
    )


@router.post(
    "/stitch/{encoder}/{head}",
    summary="Classify raw inputs",
    response_model=StitchResponse,
    openapi_extra=with_timeout(request_body(StitchRequest)),
)
async def stitch(encoder: PathId, head: PathId, request: Request) -> Response:
    """Embed raw inputs with one encoder and classify them with a head made for another."""
    state, seconds = app_state(request), request_timeout(request)
    check_capacity(state, encoder)
    payload = await negotiation.read_body(request, StitchRequest, state.limits)
    ids = {"source": check_id(encoder), "head": check_id(head)}
    result = await _infer(request, state, payload, seconds, **ids)
    render = partial(_stitch_response, state, payload, result)
    return await state.executor.finish(render, result.rows.size)


def _stitch_response(state: AppState, payload: StitchRequest, result: InferenceResult) -> Response:
    resolution = result.resolution
    response = StitchResponse(
        predictions=state.pipeline.predict(result, payload.top),
        encoder=ResourceRef.of(resolution.source),
        head=ResourceRef.of(head_of(resolution)),
        bridge=payload.bridge,
        truncated=list(result.truncated),
        uncovered=result.coverage.uncovered,
        warnings=result.warnings,
    )
    return negotiation.json_response(response, headers=result_headers(result))


async def _infer(
    request: Request,
    state: AppState,
    payload: EmbedRequest | StitchRequest,
    seconds: float,
    **ids: str | None,
) -> InferenceResult:
    """Resolve the ids, and run the items through the pipeline while the client is connected."""
    resolve = partial(state.pipeline.resolve, **ids, bridge=payload.bridge)
    resolution = await asyncio.to_thread(resolve)
    inference = infer_items(
        state, resolution, payload.items, truncate=payload.truncate, seconds=seconds
    )
    return await run_while_connected(request, inference)
