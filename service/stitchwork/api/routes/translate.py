"""Translate and classify embeddings: one fused map, no hop."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api import openapi
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import AppState, DirectRoute, PathId, app_state, request_timeout
from stitchwork.api.openapi import body as shown
from stitchwork.api.openapi import with_timeout
from stitchwork.api.routes.response_facts import outside, undefined, used, width
from stitchwork.api.schemas.inference_requests import ClassifyRequest, TranslateRequest
from stitchwork.api.schemas.responses import ClassifyResponse, ResourceRef, TranslateResponse
from stitchwork.geometry.classifier import probabilities
from stitchwork.inference.predictions import predictions
from stitchwork.resources import check_id

router = APIRouter(tags=["inference"], route_class=DirectRoute)


@router.post(
    "/translate",
    summary="Translate embeddings",
    responses=openapi.rows(TranslateResponse),
    openapi_extra=with_timeout(shown(TranslateRequest, binary="embeddings")),
)
async def translate(request: Request) -> Response:
    """Embeddings of one space as the other space's encoder would have made them."""
    state, seconds = app_state(request), request_timeout(request)
    state.executor.check_capacity()
    body = await negotiation.receive_body(
        request, TranslateRequest, state.limits, main="embeddings"
    )
    return await state.executor.run(lambda: _translate(request, state, body.read()), seconds)


def _translate(request: Request, state: AppState, asked: TranslateRequest) -> Response:
    (source, target), stale = state.registry.spaces.ready(asked.source, asked.target)
    width(asked.embeddings, source)
    way = state.translator.way(source, target, asked.bridge)
    with state.telemetry.step("translate"):
        rows, defined, covered = way.apply(asked.embeddings)
    state.telemetry.metrics.record_inputs("translate", covered)
    beyond = outside(covered, source)
    response = TranslateResponse(
        embeddings=rows,
        source=ResourceRef.of(source),
        target=ResourceRef.of(target),
        bridge=asked.bridge,
        undefined=undefined(defined),
        uncovered=beyond.rows,
        warnings=beyond.warnings,
    )
    return negotiation.rows_response(
        request,
        response,
        as_base64=asked.encoding_format == "base64",
        headers=used(stale, source=source, target=target) | beyond.headers,
    )


@router.post(
    "/classify/{head}",
    summary="Classify embeddings",
    response_model=ClassifyResponse,
    openapi_extra=with_timeout(shown(ClassifyRequest, binary="embeddings")),
)
async def classify(head: PathId, request: Request) -> Response:
    """Embeddings of any space, classified by a head of a space on the same anchor set."""
    state, seconds = app_state(request), request_timeout(request)
    state.executor.check_capacity()
    head_id = check_id(head)
    body = await negotiation.receive_body(request, ClassifyRequest, state.limits, main="embeddings")
    return await state.executor.run(lambda: _classify(state, head_id, body.read()), seconds)


def _classify(state: AppState, head_id: str, asked: ClassifyRequest) -> Response:
    source, target, head, stale = state.registry.stitch(asked.space, head_id)
    width(asked.embeddings, source)
    way = state.translator.way(source, target, asked.bridge)
    with state.telemetry.step("translate"):
        rows, defined, covered = way.apply(asked.embeddings)
    state.telemetry.metrics.record_inputs("classify", covered)
    beyond = outside(covered, source)
    classifier = state.classifiers.get(head)
    with state.telemetry.step("classify"):
        scores = probabilities(classifier.logits(rows))
    calibration = state.registry.calibrations.get(source, target, head, asked.bridge)
    found = predictions(scores, defined, head.labels, asked.top, calibration)
    state.telemetry.metrics.record_confidences(head.id, [told.confidence for told in found])
    response = ClassifyResponse(
        predictions=found,
        space=ResourceRef.of(source),
        head=ResourceRef.of(head),
        bridge=asked.bridge,
        uncovered=beyond.rows,
        warnings=beyond.warnings,
    )
    headers = used(stale, source=source, target=target, head=head)
    return negotiation.json_response(response, headers=headers | beyond.headers)
