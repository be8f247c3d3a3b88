"""Heads: frozen classifiers and regressions, each in one space."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api import openapi, resource_routes
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import AppState, ConditionDep, ResourceId, StateDep
from stitchwork.api.openapi import body
from stitchwork.api.schemas.head_declarations import HeadRequest, NewHeadRequest, TrainingData
from stitchwork.api.schemas.responses import HeadPage, HeadResponse, RegistrationResponse
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.inference.resolve import check_width
from stitchwork.registry.entries import Condition, Entry, Outcome
from stitchwork.resources import Head, Space

router = APIRouter(tags=["heads"])


@router.put(
    "/heads/{id}",
    summary="Register a head",
    responses=openapi.put(HeadResponse, pending=RegistrationResponse),
    openapi_extra=body(HeadRequest, array_field="weight"),
)
async def put_head(
    id_: ResourceId, request: Request, state: StateDep, condition: ConditionDep
) -> Response:
    """Register a head by its weights, by a pretrained classifier, or by data to fit it on (202)."""
    payload = await negotiation.read_body(
        request, HeadRequest, state.body_parser, array_field="weight"
    )
    return await asyncio.to_thread(_register, state, payload, id_, condition)


@router.post(
    "/heads",
    summary="Register a head by an id in the body",
    responses=openapi.put(HeadResponse, pending=RegistrationResponse),
    openapi_extra=body(NewHeadRequest, array_field="weight"),
)
async def post_head(request: Request, state: StateDep, condition: ConditionDep) -> Response:
    """Like PUT, with the id in the body."""
    payload = await negotiation.read_body(
        request, NewHeadRequest, state.body_parser, array_field="weight"
    )
    return await asyncio.to_thread(_register, state, payload, payload.id, condition)


def _register(state: AppState, payload: HeadRequest, id_: str, condition: Condition) -> Response:
    head = payload.definition()
    if head is not None:
        outcome, entry = state.registry.declare_head(id_, payload.space, head, condition)
    else:
        outcome, entry = _begin(state, payload, id_, condition)
    if outcome is Outcome.ACCEPTED and entry.registration:
        state.producer.enqueue_registration(entry.registration)
    return resource_routes.put_response(HeadResponse, outcome, entry, f"/heads/{id_}")


def _begin(
    state: AppState, payload: HeadRequest, id_: str, condition: Condition
) -> tuple[Outcome, Entry[Head]]:
    (space,), _ = state.registry.spaces.ready(payload.space)
    if payload.fit is not None:
        return _fit(state, payload.fit, space, id_, condition)
    encoder = space.encoder if payload.classifier is True else payload.classifier
    if encoder is not space.encoder:
        resource_routes.check_model_allowed(state, encoder, "/classifier")
    if encoder is None:
        raise InvalidInputError(
            f"classifier: space {space.id} has no encoder to take it from; name a model instead "
            "of true",
            pointer="/classifier",
            code=ErrorCode.NO_ENCODER,
        )
    return state.registry.begin_head(
        id_,
        space.id,
        {"source": "classifier", **payload.overrides},
        encoder=encoder,
        condition=condition,
    )


def _fit(
    state: AppState, fit: TrainingData, space: Space, id_: str, condition: Condition
) -> tuple[Outcome, Entry[Head]]:
    encoder = space.encoder if fit.items is not None else None
    if fit.items is not None and encoder is None:
        raise InvalidInputError(
            f"fit: space {space.id} has no encoder for items; send embeddings instead",
            pointer="/fit/items",
            code=ErrorCode.NO_ENCODER,
        )
    if fit.embeddings is not None:
        check_width(fit.embeddings, space, "/fit/embeddings")
    modality = encoder.modality if encoder else "vector"
    inputs, labels, total = fit.pack(modality, state.limits.max_rows)
    return state.registry.begin_head(
        id_,
        space.id,
        {"source": "fit", "labels": labels},
        inputs=inputs,
        encoder=encoder,
        total=total,
        condition=condition,
    )


resource_routes.add_routes(router, "heads", "head", ready=HeadResponse, page=HeadPage)
