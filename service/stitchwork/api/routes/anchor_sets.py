"""Anchor sets: the ordered inputs that spaces have in common."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api import openapi, resource_routes
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import ConditionDep, ResourceId, StateDep
from stitchwork.api.openapi import body
from stitchwork.api.schemas.registration_requests import AnchorSetRequest
from stitchwork.api.schemas.responses import AnchorSetPage, AnchorSetResponse

router = APIRouter(tags=["anchor sets"])


@router.put(
    "/anchor-sets/{id}",
    summary="Declare an anchor set",
    responses=openapi.put(AnchorSetResponse),
    openapi_extra=body(AnchorSetRequest, accepts_raw_inputs=True),
)
async def put_anchor_set(
    id_: ResourceId, request: Request, state: StateDep, condition: ConditionDep
) -> Response:
    """Declare k ordered anchors. Sets are immutable: other content under the same id is 409."""
    payload = await negotiation.read_body(
        request, AnchorSetRequest, state.body_parser, accepts_raw_inputs=True
    )
    outcome, entry = await asyncio.to_thread(
        lambda: state.registry.declare_anchor_set(
            id_,
            payload.modality,
            items=payload.decode_items(state.limits.max_anchors),
            ids=payload.ids,
            size=payload.size,
            condition=condition,
        )
    )
    return resource_routes.put_response(AnchorSetResponse, outcome, entry, f"/anchor-sets/{id_}")


resource_routes.add_routes(
    router, "anchor-sets", "anchor set", ready=AnchorSetResponse, page=AnchorSetPage
)
