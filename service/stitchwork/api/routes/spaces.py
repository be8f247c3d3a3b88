"""Spaces: the output geometries of encoders."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api import openapi, resource_routes
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import AppState, ConditionDep, ResourceId, StateDep
from stitchwork.api.openapi import body
from stitchwork.api.schemas.registration_requests import NewSpaceRequest, SpaceRequest
from stitchwork.api.schemas.responses import RegistrationResponse, SpacePage, SpaceResponse
from stitchwork.registry.entries import Condition, Outcome

router = APIRouter(tags=["spaces"])


@router.put(
    "/spaces/{id}",
    summary="Register a space",
    responses=openapi.put(SpaceResponse, pending=RegistrationResponse),
    openapi_extra=body(SpaceRequest, array_field="anchors"),
)
async def put_space(
    id_: ResourceId, request: Request, state: StateDep, condition: ConditionDep
) -> Response:
    """Register a space by its anchors, or by an encoder that embeds its set's items (202)."""
    payload = await negotiation.read_body(
        request, SpaceRequest, state.body_parser, array_field="anchors"
    )
    return await _register(state, payload, id_, condition)


@router.post(
    "/spaces",
    summary="Register a space by an id in the body",
    responses=openapi.put(SpaceResponse, pending=RegistrationResponse),
    openapi_extra=body(NewSpaceRequest, array_field="anchors"),
)
async def post_space(request: Request, state: StateDep, condition: ConditionDep) -> Response:
    """Like PUT, with the id in the body."""
    payload = await negotiation.read_body(
        request, NewSpaceRequest, state.body_parser, array_field="anchors"
    )
    return await _register(state, payload, payload.id, condition)


async def _register(
    state: AppState, payload: SpaceRequest, id_: str, condition: Condition
) -> Response:
    resource_routes.check_model_allowed(state, payload.encoder, "/encoder")

    def register() -> Response:
        outcome, entry = state.registry.declare_space(payload.declaration(id_), condition)
        if entry.record and outcome is not Outcome.SAME:
            state.pipeline.translator.prepare(entry.record)
            state.space_checks.wake()
        if outcome is Outcome.ACCEPTED and entry.registration:
            state.producer.enqueue_registration(entry.registration)
        return resource_routes.put_response(SpaceResponse, outcome, entry, f"/spaces/{id_}")

    return await asyncio.to_thread(register)


resource_routes.add_routes(router, "spaces", "space", ready=SpaceResponse, page=SpacePage)
