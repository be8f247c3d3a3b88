"""Routes of OpenAI's embeddings API; its models are the registered spaces."""

import asyncio
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.content.sliced_json import (
    SLICE_VALUES,
    SlicedJsonResponse,
    check_json_values,
    row_slices,
)
from stitchwork.api.dependencies import (
    AppState,
    StateDep,
    app_state,
    request_timeout,
)
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.openai.schemas import (
    DEFAULT_MODEL,
    EmbeddingObject,
    EmbeddingsRequest,
    EmbeddingsResponse,
    ModelListResponse,
    ModelObject,
    Usage,
)
from stitchwork.api.openapi import body, with_timeout
from stitchwork.api.problem_details import replace_pointer
from stitchwork.api.provenance import resolution_headers, result_headers
from stitchwork.api.raw_inputs import check_capacity, infer_while_connected, resolve_now
from stitchwork.api.schemas.items import plain_items
from stitchwork.api.schemas.protocol_model import count_ignored
from stitchwork.errors import AnchorSetMismatchError, InvalidInputError, UnknownResourceError
from stitchwork.ids import check_id
from stitchwork.inference.dimensions import check_dimensions, cut_dimensions
from stitchwork.inference.resolve import encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Floats, Space

router = APIRouter(prefix="/v1", tags=["OpenAI's embeddings API"])

ARROW: Final = "->"
MAX_MODELS: Final = 1000
"""Models that are listed; others can be used as well."""

Model = Annotated[str, Path(description="`space`, `space->target`, or an alias of one.")]


async def embeddings(request: Request) -> Response:
    """Embed texts in a space that has an encoder and, with `->target`, translate them.

    Embeddings are those of the encoder, which need not have unit length.
    """
    state, seconds = app_state(request), request_timeout(request)
    payload = await negotiation.read_body(request, EmbeddingsRequest, state.body_parser)
    source, target = _space_ids(state, payload.model)
    check_capacity(state, source)
    resolution = await resolve_now(state, source=source, target=target, bridge=payload.bridge)
    if ignored := count_ignored(payload):
        state.telemetry.metrics.ignored_fields.inc(ignored)
    encoder = encoder_of(resolution.source)
    check_dimensions(resolution.destination, payload.dimensions)
    if payload.encoding_format != "base64":
        width = payload.dimensions or resolution.destination.dim
        alternative = "set encoding_format to base64, or send fewer"
        check_json_values(len(payload.input) * width, state.limits, alternative)
    input_type = replace_pointer("/input_type", "/task" if payload.task else "/input_type")
    with replace_pointer("/items", "/input"), input_type:
        items = plain_items(payload.input, encoder.modality)
        result = await infer_while_connected(
            request,
            state,
            resolution,
            items,
            truncate=payload.cuts_texts,
            input_type=payload.input_type or payload.task,
            seconds=seconds,
        )
    result = cut_dimensions(result, payload.dimensions)
    return await state.executor.finish(partial(_response, payload, result), result.rows.size)


def _response(payload: EmbeddingsRequest, result: InferenceResult) -> Response:
    rows, headers = result.rows, result_headers(result)
    usage = Usage(prompt_tokens=result.tokens, total_tokens=result.tokens)
    fields: dict[str, Any] = {"object": "list", "model": payload.model, "usage": usage}
    slices = (_objects(payload, rows[part], part.start) for part in row_slices(*rows.shape))
    if rows.size > SLICE_VALUES:
        return SlicedJsonResponse("data", slices, fields, headers)
    data = [embedding for part in slices for embedding in part]
    response = EmbeddingsResponse.model_construct(None, data=data, **fields)
    return negotiation.json_response(response, headers=headers)


def _objects(payload: EmbeddingsRequest, rows: Floats, start: int) -> list[EmbeddingObject]:
    """Embeddings with their indices, from a given one on."""
    encoded: Any = negotiation.base64_rows(rows) if payload.encoding_format == "base64" else rows
    # Rows are many, and our own: they are not validated.
    return [
        EmbeddingObject.model_construct(object="embedding", index=i, embedding=row)
        for i, row in enumerate(encoded, start)
    ]


router.add_api_route(
    "/embeddings",
    embeddings,
    methods=["POST"],
    summary="Embed texts",
    name="openai_embeddings",
    response_model=EmbeddingsResponse,
    openapi_extra=with_timeout(body(EmbeddingsRequest)),
    route_class_override=DirectRoute,
)


@router.get(
    "/models",
    summary="List models",
    name="openai_models",
    response_model=ModelListResponse,
)
async def models(state: StateDep) -> Response:
    """Spaces with an encoder, and their pairs with the spaces on their anchor set.

    At most 1,000 are listed.
    """
    data = await asyncio.to_thread(_list_models, state)
    return negotiation.json_response(ModelListResponse(object="list", data=data))


@router.get(
    "/models/{model:path}",
    summary="Get a model",
    name="openai_model",
    response_model=ModelObject,
)
async def model(model: Model, state: StateDep) -> Response:
    """A model, with the number of dimensions of its embeddings."""
    source, target = _space_ids(state, model)
    try:
        resolution = await asyncio.to_thread(state.pipeline.resolve, source=source, target=target)
        encoder_of(resolution.source)
    except (InvalidInputError, AnchorSetMismatchError) as error:
        # The space is registered, but cannot be used as a model.
        raise UnknownResourceError(f"no model {model}: {error.message}") from error
    return negotiation.json_response(
        _model(model, resolution.destination), headers=resolution_headers(resolution)
    )


def _space_ids(state: AppState, model: str) -> tuple[str, str | None]:
    """The ids in a model's name, or in the one that it is an alias of: `space->target`, `space`."""
    if model == DEFAULT_MODEL and model not in state.model_aliases:
        raise InvalidInputError("expected a model, got none", pointer="/model")
    model = state.model_aliases.get(model, model)
    source, arrow, target = model.partition(ARROW)
    return check_id(source, "/model"), check_id(target, "/model") if arrow else None


def _model(name: str, space: Space) -> ModelObject:
    return ModelObject(
        id=name, object="model", created=0, owned_by="stitchwork", dimensions=space.dim
    )


def _list_models(state: AppState) -> list[ModelObject]:
    page = state.pipeline.registry.spaces.page(MAX_MODELS)
    spaces = [entry.record for entry in page.entries if entry.record]
    by_anchor_set: dict[tuple[str, str], list[Space]] = {}
    for space in spaces:
        by_anchor_set.setdefault((space.anchor_set, space.anchor_set_version), []).append(space)
    sources = [space for space in spaces if space.encoder]
    models = [_model(space.id, space) for space in sources]
    for source in sources:
        models += [
            _model(source.id + ARROW + target.id, target)
            for target in by_anchor_set[source.anchor_set, source.anchor_set_version]
            if target.id != source.id
        ]
        if len(models) >= MAX_MODELS:
            break
    return models[:MAX_MODELS]
