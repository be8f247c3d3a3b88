"""Anchors: reports on duplicates and misalignment, the nearest ones, a choice from a pool."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.content.validation import check_count
from stitchwork.api.dependencies import (
    ID_SCHEMA,
    AppState,
    BridgeQuery,
    ResourceId,
    StateDep,
    request_timeout,
)
from stitchwork.api.early_checks import check_registered
from stitchwork.api.openapi import REPORT_RESPONSES, body, with_timeout
from stitchwork.api.provenance import version_headers
from stitchwork.api.reports.report_jobs import ReportState
from stitchwork.api.schemas.report_requests import ChooseAnchorsRequest, NearestAnchorsRequest
from stitchwork.api.schemas.report_responses import (
    AnchorReportResponse,
    ChosenAnchorsResponse,
    NearestAnchorsResponse,
)
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.ids import check_id
from stitchwork.inference.resolve import check_pair, check_width

router = APIRouter(tags=["anchors"])


@router.get(
    "/spaces/{id}/anchors",
    summary="Report on a space's anchors",
    response_model=AnchorReportResponse,
    responses=REPORT_RESPONSES,
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

    Computed once for each pair of versions, in the background; until it is, the response is 202.
    """
    target_id = None if target is None else check_id(target, "/target")
    read = partial(_report, state, id_, target_id, bridge)
    return await state.report_jobs.respond(request, read, request_timeout(request))


def _report(state: AppState, id_: str, target_id: str | None, bridge: BridgeName) -> ReportState:
    ids = [id_] if target_id is None else [id_, target_id]
    spaces, stale = state.registry.spaces.ready(*ids)
    space, target = spaces[0], spaces[1] if target_id else None
    if target:
        check_pair(space, target, bridge)
    records = {"space": space, **({"target": target} if target else {})}
    return state.anchor_reports.report(space, target, bridge, version_headers(stale, **records))


@router.post(
    "/spaces/{id}/anchors/nearest",
    summary="Find the anchors nearest to embeddings",
    response_model=NearestAnchorsResponse,
    openapi_extra=with_timeout(body(NearestAnchorsRequest, array_field="embeddings")),
)
async def nearest_anchors(id_: ResourceId, request: Request, state: StateDep) -> Response:
    """The anchors of a space that are most similar to embeddings of it.

    They explain a translation, which uses only the cosines of an input to the anchors. The anchors
    can be computed from enough of these cosines, as from a file of a translation, so the request
    needs a key of scope `export`.
    """
    state.executor.check_capacity()
    await check_registered(request, state, (id_,))
    payload = await negotiation.read_body(
        request, NearestAnchorsRequest, state.body_parser, array_field="embeddings"
    )
    # Each row is answered with names and texts, as a raw input is with labels.
    check_count(
        len(payload.embeddings), state.limits.max_items, "embeddings", "max_items", "/embeddings"
    )
    return await state.executor.run(
        partial(_nearest, state, id_, payload), request_timeout(request)
    )


def _nearest(state: AppState, id_: str, payload: NearestAnchorsRequest) -> Response:
    (space,), stale = state.registry.spaces.ready(id_)
    check_width(payload.embeddings, space)
    response = state.anchor_reports.nearest(payload.embeddings, payload.count, space)
    return negotiation.json_response(response, headers=version_headers(stale, space=space))


@router.post(
    "/anchors/choose",
    summary="Choose anchors from a pool",
    response_model=ChosenAnchorsResponse,
    openapi_extra=with_timeout(body(ChooseAnchorsRequest, array_field="embeddings")),
)
async def choose_anchors(request: Request, state: StateDep) -> Response:
    """Rows of a pool that represent it best, typical of it and unlike each other, in order.

    Translations through the same number of anchors that are drawn at random are less accurate. No
    labels are needed, and embeddings of any one encoder serve. With `space`, rows to add to its
    anchors.
    """
    state.selection_executor.check_capacity()
    await check_registered(request, state, parameters=("space",))
    payload = await negotiation.read_body(
        request, ChooseAnchorsRequest, state.body_parser, array_field="embeddings"
    )
    return await state.selection_executor.run(
        lambda: _choose(state, payload), request_timeout(request)
    )


def _choose(state: AppState, payload: ChooseAnchorsRequest) -> Response:
    headers, space = {}, None
    if payload.space is not None:
        (space,), stale = state.registry.spaces.ready(payload.space)
        check_width(payload.embeddings, space)
        headers = version_headers(stale, space=space)
    response = state.anchor_reports.choose(payload.embeddings, payload.count, space)
    return negotiation.json_response(response, headers=headers)
