"""Translate embeddings, without a worker."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api import openapi
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import AppState, app_state, request_timeout
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.early_checks import check_registered
from stitchwork.api.openapi import body as request_body
from stitchwork.api.openapi import with_timeout
from stitchwork.api.provenance import result_headers
from stitchwork.api.row_inference import RowsRequest, infer_rows
from stitchwork.api.schemas.inference_requests import TranslateRequest
from stitchwork.api.schemas.responses import ResourceRef, TranslateResponse
from stitchwork.inference.resolve import Resolution, check_width
from stitchwork.inference.stitch import InferenceResult

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
    await check_registered(request, state, parameters=("source", "target"))
    payload = await negotiation.read_body(
        request, TranslateRequest, state.body_parser, array_field="embeddings"
    )
    content = RowsRequest(payload.embeddings, payload.bridge, payload.source, payload.target)
    check = partial(_check, request, state, payload)
    return await infer_rows(
        request, state, content, check, partial(_respond, request, payload), seconds
    )


def _check(
    request: Request, state: AppState, payload: TranslateRequest, resolution: Resolution
) -> None:
    check_width(payload.embeddings, resolution.source)
    shape = (len(payload.embeddings), resolution.destination.dim)
    as_base64 = payload.encoding_format == "base64"
    negotiation.check_rows(request, shape, state.limits, as_base64=as_base64)


def _respond(request: Request, payload: TranslateRequest, result: InferenceResult) -> Response:
    resolution = result.resolution
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
