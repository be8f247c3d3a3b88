"""Inference with a model of the Open Inference Protocol, for its REST and its gRPC API."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from fastapi import Request
from numpy.typing import NDArray
from starlette.responses import Response

from stitchwork.api.content.sliced_json import check_json_values
from stitchwork.api.dependencies import AppState, request_timeout
from stitchwork.api.early_checks import check_capacity, check_encoder, check_registered
from stitchwork.api.kserve import tensors
from stitchwork.api.kserve.models import ITEMS, ROWS, Model, ModelName, check_model
from stitchwork.api.kserve.outputs import best_classes, output_arrays
from stitchwork.api.kserve.tensors import OutputSpec, TensorRequest
from stitchwork.api.predictions_response import check_predictions
from stitchwork.api.problem_details import replace_pointer
from stitchwork.api.provenance import result_headers
from stitchwork.api.raw_inputs import infer_while_connected, resolve_now
from stitchwork.api.row_inference import RowsRequest, infer_rows
from stitchwork.api.schemas.items import plain_items
from stitchwork.api.schemas.protocol_model import record_ignored
from stitchwork.errors import StitchworkError, UnknownResourceError
from stitchwork.inference.resolve import Resolution, check_width, encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Floats

MICROSECONDS: Final = 1e6
Render = Callable[
    [Mapping[str, str], Mapping[str, NDArray[Any]], Sequence[OutputSpec], Mapping[str, str]],
    Response,
]
"""Makes a response of its fields besides the outputs, all outputs of the model, those to send, and
headers."""


async def check_before_body(request: Request, state: AppState, name: ModelName) -> None:
    """Refuse a request before its tensors are received.

    Raises:
        QueueFullError: If there is no room for its work.
        StitchworkError: What `check_encoder` and `check_registered` raise.
    """
    spaces = [id_ for role, id_ in name.roles.items() if role != "head"]
    head = name.roles.get("head")
    if name.takes_items:
        await check_encoder(request, state, *spaces, head=head)
    else:
        state.executor.check_capacity()
        await check_registered(request, state, spaces, head=head)


def check_room(state: AppState, name: ModelName) -> None:
    """Refuse a request before its tensors are read, if there is no room for its work.

    Raises:
        QueueFullError: If the queue of its encoder, or that of the arithmetic, is full.
    """
    if name.takes_items:
        check_capacity(state, name.ids[0])
    else:
        state.executor.check_capacity()


async def infer(
    request: Request,
    state: AppState,
    name: ModelName,
    version: str | None,
    payload: TensorRequest,
    render: Render,
) -> Response:
    """Embed, translate, classify or stitch, according to the name of the model.

    Args:
        request: The request, whose body has been read.
        state: The state of the API.
        name: The model.
        version: The version that must be current; None accepts any.
        payload: The tensors.
        render: Makes the response.

    Raises:
        StitchworkError: If the request does not fit the model, or the inference fails.
    """
    start = time.perf_counter()
    try:
        response = await _infer(request, state, name, version, payload, render)
    except StitchworkError as error:
        # Names of models that do not exist are whatever clients send.
        if not isinstance(error, UnknownResourceError):
            state.model_statistics.record(name.text, time.perf_counter() - start, None)
        raise
    inputs = payload.body.inputs[0].shape[0]
    state.model_statistics.record(name.text, time.perf_counter() - start, inputs)
    return response


async def _infer(
    request: Request,
    state: AppState,
    name: ModelName,
    version: str | None,
    payload: TensorRequest,
    render: Render,
) -> Response:
    seconds = request_timeout(request)
    record_ignored(state.telemetry.metrics, payload.body, payload.unknown_fields)
    parameters = payload.body.parameters
    if parameters.timeout is not None:
        seconds = min(seconds, parameters.timeout / MICROSECONDS)
    if name.takes_items:
        ids = {**name.roles, "bridge": parameters.bridge}
        model = check_model(name, await resolve_now(state, **ids), version)
        return await _infer_items(request, state, model, payload, seconds, render)

    read_rows = partial(tensors.read_rows, payload.single_input(ROWS), state.limits)
    rows = read_rows() if payload.is_short else await asyncio.to_thread(read_rows)
    content = RowsRequest(rows, parameters.bridge, **name.roles)
    check = partial(_check_rows, state, name, version, payload, rows)

    def respond(result: InferenceResult) -> Response:
        model = check_model(name, result.resolution, version)
        outputs = payload.select_outputs(model.outputs)
        return _respond(state, model, payload, outputs, render, result)

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
    outputs = payload.select_outputs(model.outputs)
    check_width(rows, resolution.source, f"{payload.tensors[0].pointer}/shape")
    top = max(payload.body.parameters.top, *(output.classes for output in outputs), 1)
    if resolution.head is not None:
        check_predictions(len(rows), resolution.head, top, state.limits)
    elif not all(output.binary for output in outputs):
        count = len(rows) * resolution.destination.dim
        check_json_values(count, state.limits, "set binary_data_output, or send fewer rows")


async def _infer_items(
    request: Request,
    state: AppState,
    model: Model,
    payload: TensorRequest,
    seconds: float,
    render: Render,
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
    respond = partial(_respond, state, model, payload, outputs, render, result)
    return await state.executor.finish(respond, result.rows.size)


def _respond(
    state: AppState,
    model: Model,
    payload: TensorRequest,
    outputs: Sequence[OutputSpec],
    render: Render,
    result: InferenceResult,
) -> Response:
    id_ = payload.body.id
    fields = model.identity | ({} if id_ is None else {"id": id_})
    arrays = output_arrays(state.pipeline, result, payload.body.parameters.top)
    for output in outputs:
        if output.classes:
            arrays[output.name] = best_classes(result, output.classes)
    return render(fields, arrays, outputs, result_headers(result))
