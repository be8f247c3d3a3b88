"""Classify embeddings, without a worker."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import AppState, PathId, app_state, request_timeout
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.early_checks import check_registered
from stitchwork.api.openapi import body as request_body
from stitchwork.api.openapi import with_timeout
from stitchwork.api.predictions_response import check_request, predictions_response
from stitchwork.api.row_inference import RowsRequest, infer_rows
from stitchwork.api.schemas.inference_requests import ClassifyRequest
from stitchwork.api.schemas.responses import ClassifyResponse, ResourceRef
from stitchwork.ids import check_id
from stitchwork.inference.resolve import Resolution, check_width, head_of
from stitchwork.inference.stitch import InferenceResult

router = APIRouter(tags=["inference"], route_class=DirectRoute)


@router.post(
    "/classify/{head}",
    summary="Classify embeddings",
    response_model=ClassifyResponse,
    openapi_extra=with_timeout(request_body(ClassifyRequest, array_field="embeddings")),
)
async def classify(head: PathId, request: Request) -> Response:
    """Classify embeddings with a head of any space on the same anchor set."""
    state, seconds = app_state(request), request_timeout(request)
    state.executor.check_capacity()
    head_id = check_id(head)
    await check_registered(request, state, head=head_id, parameters=("space",))
    payload = await negotiation.read_body(
        request, ClassifyRequest, state.body_parser, array_field="embeddings"
    )
    content = RowsRequest(payload.embeddings, payload.bridge, payload.space, head=head_id)
    check, respond = partial(_check, state, payload), partial(_respond, state, payload)
    return await infer_rows(request, state, content, check, respond, seconds)


def _check(state: AppState, payload: ClassifyRequest, resolution: Resolution) -> None:
    check_width(payload.embeddings, resolution.source)
    check_request(payload, len(payload.embeddings), head_of(resolution), state.limits)


def _respond(state: AppState, payload: ClassifyRequest, result: InferenceResult) -> Response:
    space = ResourceRef.of(result.resolution.source)
    return predictions_response(state.pipeline, ClassifyResponse, result, payload, space=space)
