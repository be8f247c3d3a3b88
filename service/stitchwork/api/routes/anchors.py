"""Reports on anchors: duplicates, redundancy, misalignment, and which to add next."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    ID_SCHEMA,
    AppState,
    BridgeQuery,
    ResourceId,
    StateDep,
    request_timeout,
)
from stitchwork.api.openapi import body, with_timeout
from stitchwork.api.provenance import version_headers
from stitchwork.api.schemas.report_requests import NextAnchorsRequest
from stitchwork.api.schemas.report_responses import AnchorReportResponse, NextAnchorsResponse
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.ids import check_id
from stitchwork.inference.resolve import check_pair, check_width

router = APIRouter(tags=["anchors"])


@router.get(
    "/spaces/{id}/anchors",
    summary="Report on a space's anchors",
    response_model=AnchorReportResponse,
    openapi_extra=with_timeout(),
)
async def anchor_report(
    id_: ResourceId,
    request: Request,
    state: StateDep,
    target: Annotated[
        str | None,
        Query(
            description="Space to translate into; unset: the space itself.",
            json_schema_extra=ID_SCHEMA,
        ),
    ] = None,
    bridge: BridgeQuery = DEFAULT_BRIDGE,
) -> Response:
    """Duplicates, redundant anchors, a learning curve and, with a target, misaligned pairs.

    Computed once for each pair of versions. A computation that exceeds the deadline continues, and
    a repeated request gets its result.
    """
    target_id = None if target is None else check_id(target, "/target")
    return await state.comparison_executor.run(
        lambda: _report(state, id_, target_id, bridge), request_timeout(request)
    )


def _report(state: AppState, id_: str, target_id: str | None, bridge: BridgeName) -> Response:
    ids = [id_] if target_id is None else [id_, target_id]
    spaces, stale = state.registry.spaces.ready(*ids)
    space, target = spaces[0], spaces[1] if target_id else None
    if target:
        check_pair(space, target, bridge)
    response = state.anchor_reports.report(space, target, bridge)
    records = {"space": space, **({"target": target} if target else {})}
    return negotiation.json_response(response, headers=version_headers(stale, **records))


@router.post(
    "/spaces/{id}/anchors/next",
    summary="Choose inputs to add as anchors",
    response_model=NextAnchorsResponse,
    openapi_extra=with_timeout(body(NextAnchorsRequest, array_field="embeddings")),
)
async def next_anchors(id_: ResourceId, request: Request, state: StateDep) -> Response:
    """Rows of a pool that are farthest from all anchors and from each other, in order."""
    state.comparison_executor.check_capacity()
    payload = await negotiation.read_body(
        request, NextAnchorsRequest, state.limits, array_field="embeddings"
    )
    return await state.comparison_executor.run(
        lambda: _next_anchors(state, id_, payload), request_timeout(request)
    )


def _next_anchors(state: AppState, id_: str, payload: NextAnchorsRequest) -> Response:
    (space,), stale = state.registry.spaces.ready(id_)
    check_width(payload.embeddings, space)
    response = state.anchor_reports.next_anchors(space, payload.embeddings, payload.count)
    return negotiation.json_response(response, headers=version_headers(stale, space=space))
