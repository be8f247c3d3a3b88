"""Classify embeddings, without a worker."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import AppState, PathId, app_state, request_timeout
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.openapi import body as request_body
from stitchwork.api.openapi import with_timeout
from stitchwork.api.provenance import result_headers
from stitchwork.api.row_inference import RowsRequest, infer_rows
from stitchwork.api.schemas.inference_requests import ClassifyRequest
from stitchwork.api.schemas.responses import ClassifyResponse, ResourceRef
from stitchwork.ids import check_id
from stitchwork.inference.resolve import Resolution, check_width

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
    body = await negotiation.receive_body(
        request, ClassifyRequest, state.limits, array_field="embeddings"
    )

    def parse(payload: ClassifyRequest) -> RowsRequest:
        count = len(payload.embeddings)
        return RowsRequest(count, payload.bridge, payload.space, head=head_id)

    return await infer_rows(state, body, parse, partial(_respond, state), seconds)


def _respond(state: AppState, payload: ClassifyRequest, resolution: Resolution) -> Response:
    check_width(payload.embeddings, resolution.source)
    payload.check_top(resolution.head)
    result = state.pipeline.infer_rows(resolution, payload.embeddings)
    predictions = state.pipeline.predict(result, payload.top)
    response = ClassifyResponse.of(result, predictions, space=ResourceRef.of(resolution.source))
    return negotiation.json_response(response, headers=result_headers(result))
