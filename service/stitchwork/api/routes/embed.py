"""Embed raw inputs, in one round trip to a worker that runs the encoder."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api import openapi
from stitchwork.api.blank_texts import infer_present
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    PathId,
    app_state,
    request_timeout,
)
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.early_checks import check_encoder
from stitchwork.api.openapi import body as request_body
from stitchwork.api.openapi import with_timeout
from stitchwork.api.provenance import prompt_field, result_headers
from stitchwork.api.raw_inputs import check_truncate, resolve_now
from stitchwork.api.schemas.inference_requests import EmbedRequest
from stitchwork.api.schemas.responses import EmbedResponse, ResourceRef
from stitchwork.ids import check_id
from stitchwork.inference.stitch import InferenceResult

router = APIRouter(tags=["inference"], route_class=DirectRoute)


@router.post(
    "/embed/{encoder}",
    summary="Embed raw inputs",
    responses=openapi.rows(EmbedResponse),
    openapi_extra=with_timeout(request_body(EmbedRequest, accepts_raw_inputs=True)),
)
async def embed(encoder: PathId, request: Request) -> Response:
    """Embed raw inputs in a space that has an encoder and, with `target`, translate them."""
    state, seconds = app_state(request), request_timeout(request)
    await check_encoder(request, state, encoder)
    payload = await negotiation.read_body(
        request, EmbedRequest, state.body_parser, accepts_raw_inputs=True
    )
    resolution = await resolve_now(
        state,
        source=check_id(encoder),
        target=payload.target,
        bridge=payload.bridge,
    )
    check_truncate(resolution, payload.truncate)
    shape = (len(payload.items), resolution.destination.dim)
    as_base64 = payload.encoding_format == "base64"
    skips_blank = payload.blank_texts == "null"
    if skips_blank:
        negotiation.check_nullable(request)
    negotiation.check_rows(request, shape, state.limits, as_base64=as_base64, nullable=skips_blank)
    result, nulls = await infer_present(
        request,
        state,
        resolution,
        payload.items,
        skips_blank=skips_blank,
        truncate=payload.truncate,
        input_type=payload.input_type,
        seconds=seconds,
    )
    render = partial(_embed_response, request, payload, result, nulls)
    return await state.executor.finish(render, result.rows.size)


def _embed_response(
    request: Request, payload: EmbedRequest, result: InferenceResult, nulls: frozenset[int]
) -> Response:
    resolution = result.resolution
    fields: dict[str, Any] = prompt_field(payload.input_type, result)
    if resolution.target is not None:
        fields |= {
            "target": ResourceRef.of(resolution.target),
            "bridge": payload.bridge,
            "undefined": result.undefined,
            "uncovered": result.coverage.uncovered,
        }
    response = EmbedResponse(
        embeddings=result.rows,
        encoder=ResourceRef.of(resolution.source),
        truncated=list(result.truncated),
        warnings=result.warnings,
        **fields,
    )
    return negotiation.rows_response(
        request,
        response,
        as_base64=payload.encoding_format == "base64",
        nulls=nulls if payload.blank_texts == "null" else None,
        headers=result_headers(result),
    )
