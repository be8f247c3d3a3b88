"""OpenAI's embeddings API over the spaces that are registered."""

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    AppState,
    StateDep,
    app_state,
    request_timeout,
    run_while_connected,
)
from stitchwork.api.openai.schemas import EmbeddingsRequest
from stitchwork.api.openapi import body, example, with_timeout
from stitchwork.api.problem_details import replace_pointer
from stitchwork.api.routes.queued_work import check_room, encoder_of, job_of, run
from stitchwork.api.routes.response_facts import outside, used
from stitchwork.errors import AnchorSetMismatchError, InvalidInputError, UnknownResourceError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from stitchwork.inference.translator import check_pair
from stitchwork.resources import ID_PATTERN, Floats, Space, check_id

router = APIRouter(prefix="/v1", tags=["OpenAI's embeddings API"])

ARROW: Final = "->"
MOST_LISTED: Final = 1000
"""Models in the list; those beyond answer all the same."""

_ONE: Final = ID_PATTERN.strip("^$")
MODEL_SCHEMA: Final[dict[str, Any]] = {"type": "string", "pattern": f"^{_ONE}({ARROW}{_ONE})?$"}
Model = Annotated[
    str, Path(description="`space` or `space->target`.", json_schema_extra=MODEL_SCHEMA)
]


ONE: Final = {
    "id": "minilm->mpnet",
    "object": "model",
    "created": 0,
    "owned_by": "stitchwork",
    "dimensions": 768,
}
USAGE: Final = {"prompt_tokens": 9, "total_tokens": 9}
ROW: Final = {"object": "embedding", "index": 0, "embedding": [0.01, -0.02, 0.03]}
ROWS: Final = {"object": "list", "data": [ROW], "model": "minilm->mpnet", "usage": USAGE}


@router.post(
    "/embeddings",
    summary="Embed texts",
    name="openai_embeddings",
    responses=example("Embeddings in the order of the inputs.", ROWS),
    openapi_extra=with_timeout(body(EmbeddingsRequest)),
)
async def embeddings(request: Request) -> Response:
    """Texts as embeddings of a space that has an encoder or, translated, of another.

    Rows are as the encoder makes them, and need not be of length one.
    """
    state, seconds = app_state(request), request_timeout(request)
    asked = await negotiation.read_body(request, EmbeddingsRequest, state.limits)
    names = _spaces_of(asked.model)
    check_room(state, names[0])
    spaces, stale = await asyncio.to_thread(state.registry.spaces.ready, *names)
    source, target = spaces[0], spaces[1] if len(spaces) > 1 else None
    job = job_of(source, target, bridge=asked.bridge, truncate=asked.truncate)
    last = target or source
    if asked.dimensions not in (None, last.dim):
        raise InvalidInputError(
            f"model {asked.model} gives {last.dim} numbers and no other: expected dimensions "
            f"{last.dim} or none, got {asked.dimensions}",
            pointer="/dimensions",
        )
    with replace_pointer("/items", "/input"):
        reply = await run_while_connected(request, run(state, job, list(asked.input), seconds))
    state.telemetry.metrics.record_inputs("embed", reply.covered)
    roles = {"source": source, "target": target} if target else {"source": source}
    headers = used(stale, **roles) | outside(reply.covered, source).headers
    if reply.truncated:
        headers["Stitchwork-Truncated"] = str(len(reply.truncated))
    rows: Floats = reply.rows  # type: ignore[assignment]
    shown: Any = negotiation.base64_rows(rows) if asked.encoding_format == "base64" else rows
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(shown)]
    usage = {"prompt_tokens": reply.tokens, "total_tokens": reply.tokens}
    answer = {"object": "list", "data": data, "model": asked.model, "usage": usage}
    return negotiation.json_response(answer, headers=headers)


@router.get(
    "/models",
    summary="List models",
    name="openai_models",
    responses=example("Models.", {"object": "list", "data": [ONE]}),
)
async def models(state: StateDep) -> Response:
    """Every space with an encoder and every space it can be translated into, 1,000 at most."""
    return negotiation.json_response(
        {"object": "list", "data": await asyncio.to_thread(_listed, state)}
    )


@router.get(
    "/models/{model}",
    summary="Show one model",
    name="openai_model",
    responses=example("The model.", ONE),
)
async def model(model: Model, state: StateDep) -> Response:
    """One model, and the width of its embeddings."""
    spaces, stale = await asyncio.to_thread(state.registry.spaces.ready, *_spaces_of(model))
    source, last = spaces[0], spaces[-1]
    try:
        encoder_of(source)
        check_pair(source, last, DEFAULT_BRIDGE)
    except (InvalidInputError, AnchorSetMismatchError) as error:
        # It is registered, and still none of those that `models` lists.
        raise UnknownResourceError(f"no model {model}: {error.message}") from error
    return negotiation.json_response(
        _shown(model, last), headers=used(stale, source=source, target=last)
    )


def _spaces_of(model: str) -> list[str]:
    """The ids in a model's name: `space`, or `space->target`."""
    return [check_id(name, "/model") for name in model.split(ARROW, 1)]


def _shown(name: str, space: Space) -> dict[str, Any]:
    """A model as clients expect it; when a space was registered is not kept, hence 0."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "stitchwork",
        "dimensions": space.dim,
    }


def _listed(state: AppState) -> list[dict[str, Any]]:
    page = state.registry.spaces.page(MOST_LISTED)
    spaces = [entry.record for entry in page.entries if entry.record]
    on: dict[tuple[str, str], list[Space]] = {}
    for space in spaces:
        on.setdefault((space.anchor_set, space.anchor_set_version), []).append(space)
    own = [space for space in spaces if space.encoder]
    found = [_shown(space.id, space) for space in own]
    for source in own:
        found += [
            _shown(source.id + ARROW + target.id, target)
            for target in on[source.anchor_set, source.anchor_set_version]
            if target.id != source.id
        ]
        if len(found) >= MOST_LISTED:
            break
    return found[:MOST_LISTED]
