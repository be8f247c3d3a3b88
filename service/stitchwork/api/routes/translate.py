"""Translate embeddings, without a worker."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api import openapi
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import AppState, DirectRoute, app_state, request_timeout
from stitchwork.api.openapi import body as request_body
from stitchwork.api.openapi import with_timeout
from stitchwork.api.provenance import result_headers
from stitchwork.api.schemas.inference_requests import TranslateRequest
from stitchwork.api.schemas.responses import ResourceRef, TranslateResponse
from stitchwork.inference.resolve import check_width

router = APIRouter(tags=["inference"], route_class=DirectRoute)


@router.post(
    "/translate",
    summary="Translate embeddings",
    responses=openapi.rows(TranslateResponse),
    openapi_extra=with_timeout(request_body(TranslateRequest, array_field="embeddings")),
)
async def translate(request: Request) -> Response:
    """Translate embeddings of one space into another on the same anchor set."""
    state, seconds = app_state(request), request_timeout(request)
    state.executor.check_capacity()
    body = await negotiation.receive_body(
        request, TranslateRequest, state.limits, array_field="embeddings"
    )
    return await state.executor.run(lambda: _translate(request, state, body.read()), seconds)


def _translate(request: Request, state: AppState, payload: TranslateRequest) -> Response:
    resolution = state.pipeline.resolve(
        source=payload.source, target=payload.target, bridge=payload.bridge
    )
    check_width(payload.embeddings, resolution.source)
    result = state.pipeline.infer_rows(resolution, payload.embeddings)
    response = TranslateResponse(
        embeddings=result.rows,
        source=ResourceRef.of(resolution.source),
        target=ResourceRef.of(resolution.destination),
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
