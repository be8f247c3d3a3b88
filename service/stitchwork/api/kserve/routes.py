"""The Open Inference Protocol (KServe's version 2) over what is registered."""

import asyncio
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
from stitchwork.api.kserve.models import ITEMS, ROWS, Served
from stitchwork.api.kserve.schemas import InferenceRequest
from stitchwork.api.kserve.tensors import Inference
from stitchwork.api.openapi import body, example, with_timeout
from stitchwork.api.problem_details import replace_pointer
from stitchwork.api.routes import health
from stitchwork.api.routes.queued_work import check_room, encoder_of, job_of, run
from stitchwork.api.routes.response_facts import outside, used, width
from stitchwork.api.schemas.responses import ReadyResponse
from stitchwork.errors import NoWorkerError
from stitchwork.geometry.classifier import probabilities
from stitchwork.inference.predictions import predictions
from stitchwork.queue import worker_registry
from stitchwork.resources import Floats

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

MICROSECONDS: Final = 1e6
Model = Annotated[str, Path(description=", ".join(f"`{form}`" for form in models.FORMS.values()))]
Version = Annotated[str, Path(description="The one that its metadata names.")]
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
async def show(model: Model, state: StateDep) -> Response:
    """What a model takes and gives, and its version."""
    return await _show(state, model, None)


@router.get(
    "/models/{model}/versions/{version}",
    summary="Show one version",
    name="v2_model_version",
    responses=METADATA,
)
async def show_version(model: Model, version: Version, state: StateDep) -> Response:
    """The same, if that version is the one that serves."""
    return await _show(state, model, version)


@router.get(
    "/models/{model}/ready",
    summary="Can this model be used?",
    name="v2_model_ready",
    responses=READY,
)
async def ready(model: Model, state: StateDep) -> Response:
    """200 if all it stands for is registered and ready, and a worker takes work for it."""
    return await _ready(state, model, None)


@router.get(
    "/models/{model}/versions/{version}/ready",
    summary="Can this version be used?",
    name="v2_model_version_ready",
    responses=READY,
)
async def ready_version(model: Model, version: Version, state: StateDep) -> Response:
    """The same, if that version is the one that serves."""
    return await _ready(state, model, version)


@router.post(
    "/models/{model}/infer", summary="Infer", name="v2_infer", responses=ANSWER, openapi_extra=INFER
)
async def infer(model: Model, request: Request) -> Response:
    """Embed, translate, classify or stitch, by the model's name."""
    return await _infer(request, model, None)


@router.post(
    "/models/{model}/versions/{version}/infer",
    summary="Infer by one version",
    name="v2_infer_version",
    responses=ANSWER,
    openapi_extra=INFER,
)
async def infer_version(model: Model, version: Version, request: Request) -> Response:
    """The same, if that version is the one that serves."""
    return await _infer(request, model, version)


async def _show(state: AppState, model: str, version: str | None) -> Response:
    found = await asyncio.to_thread(models.find, state, models.named(model), version)
    return negotiation.json_response(found.described(), headers=used(found.stale, **found.roles))


async def _ready(state: AppState, model: str, version: str | None) -> Response:
    found = await asyncio.to_thread(models.find, state, models.named(model), version)
    if found.name.takes_items:
        encoder = encoder_of(found.source)
        workers = await asyncio.to_thread(state.producer.workers)
        if not worker_registry.count_accepting(workers, encoder):
            raise NoWorkerError(f"no live worker takes work for {encoder.model}")
    return negotiation.json_response({"name": model, "ready": True})


async def _infer(request: Request, model: str, version: str | None) -> Response:
    state, seconds = app_state(request), request_timeout(request)
    name = models.named(model)
    if name.takes_items:
        check_room(state, name.ids[0])
    else:
        state.executor.check_capacity()
    asked = await tensors.read(request, state.limits)
    if asked.body.parameters.timeout is not None:
        seconds = min(seconds, asked.body.parameters.timeout / MICROSECONDS)
    if not name.takes_items:

        def from_rows() -> Response:
            return _from_rows(state, models.find(state, name, version), asked)

        return await state.executor.run(from_rows, seconds)
    found = await asyncio.to_thread(models.find, state, name, version)
    return await _from_items(request, state, found, asked, seconds)


def _from_rows(state: AppState, found: Served, asked: Inference) -> Response:
    given, wanted = asked.only(ROWS), asked.wanted(found.outputs)
    rows = tensors.rows(given, state.limits)
    width(rows, found.source, f"{given.pointer}/shape")
    way = state.translator.way(
        found.source, found.target or found.source, asked.body.parameters.bridge
    )
    with state.telemetry.step("translate"):
        rows, defined, covered = way.apply(rows)
    state.telemetry.metrics.record_inputs("classify" if found.head else "translate", covered)
    if found.head:
        classifier = state.classifiers.get(found.head)
        with state.telemetry.step("classify"):
            rows = probabilities(classifier.logits(rows))
    outputs = _outputs(state, found, asked, rows, defined)
    headers = used(found.stale, **found.roles) | outside(covered, found.source).headers
    return tensors.respond(asked, found.told(), outputs, wanted, headers)


async def _from_items(
    request: Request, state: AppState, found: Served, asked: Inference, seconds: float
) -> Response:
    given, wanted = asked.only(ITEMS), asked.wanted(found.outputs)
    items = await asyncio.to_thread(tensors.items, given, state.limits)
    told = asked.body.parameters
    job = job_of(found.source, found.target, found.head, bridge=told.bridge, truncate=told.truncate)
    with replace_pointer("/items", f"{given.pointer}/data"):
        reply = await run_while_connected(request, run(state, job, items, seconds))
    rows: Floats = reply.rows  # type: ignore[assignment]
    state.telemetry.metrics.record_inputs("stitch" if found.head else "embed", reply.covered)
    outputs = await asyncio.to_thread(_outputs, state, found, asked, rows, reply.defined)
    headers = used(found.stale, **found.roles) | outside(reply.covered, found.source).headers
    if reply.truncated:
        headers["Stitchwork-Truncated"] = str(len(reply.truncated))
    return tensors.respond(asked, found.told(), outputs, wanted, headers)


def _outputs(
    state: AppState, found: Served, asked: Inference, rows: Floats, defined: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """Rows by name: embeddings or, of probabilities, what a prediction says."""
    if not found.head:
        return {ROWS: rows}
    told = asked.body.parameters
    pair = found.source, found.target or found.source
    calibration = state.registry.calibrations.get(*pair, found.head, told.bridge)
    said = predictions(rows, defined, found.head.labels, told.top, calibration)
    state.telemetry.metrics.record_confidences(found.head.id, [one.confidence for one in said])
    return {
        "labels": np.array([[best.label for best in one.top] for one in said], object),
        "scores": np.array([[best.score for best in one.top] for one in said], np.float32),
        "confidence": np.array([one.confidence for one in said], np.float32),
    }
