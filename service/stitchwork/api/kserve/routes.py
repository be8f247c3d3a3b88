"""The Open Inference Protocol (KServe's version 2) over what is registered."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Path, Request
from numpy.typing import NDArray
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    AppState,
    StateDep,
    app_state,
    request_timeout,
    run_while_connected,
)
from stitchwork.api.kserve import models, tensors
from stitchwork.api.kserve.models import ITEMS, ROWS, Model, find_model, parse_name
from stitchwork.api.kserve.schemas import InferenceRequest
from stitchwork.api.kserve.tensors import Inference
from stitchwork.api.openapi import body, example, with_timeout
from stitchwork.api.problem_details import replace_pointer
from stitchwork.api.routes import health
from stitchwork.api.routes.provenance import resolution_headers, result_headers
from stitchwork.api.routes.raw_inputs import check_capacity, infer_items
from stitchwork.api.schemas.responses import ReadyResponse
from stitchwork.errors import NoWorkerError
from stitchwork.inference.resolve import check_width, encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.queue import worker_registry

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

MICROSECONDS: Final = 1e6
ModelPath = Annotated[
    str, Path(description=", ".join(f"`{form}`" for form in models.FORMS.values()))
]
VersionPath = Annotated[str, Path(description="The one that its metadata names.")]
INFER: Final = with_timeout(body(InferenceRequest, octets=True))
STITCH: Final = "stitch:minilm:intent"
VERSION: Final = "e1e0f4b6a4b6cbbd2d0a3c0e1f3a5b77"
ANSWER: Final = example(
    "Outputs, in JSON or as bytes behind it.",
    {
        "model_name": STITCH,
        "model_version": VERSION,
        "outputs": [
            {"name": "labels", "datatype": "BYTES", "shape": [1, 2], "data": ["card", "refund"]},
            {"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": [0.93, 0.07]},
            {"name": "confidence", "datatype": "FP32", "shape": [1], "data": [0.93]},
        ],
    },
    octets=True,
)
METADATA: Final = example(
    "What it takes and gives; -1 is any number.",
    {
        "name": STITCH,
        "versions": [VERSION],
        "platform": models.PLATFORM,
        "inputs": [{"name": "items", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "labels", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "confidence", "datatype": "FP32", "shape": [-1]},
        ],
    },
)
READY: Final = example("It can be used.", {"name": STITCH, "ready": True})

router.add_api_route("/health/live", health.live, summary="Is this process alive?", name="v2_live")
router.add_api_route(
    "/health/ready",
    health.ready,
    summary="Can requests be served?",
    name="v2_ready",
    response_model=ReadyResponse,
    responses={503: {"description": "Something is missing", "model": ReadyResponse}},
)


@router.get("", summary="What this server is", name="v2_server")
async def server(state: StateDep) -> Response:
    """Its name, version, and the extensions of the protocol that it speaks."""
    return negotiation.json_response(
        {
            "name": models.PLATFORM,
            "version": state.version,
            "extensions": ["binary_tensor_data"],
        }
    )


@router.get("/models/{model}", summary="Show one model", name="v2_model", responses=METADATA)
async def show(model: ModelPath, state: StateDep) -> Response:
    """What a model takes and gives, and its version."""
    return await _show(state, model, None)


@router.get(
    "/models/{model}/versions/{version}",
    summary="Show one version",
    name="v2_model_version",
    responses=METADATA,
)
async def show_version(model: ModelPath, version: VersionPath, state: StateDep) -> Response:
    """The same, if that version is the one that serves."""
    return await _show(state, model, version)


@router.get(
    "/models/{model}/ready",
    summary="Can this model be used?",
    name="v2_model_ready",
    responses=READY,
)
async def ready(model: ModelPath, state: StateDep) -> Response:
    """200 if all it stands for is registered and ready, and a worker takes work for it."""
    return await _ready(state, model, None)


@router.get(
    "/models/{model}/versions/{version}/ready",
    summary="Can this version be used?",
    name="v2_model_version_ready",
    responses=READY,
)
async def ready_version(model: ModelPath, version: VersionPath, state: StateDep) -> Response:
    """The same, if that version is the one that serves."""
    return await _ready(state, model, version)


@router.post(
    "/models/{model}/infer", summary="Infer", name="v2_infer", responses=ANSWER, openapi_extra=INFER
)
async def infer(model: ModelPath, request: Request) -> Response:
    """Embed, translate, classify or stitch, by the model's name."""
    return await _infer(request, model, None)


@router.post(
    "/models/{model}/versions/{version}/infer",
    summary="Infer by one version",
    name="v2_infer_version",
    responses=ANSWER,
    openapi_extra=INFER,
)
async def infer_version(model: ModelPath, version: VersionPath, request: Request) -> Response:
    """The same, if that version is the one that serves."""
    return await _infer(request, model, version)


async def _show(state: AppState, name: str, version: str | None) -> Response:
    model = await asyncio.to_thread(find_model, state.pipeline, parse_name(name), version)
    return negotiation.json_response(model.metadata, headers=resolution_headers(model.resolution))


async def _ready(state: AppState, name: str, version: str | None) -> Response:
    model = await asyncio.to_thread(find_model, state.pipeline, parse_name(name), version)
    if model.name.takes_items:
        encoder = encoder_of(model.resolution.source)
        workers = await asyncio.to_thread(state.producer.workers)
        if not worker_registry.count_accepting(workers, encoder):
            raise NoWorkerError(f"no live worker takes work for {encoder.model}")
    return negotiation.json_response({"name": name, "ready": True})


async def _infer(request: Request, text: str, version: str | None) -> Response:
    state, seconds = app_state(request), request_timeout(request)
    name = parse_name(text)
    if name.takes_items:
        check_capacity(state, name.ids[0])
    else:
        state.executor.check_capacity()
    inference = await tensors.read(request, state.limits)
    parameters = inference.body.parameters
    if parameters.timeout is not None:
        seconds = min(seconds, parameters.timeout / MICROSECONDS)
    find = partial(find_model, state.pipeline, name, version, parameters.bridge)
    if not name.takes_items:
        return await state.executor.run(lambda: _infer_rows(state, find(), inference), seconds)
    model = await asyncio.to_thread(find)
    return await _infer_items(request, state, model, inference, seconds)


def _infer_rows(state: AppState, model: Model, inference: Inference) -> Response:
    tensor, outputs = inference.only(ROWS), inference.wanted(model.outputs)
    rows = tensors.rows(tensor, state.limits)
    check_width(rows, model.resolution.source, f"{tensor.pointer}/shape")
    result = state.pipeline.infer_rows(model.resolution, rows)
    return _response(state, model, inference, outputs, result)


async def _infer_items(
    request: Request, state: AppState, model: Model, inference: Inference, seconds: float
) -> Response:
    tensor, outputs = inference.only(ITEMS), inference.wanted(model.outputs)
    items = await asyncio.to_thread(tensors.items, tensor, state.limits)
    with replace_pointer("/items", f"{tensor.pointer}/data"):
        work = infer_items(
            state,
            model.resolution,
            items,
            truncate=inference.body.parameters.truncate,
            seconds=seconds,
        )
        result = await run_while_connected(request, work)
    render = partial(_response, state, model, inference, outputs, result)
    return await state.executor.finish(render, result.rows.size)


def _response(
    state: AppState,
    model: Model,
    inference: Inference,
    outputs: Sequence[tuple[str, bool]],
    result: InferenceResult,
) -> Response:
    arrays = _arrays(state, inference, result)
    return tensors.respond(inference, model.identity, arrays, outputs, result_headers(result))


def _arrays(
    state: AppState, inference: Inference, result: InferenceResult
) -> dict[str, NDArray[Any]]:
    """The outputs by name: embeddings or, of probabilities, predictions."""
    if not result.resolution.head:
        return {ROWS: result.rows}
    predictions = state.pipeline.predict(result, inference.body.parameters.top)
    tops = [prediction.top for prediction in predictions]
    return {
        "labels": np.array([[best.label for best in top] for top in tops], object),
        "scores": np.array([[best.score for best in top] for top in tops], np.float32),
        "confidence": np.array([one.confidence for one in predictions], np.float32),
    }
