"""Routes of OpenAI's embeddings API; its models are the registered spaces."""

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api.blank_texts import MESSAGE, charge_blank, original_indices, present_indices
from stitchwork.api.content import negotiation
from stitchwork.api.content.sliced_json import (
    SLICE_VALUES,
    SlicedJsonResponse,
    check_json_values,
    row_slices,
)
from stitchwork.api.content.validation import check_count
from stitchwork.api.dependencies import (
    AppState,
    StateDep,
    app_state,
    request_timeout,
)
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.early_checks import check_capacity, check_workers
from stitchwork.api.model_names import ARROW, DEFAULT_MODEL, ModelNamePath, model_spaces
from stitchwork.api.openai.schemas import (
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
from stitchwork.api.raw_inputs import infer_while_connected, resolve_now
from stitchwork.api.schemas.items import plain_items
from stitchwork.api.schemas.protocol_model import record_ignored
from stitchwork.errors import AnchorSetMismatchError, InvalidInputError, UnknownResourceError
from stitchwork.inference.dimensions import check_dimensions, cut_dimensions
from stitchwork.inference.resolve import encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Floats, Space

router = APIRouter(prefix="/v1", tags=["OpenAI's embeddings API"])

MAX_MODELS: Final = 1000
"""Models that are listed; others can be used as well."""


async def embeddings(request: Request) -> Response:
    """Embed texts in a space that has an encoder and, with `->target`, translate them.

    Embeddings are those of the encoder, which need not have unit length.
    """
    state, seconds = app_state(request), request_timeout(request)
    await check_workers(request, state)
    payload = await negotiation.read_body(request, EmbeddingsRequest, state.body_parser)
    source, target = model_spaces(state, payload.model)
    check_capacity(state, source)
    resolution = await resolve_now(state, source=source, target=target, bridge=payload.bridge)
    record_ignored(state.telemetry.metrics, payload)
    encoder = encoder_of(resolution.source)
    check_count(len(payload.input), state.limits.max_items, "items", "max_items", "/input")
    check_dimensions(resolution.destination, payload.dimensions)
    if payload.encoding_format != "base64":
        width = payload.dimensions or resolution.destination.dim
        alternative = "set encoding_format to base64, or send fewer"
        check_json_values(len(payload.input) * width, state.limits, alternative)
    skips = payload.blank_texts == "null" and encoder.modality == "text"
    indices = present_indices(payload.input) if skips else list(range(len(payload.input)))
    request_id: str = request.scope["state"]["request_id"]
    texts = [payload.input[i] for i in indices]
    input_type = replace_pointer("/input_type", "/task" if payload.task else "/input_type")
    if not indices:
        with input_type:
            purpose = payload.input_type or payload.task
            await charge_blank(state, resolution, len(payload.input), purpose)
        return _response(payload, request_id, indices, None, resolution_headers(resolution))
    with replace_pointer("/items", "/input"), input_type, original_indices(indices):
        result = await infer_while_connected(
            request,
            state,
            resolution,
            plain_items(texts, encoder.modality),
            truncate=payload.cuts_texts,
            input_type=payload.input_type or payload.task,
            blank=len(payload.input) - len(indices),
            seconds=seconds,
        )
    result = cut_dimensions(result, payload.dimensions)
    return await state.executor.finish(
        partial(_result_response, payload, request_id, indices, result), result.rows.size
    )


def _result_response(
    payload: EmbeddingsRequest, request_id: str, indices: list[int], result: InferenceResult
) -> Response:
    return _response(payload, request_id, indices, result, result_headers(result))


def _response(
    payload: EmbeddingsRequest,
    request_id: str,
    indices: list[int],
    result: InferenceResult | None,
    headers: dict[str, str],
) -> Response:
    """A response with the embeddings of the inputs of these indices, and none of the others."""
    rows, tokens = (result.rows, result.tokens) if result else (np.empty((0, 1), np.float32), 0)
    usage = Usage(prompt_tokens=tokens, total_tokens=tokens)
    fields: dict[str, Any] = {
        "id": request_id,
        "object": "list",
        "model": payload.model,
        "usage": usage,
    }
    slices = _objects(payload, indices, rows)
    if rows.size > SLICE_VALUES:
        return SlicedJsonResponse("data", slices, fields, headers)
    data = [embedding for part in slices for embedding in part]
    response = EmbeddingsResponse.model_construct(None, data=data, **fields)
    return negotiation.json_response(response, headers=headers)


def _objects(
    payload: EmbeddingsRequest, indices: list[int], rows: Floats
) -> Iterator[list[EmbeddingObject]]:
    """The objects of all inputs in slices; those of other indices have no embedding."""
    # Rows are many, and our own: they are not validated.
    build = partial(EmbeddingObject.model_construct, object="embedding")
    position = 0
    for part in row_slices(*rows.shape):
        encoded: Any = rows[part]
        if payload.encoding_format == "base64":
            encoded = negotiation.base64_rows(encoded)
        objects = []
        for index, row in zip(indices[part], encoded, strict=True):
            objects += [
                build(index=i, embedding=None, error=MESSAGE) for i in range(position, index)
            ]
            objects.append(build(index=index, embedding=row))
            position = index + 1
        yield objects
    if rest := [
        build(index=i, embedding=None, error=MESSAGE) for i in range(position, len(payload.input))
    ]:
        yield rest


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
    """Aliases, spaces with an encoder, and their pairs with the spaces on their anchor set.

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
async def model(model: ModelNamePath, state: StateDep) -> Response:
    """A model, with the number of dimensions of its embeddings."""
    source, target = model_spaces(state, model)
    try:
        resolution = await asyncio.to_thread(state.pipeline.resolve, source=source, target=target)
        encoder_of(resolution.source)
    except (InvalidInputError, AnchorSetMismatchError) as error:
        # The space is registered, but cannot be used as a model.
        raise UnknownResourceError(f"no model {model}: {error.message}") from error
    return negotiation.json_response(
        _model(model, resolution.destination.dim), headers=resolution_headers(resolution)
    )


def _model(name: str, width: int) -> ModelObject:
    return ModelObject(id=name, object="model", created=0, owned_by="stitchwork", dimensions=width)


def _list_models(state: AppState) -> list[ModelObject]:
    page = state.pipeline.registry.spaces.page(MAX_MODELS)
    spaces = {entry.record.id: entry.record for entry in page.entries if entry.record}
    by_anchor_set: dict[tuple[str, str], list[Space]] = {}
    for space in spaces.values():
        by_anchor_set.setdefault((space.anchor_set, space.anchor_set_version), []).append(space)
    sources = [space for space in spaces.values() if space.encoder]
    models = [_model(space.id, space.dim) for space in sources]
    for source in sources:
        models += [
            _model(source.id + ARROW + target.id, target.dim)
            for target in by_anchor_set[source.anchor_set, source.anchor_set_version]
            if target.id != source.id
        ]
        if len(models) >= MAX_MODELS:
            break
    widths = {model.id: model.dimensions for model in models}
    aliases = [
        _model(alias, widths[name])
        for alias, name in state.model_aliases.items()
        if name in widths and alias not in widths and alias != DEFAULT_MODEL
    ]
    return [*aliases, *models][:MAX_MODELS]
