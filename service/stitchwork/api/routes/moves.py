"""Moves of stores of vectors, which the commands that run them report."""

import asyncio
import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import ResourceId, StateDep
from stitchwork.api.middleware.auth import request_key
from stitchwork.api.openapi import body
from stitchwork.api.schemas.move_schemas import (
    MoveAssessmentRequest,
    MovePage,
    MoveRequest,
    MoveResponse,
)
from stitchwork.errors import InvalidInputError
from stitchwork.registry.move_store import MoveEntry
from stitchwork.resources.moves import MoveAssessment, MoveReport

router = APIRouter(tags=["moves"])

CURSOR_PATTERN: Final = r"^[0-9]{1,15}$"


@router.put(
    "/moves/{id}",
    summary="Report a move",
    status_code=204,
    response_description="Stored",
    openapi_extra=body(MoveRequest),
)
async def put_move(id_: ResourceId, request: Request, state: StateDep) -> Response:
    """Report how far a move of a store is, or how it ended, under an id of the caller's choice.

    `stitchwork migrate` does so every few seconds. The key that it takes the map with may report
    it, and only that key, or one of scope `admin`, reports the same move again. Of many moves the
    last 5,000 are stored: more remove those of the key that has the largest number, first those
    that have ended.
    """
    payload = await negotiation.read_body(request, MoveRequest, state.body_parser)
    fields = dict(payload)
    run = fields.pop("run")
    report = MoveReport.model_construct(**fields)
    store = state.registry.moves.put_report
    await asyncio.to_thread(store, id_, report, key=request_key(request), run=run)
    return Response(status_code=204)


@router.put(
    "/moves/{id}/assessment",
    summary="Report the assessment of a move",
    status_code=204,
    response_description="Stored",
    openapi_extra=body(MoveAssessmentRequest),
)
async def put_move_assessment(id_: ResourceId, request: Request, state: StateDep) -> Response:
    """Report how the rows that a move has written were judged, as `stitchwork assess` does.

    It takes the key that reports the move, or one of scope `admin`.
    """
    payload = await negotiation.read_body(request, MoveAssessmentRequest, state.body_parser)
    assessment = MoveAssessment.model_construct(**dict(payload))
    await asyncio.to_thread(
        state.registry.moves.put_assessment, id_, assessment, key=request_key(request)
    )
    return Response(status_code=204)


@router.get("/moves", summary="List moves", response_model=MovePage)
async def list_moves(
    state: StateDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="Items per page.")] = 100,
    cursor: Annotated[
        str | None,
        Query(
            description="Cursor of the previous page.",
            json_schema_extra={"type": "string", "pattern": CURSOR_PATTERN},
        ),
    ] = None,
) -> Response:
    """Running and past moves of stores, the latest first."""
    if cursor is not None and not re.fullmatch(CURSOR_PATTERN, cursor, re.ASCII):
        raise InvalidInputError("cursor: expected the cursor of a previous page", pointer="/cursor")
    before = None if cursor is None else int(cursor)
    result = await asyncio.to_thread(state.registry.moves.page, limit, before)
    optional: Any = {"unreadable": result.unreadable} if result.unreadable else {}
    page = MovePage(
        items=[_response(entry) for entry in result.entries],
        cursor=None if result.cursor is None else str(result.cursor),
        **optional,
    )
    return negotiation.json_response(page)


@router.get("/moves/{id}", summary="Get one move", response_model=MoveResponse)
async def get_move(id_: ResourceId, state: StateDep) -> Response:
    """A move, as it was last reported."""
    entry = await asyncio.to_thread(state.registry.moves.get, id_)
    return negotiation.json_response(_response(entry))


def _response(entry: MoveEntry) -> MoveResponse:
    optional: Any = {} if entry.assessment is None else {"assessment": entry.assessment}
    return MoveResponse.model_construct(
        id=entry.id,
        created=entry.created,
        updated=entry.updated,
        **dict(entry.report),
        **optional,
    )
