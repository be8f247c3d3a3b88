"""Routes that anchor sets, spaces and heads share: list, get, delete, and responses to PUT."""

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
from stitchwork.api.schemas.response_model import ResponseModel, json_fields
from stitchwork.api.schemas.responses import (
    AnchorSetPage,
    AnchorSetResponse,
    HeadPage,
    Progress,
    ReadyModel,
    RegistrationResponse,
    RegistrationStatus,
    SpacePage,
)
from stitchwork.errors import InvalidInputError
from stitchwork.ids import check_id
from stitchwork.registry.entries import Entry, Outcome
from stitchwork.registry.repository import Repository
from stitchwork.resources import (
    EncoderSpec,
    ImageEncoder,
    Registration,
    check_hub_model,
    check_timm_model,
    is_local_path,
    local_path,
)

STATUS: Final = {
    Outcome.CREATED: 201,
    Outcome.REPLACED: 200,
    Outcome.SAME: 200,
    Outcome.ACCEPTED: 202,
}


def resource_response(
    model: type[ReadyModel], entry: Entry[Any], outcome: Outcome | None = None
) -> ResponseModel:
    """The response for an entry: its ready version, with the registration that is to replace it.

    Args:
        model: Response of a ready version.
        entry: The entry.
        outcome: What a PUT or POST did.

    Returns:
        A `RegistrationResponse` if no version is ready.
    """
    optional: dict[str, Any] = {} if outcome is None else {"outcome": outcome}
    registration = entry.registration and _registration_status(entry.registration)
    if entry.record is None:
        fields = dict(json_fields(registration)) if registration else {}
        return RegistrationResponse.model_construct(id=entry.id, **fields, **optional)
    if registration:
        optional["pending"] = registration
    fields = dict(entry.record) | model.derived_fields(entry.record)
    if entry.notes:
        fields["warnings"] = (*entry.record.warnings, *entry.notes)
    return model.model_construct(**fields, status="ready", **optional)


def _registration_status(registration: Registration) -> RegistrationStatus:
    progress = Progress(done=registration.done, total=registration.total)
    optional = {"reason": registration.reason} if registration.reason else {}
    return RegistrationStatus(
        version=registration.version, status=registration.status, progress=progress, **optional
    )


def etag(entry: Entry[Any]) -> dict[str, str]:
    """The `ETag` header: the ready version or, before there is one, the pending version."""
    return {"ETag": f'"{entry.tag}"'}


def put_response(
    model: type[ReadyModel], outcome: Outcome, entry: Entry[Any], path: str
) -> Response:
    """The response to a PUT or POST."""
    headers = etag(entry)
    if outcome in (Outcome.CREATED, Outcome.ACCEPTED):
        headers["Location"] = path
    response = resource_response(model, entry, outcome)
    return negotiation.json_response(response, STATUS[outcome], headers)


def check_model_allowed(state: AppState, encoder: EncoderSpec | None, pointer: str) -> None:
    """Refuse a model at once that every worker with the same settings would refuse to load.

    A revision of local files is refused too, since nothing would follow it. Which hub model exactly
    a timm model needs, and whether a local file may be read, only the workers know.

    Args:
        state: The state of the API.
        encoder: The encoder of a request, if it has one.
        pointer: JSON pointer to it.

    Raises:
        InvalidInputError: If `hub_models` does not allow it, or it has a revision and is local.
    """
    if encoder is not None and encoder.revision is not None and local_path(encoder) is not None:
        raise InvalidInputError(
            "revision: expected none for local files, a revision is one of the hub",
            pointer=f"{pointer}/revision",
        )
    if isinstance(encoder, ImageEncoder):
        check_timm_model(encoder, state.hub_models, f"{pointer}/model")
    elif encoder is not None and not is_local_path(encoder.model):
        check_hub_model(encoder.model, state.hub_models, f"{pointer}/model")


def add_routes(
    router: APIRouter,
    plural: str,
    name: str,
    *,
    ready: type[ReadyModel],
    page: type[AnchorSetPage | SpacePage | HeadPage],
) -> None:
    """Add GET of the list, GET and DELETE by id.

    Args:
        router: The router.
        plural: Path of the list.
        name: What one resource is called.
        ready: Response of a ready version.
        page: Response of the list.
    """
    # Anchor sets are ready at once.
    response: Any = ready if ready is AnchorSetResponse else ready | RegistrationResponse

    def repository(state: AppState) -> Repository[Any]:
        result: Repository[Any] = getattr(state.registry, plural.replace("-", "_"))
        return result

    @router.get(f"/{plural}", summary=f"List {name}s", name=f"list_{plural}", response_model=page)
    async def list_page(
        state: StateDep,
        limit: Annotated[int, Query(ge=1, le=1000, description="Items per page.")] = 100,
        cursor: Annotated[
            str | None,
            Query(description="Cursor of the previous page.", json_schema_extra=ID_SCHEMA),
        ] = None,
    ) -> Response:
        """In the order of their ids."""
        after = _cursor(cursor)
        result = await asyncio.to_thread(repository(state).page, limit, after)
        await asyncio.to_thread(state.registry.changes.acknowledge)
        items: Any = [resource_response(ready, entry) for entry in result.entries]
        optional: Any = {"unreadable": result.unreadable} if result.unreadable else {}
        return negotiation.json_response(page(items=items, cursor=result.cursor, **optional))

    @router.get(
        f"/{plural}/{{id}}",
        summary=f"Get one {name}",
        name=f"get_{plural}",
        response_model=response,
        response_description=f"The {name}",
        responses={304: {"description": "If-None-Match names the current version"}},
    )
    async def get(
        id_: ResourceId,
        state: StateDep,
        if_none_match: Annotated[
            str | None, Header(description="ETag of the version that the client has.")
        ] = None,
    ) -> Response:
        """The ready version, and the registration that is to replace it."""
        entry = await asyncio.to_thread(repository(state).get, id_)
        # A worker may have made it ready just now: from this response on, all processes use it.
        await asyncio.to_thread(state.registry.changes.acknowledge)
        headers = etag(entry)
        if headers["ETag"] in (if_none_match or ""):
            return Response(status_code=304, headers=headers)
        return negotiation.json_response(resource_response(ready, entry), headers=headers)

    @router.delete(
        f"/{plural}/{{id}}",
        summary=f"Delete one {name}",
        name=f"delete_{plural}",
        status_code=204,
        response_description="Deleted",
        openapi_extra=with_timeout(),
    )
    async def delete(
        id_: ResourceId, request: Request, state: StateDep, condition: ConditionDep
    ) -> Response:
        """204 once new requests cannot use it and all requests that use it have been answered."""
        seconds = request_timeout(request)
        await asyncio.to_thread(repository(state).delete, id_, condition)
        state.space_checks.wake()
        await state.producer.drain(seconds)
        return Response(status_code=204)


def _cursor(cursor: str | None) -> str | None:
    if cursor is None:
        return None
    try:
        return check_id(cursor)
    except InvalidInputError as error:
        raise InvalidInputError(
            "cursor: expected the cursor of a previous page", pointer="/cursor"
        ) from error
