"""What anchor sets, spaces and heads have in common: views, PUT answers, paging, GET, DELETE."""

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    ID_SCHEMA,
    AppState,
    ConditionDep,
    ResourceId,
    StateDep,
    request_timeout,
)
from stitchwork.api.openapi import with_timeout
from stitchwork.errors import InvalidInputError
from stitchwork.registry.entries import Entry, Outcome
from stitchwork.registry.repository import Repository
from stitchwork.resources import check_id

STATUS: Final = {
    Outcome.CREATED: 201,
    Outcome.REPLACED: 200,
    Outcome.SAME: 200,
    Outcome.ACCEPTED: 202,
}


def view(entry: Entry[Any]) -> dict[str, Any]:
    """All there is to say of an entry; what is being prepared stands beside what serves."""
    shown: dict[str, Any] = {"id": entry.id, "status": "ready"}
    if entry.record:
        shown |= entry.record.model_dump(mode="json")
    if entry.registration:
        registration = entry.registration
        told: dict[str, Any] = {
            "version": registration.version,
            "status": registration.status,
            "progress": {"done": registration.done, "total": registration.total},
        }
        if registration.reason:
            told["reason"] = registration.reason
        shown |= {"pending": told} if entry.record else told
    return shown


def etag(entry: Entry[Any]) -> dict[str, str]:
    """The version as an entity tag: of what serves or, before that, of what is being prepared."""
    return {"ETag": f'"{entry.tag}"'}


def put_answer(outcome: Outcome, entry: Entry[Any], path: str) -> Response:
    """The answer to a PUT or POST."""
    headers = etag(entry)
    if outcome in (Outcome.CREATED, Outcome.ACCEPTED):
        headers["Location"] = path
    return negotiation.json_response(
        {**view(entry), "outcome": outcome.value}, STATUS[outcome], headers
    )


def add_routes(router: APIRouter, plural: str, name: str, shown: Any, page: Any) -> None:
    """GET of the list, GET and DELETE by id."""

    def table(state: AppState) -> Repository[Any]:
        found: Repository[Any] = getattr(state.registry, plural.replace("-", "_"))
        return found

    @router.get(f"/{plural}", summary=f"List {name}s", name=f"list_{plural}", response_model=page)
    async def listing(
        state: StateDep,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[
            str | None, Query(description="From the page before.", json_schema_extra=ID_SCHEMA)
        ] = None,
    ) -> Response:
        after = _cursor(cursor)
        found = await asyncio.to_thread(table(state).page, limit, after)
        return negotiation.json_response(
            {"items": [view(e) for e in found.entries], "cursor": found.cursor}
        )

    @router.get(
        f"/{plural}/{{id}}",
        summary=f"Show one {name}",
        name=f"get_{plural}",
        response_model=shown,
        responses={304: {"description": "The version that is known already stands"}},
    )
    async def show(
        id_: ResourceId,
        state: StateDep,
        if_none_match: Annotated[str | None, Header(description="Version known already.")] = None,
    ) -> Response:
        entry = await asyncio.to_thread(table(state).get, id_)
        if etag(entry)["ETag"] in (if_none_match or ""):
            return Response(status_code=304, headers=etag(entry))
        return negotiation.json_response(view(entry), headers=etag(entry))

    @router.delete(
        f"/{plural}/{{id}}",
        summary=f"Remove one {name}",
        name=f"delete_{plural}",
        status_code=204,
        openapi_extra=with_timeout(),
    )
    async def remove(
        id_: ResourceId, request: Request, state: StateDep, condition: ConditionDep
    ) -> Response:
        """204 once it is gone for new requests, and those under way have their answers."""
        seconds = request_timeout(request)
        await asyncio.to_thread(table(state).delete, id_, condition)
        await state.producer.drain(seconds)
        return Response(status_code=204)


def _cursor(cursor: str | None) -> str | None:
    if cursor is None:
        return None
    try:
        return check_id(cursor)
    except InvalidInputError as error:
        raise InvalidInputError(
            "cursor: expected one that a page before gave", pointer="/cursor"
        ) from error
