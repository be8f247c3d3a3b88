"""Stitch: embed raw inputs and classify them, in one round trip to a worker."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api.blank_texts import infer_present
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    AppState,
    PathId,
    app_state,
    request_timeout,
)
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.early_checks import check_encoder
from stitchwork.api.openapi import body as request_body
from stitchwork.api.openapi import with_timeout
from stitchwork.api.predictions_response import check_request, predictions_response
from stitchwork.api.provenance import prompt_field
from stitchwork.api.raw_inputs import check_truncate, resolve_now
from stitchwork.api.schemas.inference_requests import StitchRequest
from stitchwork.api.schemas.responses import ResourceRef, StitchResponse
from stitchwork.ids import check_id
from stitchwork.inference.resolve import head_of
from stitchwork.inference.stitch import InferenceResult

router = APIRouter(tags=["inference"], route_class=DirectRoute)


@router.post(
    "/stitch/{encoder}/{head}",
    summary="Classify raw inputs",
    response_model=StitchResponse,
    openapi_extra=with_timeout(request_body(StitchRequest, accepts_raw_inputs=True)),
)
async def stitch(encoder: PathId, head: PathId, request: Request) -> Response:
    """Embed raw inputs with one encoder and classify them with a head made for another."""
    state, seconds = app_state(request), request_timeout(request)
    await check_encoder(request, state, encoder, head=head)
    payload = await negotiation.read_body(
        request, StitchRequest, state.body_parser, accepts_raw_inputs=True
    )
    resolution = await resolve_now(
        state, source=check_id(encoder), head=check_id(head), bridge=payload.bridge
    )
    check_truncate(resolution, payload.truncate)
    check_request(payload, len(payload.items), head_of(resolution), state.limits)
    result, nulls = await infer_present(
        request,
        state,
        resolution,
        payload.items,
        skips_blank=payload.blank_texts == "null",
        truncate=payload.truncate,
        input_type=payload.input_type,
        seconds=seconds,
    )
    render = partial(_stitch_response, state, payload, result, nulls)
    return await state.executor.finish(render, result.rows.size)


def _stitch_response(
    state: AppState, payload: StitchRequest, result: InferenceResult, nulls: frozenset[int]
) -> Response:
    return predictions_response(
        state.pipeline,
        StitchResponse,
        result,
        payload,
        nulls,
        encoder=ResourceRef.of(result.resolution.source),
        truncated=list(result.truncated),
        **prompt_field(payload.input_type, result),
    )
