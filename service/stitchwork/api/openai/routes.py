"""OpenAI's embeddings API over the registered spaces."""

import asyncio
from functools import partial
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
from stitchwork.api.routes.provenance import resolution_headers, result_headers
from stitchwork.api.routes.raw_inputs import check_capacity, infer_items
from stitchwork.errors import AnchorSetMismatchError, InvalidInputError, UnknownResourceError
from stitchwork.inference.resolve import encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import ID_PATTERN, Space, check_id

router = APIRouter(prefix="/v1", tags=["OpenAI's embeddings API"])

ARROW: Final = "->"
MAX_MODELS: Final = 1000
"""Models in the list; others can be used all the same."""

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
    payload = await negotiation.read_body(request, EmbeddingsRequest, state.limits)
    source, target = _space_ids(payload.model)
    check_capacity(state, source)
    resolve = partial(state.pipeline.resolve, source=source, target=target, bridge=payload.bridge)
    resolution = await asyncio.to_thread(resolve)
    encoder_of(resolution.source)
    width = resolution.destination.dim
    if payload.dimensions not in (None, width):
        raise InvalidInputError(
            f"model {payload.model} gives {width} numbers and no other: expected dimensions "
            f"{width} or none, got {payload.dimensions}",
            pointer="/dimensions",
        )
    with replace_pointer("/items", "/input"):
        inference = infer_items(
            state, resolution, list(payload.input), truncate=payload.truncate, seconds=seconds
        )
        result = await run_while_connected(request, inference)
    return await state.executor.finish(partial(_response, payload, result), result.rows.size)


def _response(payload: EmbeddingsRequest, result: InferenceResult) -> Response:
    rows: Any = result.rows
    if payload.encoding_format == "base64":
        rows = negotiation.base64_rows(rows)
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
    response = {"object": "list", "data": data, "model": payload.model, "usage": usage}
    return negotiation.json_response(response, headers=result_headers(result))


@router.get(
    "/models",
    summary="List models",
    name="openai_models",
    responses=example("Models.", {"object": "list", "data": [ONE]}),
)
async def models(state: StateDep) -> Response:
    """Every space with an encoder and every space it can be translated into, 1,000 at most."""
    return negotiation.json_response(
        {"object": "list", "data": await asyncio.to_thread(_list_models, state)}
    )


@router.get(
    "/models/{model}",
    summary="Show one model",
    name="openai_model",
    responses=example("The model.", ONE),
)
async def model(model: Model, state: StateDep) -> Response:
    """One model, and the width of its embeddings."""
    source, target = _space_ids(model)
    try:
        resolution = await asyncio.to_thread(state.pipeline.resolve, source=source, target=target)
        encoder_of(resolution.source)
    except (InvalidInputError, AnchorSetMismatchError) as error:
        # It is registered, but not among the models that can be used.
        raise UnknownResourceError(f"no model {model}: {error.message}") from error
    return negotiation.json_response(
        _model(model, resolution.destination), headers=resolution_headers(resolution)
    )


def _space_ids(model: str) -> tuple[str, str | None]:
    """The ids in a model's name: `space`, or `space->target`."""
    source, arrow, target = model.partition(ARROW)
    return check_id(source, "/model"), check_id(target, "/model") if arrow else None


def _model(name: str, space: Space) -> dict[str, Any]:
    """A model as clients expect it; when a space was registered is not recorded, hence 0."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "stitchwork",
        "dimensions": space.dim,
    }


def _list_models(state: AppState) -> list[dict[str, Any]]:
    page = state.pipeline.registry.spaces.page(MAX_MODELS)
    spaces = [entry.record for entry in page.entries if entry.record]
    parallel: dict[tuple[str, str], list[Space]] = {}
    for space in spaces:
        parallel.setdefault((space.anchor_set, space.anchor_set_version), []).append(space)
    sources = [space for space in spaces if space.encoder]
    models = [_model(space.id, space) for space in sources]
    for source in sources:
        models += [
            _model(source.id + ARROW + target.id, target)
            for target in parallel[source.anchor_set, source.anchor_set_version]
            if target.id != source.id
        ]
        if len(models) >= MAX_MODELS:
            break
    return models[:MAX_MODELS]
