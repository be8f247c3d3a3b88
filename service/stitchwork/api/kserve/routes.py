"""Routes of the Open Inference Protocol (KServe's version 2)."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.content.sliced_json import check_json_values
from stitchwork.api.dependencies import (
    AppState,
    StateDep,
    app_state,
    request_timeout,
)
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.kserve import models, tensors
from stitchwork.api.kserve.models import (
    ITEMS,
    ROWS,
    Model,
    ModelName,
    check_model,
    find_model,
    parse_name,
)
from stitchwork.api.kserve.outputs import output_arrays
from stitchwork.api.kserve.schemas import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelReadyResponse,
    ServerMetadata,
)
from stitchwork.api.kserve.tensors import OutputSpec, TensorRequest
from stitchwork.api.openapi import body, with_octets, with_timeout
from stitchwork.api.predictions_response import check_predictions
from stitchwork.api.problem_details import replace_pointer
from stitchwork.api.provenance import resolution_headers, result_headers
from stitchwork.api.raw_inputs import (
    check_capacity,
    check_registered,
    infer_while_connected,
    resolve_now,
)
from stitchwork.api.routes import health
from stitchwork.api.row_inference import RowsRequest, infer_rows
from stitchwork.api.schemas.items import plain_items
from stitchwork.api.schemas.protocol_model import count_ignored
from stitchwork.api.schemas.responses import ReadyResponse
from stitchwork.inference.resolve import Resolution, check_width, encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.queue import worker_registry
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.resources import Floats

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

MICROSECONDS: Final = 1e6
ModelPath = Annotated[
    str, Path(description=", ".join(f"`{form}`" for form in models.FORMS.values()))
]
VersionPath = Annotated[str, Path(description="The version in the model's metadata.")]
INFER_OPERATION: Final = with_timeout(body(InferenceRequest, octets=True))
INFER_RESPONSES: Final = with_octets(InferenceResponse)

router.add_api_route("/health/live", health.live, summary="Liveness", name="v2_live")
router.add_api_route(
    "/health/ready",
    health.ready,
    summary="Readiness",
    name="v2_ready",
    response_model=ReadyResponse,
    responses={503: {"description": "The process is not ready", "model": ReadyResponse}},
)


@router.get("", summary="Server metadata", name="v2_server", response_model=ServerMetadata)
async def server(state: StateDep) -> Response:
    """Name and version of the server, and the extensions of the protocol that it supports."""
    return negotiation.json_response(
        ServerMetadata(
            name=models.PLATFORM, version=state.version, extensions=["binary_tensor_data"]
        )
    )


@router.get(
    "/models/{model}", summary="Model metadata", name="v2_model", response_model=ModelMetadata
)
async def metadata(model: ModelPath, state: StateDep) -> Response:
    """Inputs, outputs and version of a model."""
    return await _metadata(state, model, None)


@router.get(
    "/models/{model}/versions/{version}",
    summary="Model metadata of one version",
    name="v2_model_version",
    response_model=ModelMetadata,
)
async def version_metadata(model: ModelPath, version: VersionPath, state: StateDep) -> Response:
    """The same, if this version is the current one."""
    return await _metadata(state, model, version)


@router.get(
    "/models/{model}/ready",
    summary="Model readiness",
    name="v2_model_ready",
    response_model=ModelReadyResponse,
)
async def ready(model: ModelPath, state: StateDep) -> Response:
    """200 if its resources are ready and a live worker can serve it; it may have to load it."""
    return await _ready(state, model, None)


@router.get(
    "/models/{model}/versions/{version}/ready",
    summary="Readiness of one version",
    name="v2_model_version_ready",
    response_model=ModelReadyResponse,
)
async def version_ready(model: ModelPath, version: VersionPath, state: StateDep) -> Response:
    """The same, if this version is the current one."""
    return await _ready(state, model, version)


async def infer(model: ModelPath, request: Request) -> Response:
    """Embed, translate, classify or stitch, according to the model's name."""
    return await _infer(request, model, None)


async def version_infer(model: ModelPath, version: VersionPath, request: Request) -> Response:
    """The same, if this version is the current one."""
    return await _infer(request, model, version)


for path, name, summary, endpoint in (
    ("/models/{model}/infer", "v2_infer", "Inference", infer),
    (
        "/models/{model}/versions/{version}/infer",
        "v2_infer_version",
        "Inference with one version",
        version_infer,
    ),
):
    router.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        summary=summary,
        name=name,
        responses=INFER_RESPONSES,
        openapi_extra=INFER_OPERATION,
        route_class_override=DirectRoute,
    )


async def _metadata(state: AppState, name: str, version: str | None) -> Response:
    model = await asyncio.to_thread(find_model, state.pipeline, parse_name(name), version)
    return negotiation.json_response(model.metadata, headers=resolution_headers(model.resolution))


async def _ready(state: AppState, name: str, version: str | None) -> Response:
    model = await asyncio.to_thread(find_model, state.pipeline, parse_name(name), version)
    if model.name.takes_items:
        space = model.resolution.source
        workers = await asyncio.to_thread(state.producer.workers)
        worker_registry.check_accepting(workers, ModelRequirement.of(encoder_of(space)), space.id)
    return negotiation.json_response(ModelReadyResponse(name=name, ready=True))


async def _infer(request: Request, text: str, version: str | None) -> Response:
    state, seconds = app_state(request), request_timeout(request)
    name = parse_name(text)
    if name.takes_items:
        check_capacity(state, name.ids[0])
    else:
        state.executor.check_capacity()
    spaces = [id_ for role, id_ in name.roles.items() if role != "head"]
    await check_registered(request, state, *spaces, head=name.roles.get("head"))
    payload = await tensors.read_request(request, state.body_parser)
    if ignored := count_ignored(payload.body):
        state.telemetry.metrics.ignored_fields.inc(ignored)
    parameters = payload.body.parameters
    if parameters.timeout is not None:
        seconds = min(seconds, parameters.timeout / MICROSECONDS)
    if name.takes_items:
        ids = {**name.roles, "bridge": parameters.bridge}
        model = check_model(name, await resolve_now(state, **ids), version)
        return await _infer_items(request, state, model, payload, seconds)

    rows = tensors.read_rows(payload.single_input(ROWS), state.limits)
    content = RowsRequest(rows, parameters.bridge, **name.roles)
    check = partial(_check_rows, state, name, version, payload, rows)

    def respond(result: InferenceResult) -> Response:
        model = check_model(name, result.resolution, version)
        outputs = payload.select_outputs(model.outputs)
        return _response(state, model, payload, outputs, result)

    return await infer_rows(request, state, content, check, respond, seconds)


def _check_rows(
    state: AppState,
    name: ModelName,
    version: str | None,
    payload: TensorRequest,
    rows: Floats,
    resolution: Resolution,
) -> None:
    """Check a request with embeddings against the model, before anything is computed."""
    model = check_model(name, resolution, version)
    payload.select_outputs(model.outputs)
    check_width(rows, resolution.source, f"{payload.tensors[0].pointer}/shape")
    top = payload.body.parameters.top
    if resolution.head is not None:
        check_predictions(len(rows), resolution.head, top, state.limits)
    elif not all(output.binary for output in payload.select_outputs(model.outputs)):
        count = len(rows) * resolution.destination.dim
        check_json_values(count, state.limits, "set binary_data_output, or send fewer rows")


async def _infer_items(
    request: Request, state: AppState, model: Model, payload: TensorRequest, seconds: float
) -> Response:
    tensor, outputs = payload.single_input(ITEMS), payload.select_outputs(model.outputs)
    read_items = partial(tensors.read_items, tensor, state.limits)
    items = read_items() if payload.is_short else await asyncio.to_thread(read_items)
    items = plain_items(items, encoder_of(model.resolution.source).modality)
    with replace_pointer("/items", f"{tensor.pointer}/data"):
        result = await infer_while_connected(
            request,
            state,
            model.resolution,
            items,
            truncate=payload.body.parameters.truncate,
            input_type=payload.body.parameters.input_type,
            seconds=seconds,
        )
    render = partial(_response, state, model, payload, outputs, result)
    return await state.executor.finish(render, result.rows.size)


def _response(
    state: AppState,
    model: Model,
    payload: TensorRequest,
    outputs: Sequence[OutputSpec],
    result: InferenceResult,
) -> Response:
    id_ = payload.body.id
    fields = model.identity | ({} if id_ is None else {"id": id_})
    arrays = output_arrays(state.pipeline, result, payload.body.parameters.top)
    return tensors.tensor_response(fields, arrays, outputs, result_headers(result))
