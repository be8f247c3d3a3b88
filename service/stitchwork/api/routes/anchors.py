"""Anchor help: are there enough, which are one too many, which pairs are wrong, which come next."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import ID_SCHEMA, AppState, ResourceId, StateDep, request_timeout
from stitchwork.api.openapi import body, with_timeout
from stitchwork.api.routes.response_facts import named, used, width
from stitchwork.api.schemas.report_requests import NextAnchorsRequest
from stitchwork.api.schemas.responses import AnchorReportResponse, NextAnchorsResponse
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.inference.translator import check_pair
from stitchwork.resources import check_id

router = APIRouter(tags=["anchors"])


@router.get(
    "/spaces/{id}/anchors",
    summary="What a space's anchors tell about themselves",
    response_model=AnchorReportResponse,
    openapi_extra=with_timeout(),
)
async def report(
    id_: ResourceId,
    request: Request,
    state: StateDep,
    target: Annotated[
        str | None,
        Query(
            description="Space that inputs go to; unset: onto itself.", json_schema_extra=ID_SCHEMA
        ),
    ] = None,
    bridge: BridgeName = DEFAULT_BRIDGE,
) -> Response:
    """Duplicates, what to drop, whether there are enough and, with a target, misaligned pairs.

    Computed once for each pair of versions. What takes longer than the request may is computed
    to its end all the same: ask again.
    """
    other = None if target is None else check_id(target, "/target")
    return await state.comparison_executor.run(
        lambda: _report(state, id_, other, bridge), request_timeout(request)
    )


def _report(state: AppState, id_: str, other: str | None, bridge: BridgeName) -> Response:
    found, stale = state.registry.spaces.ready(*(name for name in (id_, other) if name))
    space, target = found[0], found[1] if other else None
    if target:
        check_pair(space, target, bridge)
    told = {
        "space": named(space),
        "target": target and named(target),
        "bridge": bridge,
        **state.anchor_reports.of(space, target, bridge),
    }
    records = {"space": space, **({"target": target} if target else {})}
    return negotiation.json_response(told, headers=used(stale, **records))


@router.post(
    "/spaces/{id}/anchors/next",
    summary="Which inputs to take as anchors next",
    response_model=NextAnchorsResponse,
    openapi_extra=with_timeout(body(NextAnchorsRequest, binary="embeddings")),
)
async def coming(id_: ResourceId, request: Request, state: StateDep) -> Response:
    """Of a pool of embeddings, those farthest from all anchors and from each other, in order."""
    state.comparison_executor.check_capacity()
    asked = await negotiation.read_body(
        request, NextAnchorsRequest, state.limits, main="embeddings"
    )
    return await state.comparison_executor.run(
        lambda: _coming(state, id_, asked), request_timeout(request)
    )


def _coming(state: AppState, id_: str, asked: NextAnchorsRequest) -> Response:
    (space,), stale = state.registry.spaces.ready(id_)
    width(asked.embeddings, space)
    told = state.anchor_reports.next(space, asked.embeddings, asked.count)
    return negotiation.json_response(
        {"space": named(space), **told}, headers=used(stale, space=space)
    )
