"""Routes of Text Embeddings Inference; the base URL of a client names the model.

A server of that kind has one model. Here each model has paths below `/tei/{model}`.
"""

from functools import partial

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.content.sliced_json import (
    SLICE_VALUES,
    SlicedJsonResponse,
    check_json_values,
    row_slices,
)
from stitchwork.api.dependencies import StateDep, app_state, request_timeout
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.early_checks import check_encoder
from stitchwork.api.model_names import ModelNamePath
from stitchwork.api.openapi import body, with_timeout
from stitchwork.api.problem_details import problem_response, record_code, replace_pointer
from stitchwork.api.provenance import resolution_headers, result_headers
from stitchwork.api.raw_inputs import infer_while_connected, resolve_now
from stitchwork.api.schemas.items import plain_items
from stitchwork.api.schemas.protocol_model import record_ignored
from stitchwork.api.tei.path_spaces import path_spaces
from stitchwork.api.tei.schemas import (
    EmbeddingLists,
    EmbedInputsRequest,
    ModelInfo,
    ModelType,
    PoolingType,
)
from stitchwork.errors import ErrorCode
from stitchwork.inference.dimensions import check_dimensions, cut_dimensions
from stitchwork.inference.resolve import encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Floats, TextEncoder, local_path

router = APIRouter(prefix="/tei", tags=["Text Embeddings Inference"])


async def embed(model: ModelNamePath, request: Request) -> Response:
    """Embed texts in a space that has an encoder and, with `->target`, translate them.

    Embeddings have unit length, unless `normalize` is false.
    """
    state, seconds = app_state(request), request_timeout(request)
    source, target = path_spaces(state, model.rstrip("/"))
    await check_encoder(request, state, source, target)
    payload = await negotiation.read_body(request, EmbedInputsRequest, state.body_parser)
    resolution = await resolve_now(state, source=source, target=target)
    record_ignored(state.telemetry.metrics, payload)
    encoder = encoder_of(resolution.source)
    check_dimensions(resolution.destination, payload.dimensions)
    width = payload.dimensions or resolution.destination.dim
    check_json_values(len(payload.inputs) * width, state.limits, "send fewer")
    with replace_pointer("/items", "/inputs"), replace_pointer("/input_type", "/prompt_name"):
        result = await infer_while_connected(
            request,
            state,
            resolution,
            plain_items(payload.inputs, encoder.modality),
            truncate=payload.truncate,
            input_type=payload.prompt_name,
            seconds=seconds,
        )
    result = cut_dimensions(result, payload.dimensions)
    return await state.executor.finish(
        partial(_response, result, normalize=payload.normalize), result.rows.size
    )


async def refuse_method(model: str, request: Request) -> Response:
    """The response to a POST of what is only read; the path of a model would match it."""
    record_code(request.scope, ErrorCode.METHOD_NOT_ALLOWED)
    return problem_response(
        405,
        ErrorCode.METHOD_NOT_ALLOWED,
        "Method Not Allowed",
        request.scope["state"]["request_id"],
        path=request.scope["path"],
        headers={"Allow": "GET, HEAD"},
    )


for name in ("info", "health"):
    router.add_api_route(
        f"/{{model:path}}/{name}",
        refuse_method,
        methods=["POST"],
        include_in_schema=False,
        route_class_override=DirectRoute,
    )
for path, name in (("/{model:path}/embed", "tei_embed"), ("/{model:path}", "tei_predict")):
    router.add_api_route(
        path,
        embed,
        methods=["POST"],
        summary="Embed inputs",
        name=name,
        response_model=EmbeddingLists,
        openapi_extra=with_timeout(body(EmbedInputsRequest)),
        route_class_override=DirectRoute,
    )


@router.get(
    "/{model:path}/info", summary="Describe a model", name="tei_info", response_model=ModelInfo
)
async def info(model: ModelNamePath, state: StateDep) -> Response:
    """The encoder of a model, and the limits of a request."""
    source, target = path_spaces(state, model)
    resolution = await resolve_now(state, source=source, target=target)
    encoder = encoder_of(resolution.source)
    text = encoder if isinstance(encoder, TextEncoder) else None
    pooling = (getattr(encoder, "pooling", None) or "mean") if text else "image"
    response = ModelInfo(
        # A path of the service's machine is not for everyone who may infer.
        model_id=source if local_path(encoder) else encoder.model,
        model_sha=getattr(encoder, "revision", None),
        model_dtype=resolution.source.dtype or "float32",
        model_type=ModelType(
            embedding=PoolingType(
                pooling=pooling if isinstance(pooling, str) else "+".join(pooling)
            )
        ),
        max_input_length=text and text.max_length,
        max_client_batch_size=state.limits.max_items,
        auto_truncate=bool(text and text.truncate),
        version=state.version,
    )
    return negotiation.json_response(response, headers=resolution_headers(resolution))


@router.get("/{model:path}/health", summary="Whether a model is registered", name="tei_health")
async def health(model: ModelNamePath, state: StateDep) -> Response:
    """Responds with 200 if the model can be used."""
    source, target = path_spaces(state, model)
    resolution = await resolve_now(state, source=source, target=target)
    encoder_of(resolution.source)
    return Response(headers=resolution_headers(resolution))


def _response(result: InferenceResult, *, normalize: bool) -> Response:
    rows, headers = result.rows, result_headers(result)
    if normalize:
        rows = unit_rows(rows)
    if rows.size <= SLICE_VALUES:
        return negotiation.json_response(rows, headers=headers)
    slices = (rows[part] for part in row_slices(*rows.shape))
    return SlicedJsonResponse(None, slices, {}, headers)


def unit_rows(rows: Floats) -> Floats:
    """Rows scaled to unit length; those of length zero unchanged.

    Args:
        rows: (n, d) float32.

    Returns:
        (n, d) float32.
    """
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
