"""Methods of `inference.GRPCInferenceService`, as routes that `api.grpc_server` calls.

Each takes the bytes of its request's message, and returns those of its response's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from starlette.responses import Response

from stitchwork.api.dependencies import AppState, app_state
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.kserve import models, repository
from stitchwork.api.kserve.grpc_messages import CLASSES, CONTENTS, MESSAGES
from stitchwork.api.kserve.grpc_requests import read_request
from stitchwork.api.kserve.inference import check_room, infer
from stitchwork.api.kserve.models import find_model, parse_name
from stitchwork.api.kserve.output_tensors import binary_data, datatype_of
from stitchwork.api.kserve.readiness import check_ready
from stitchwork.api.kserve.tensors import OutputSpec
from stitchwork.api.limits import GRPC_SERVICE
from stitchwork.api.provenance import resolution_headers
from stitchwork.api.routes import health
from stitchwork.errors import (
    InputTooLargeError,
    MalformedInputError,
    NotReadyError,
    UnavailableError,
)

MEDIA_TYPE: Final = "application/grpc+proto"
MAX_MESSAGE_BYTES: Final = 16 * 1024
"""Bytes of a message of names and versions, which is parsed on the event loop."""
DATA_TYPES: Final = {"TYPE_BOOL": 1, "TYPE_FP32": 11, "TYPE_STRING": 13}
"""Numbers of the protocol's types of data."""
Method = Callable[[Request, AppState, Any], Awaitable[Response]]

router = APIRouter(prefix=f"/{GRPC_SERVICE}")


def routes() -> list[APIRoute]:
    """The routes of all methods."""
    return [route for route in router.routes if isinstance(route, APIRoute)]


def _method(name: str) -> Callable[[Method], Method]:
    """Add the method of a name, which takes a parsed message."""

    def add(method: Method) -> Method:
        async def endpoint(request: Request) -> Response:
            state = app_state(request)
            # A message without fields is not waited for: some such methods need no key.
            kind = CLASSES[f"{name}Request"]
            is_empty = not MESSAGES[f"{name}Request"]
            message = kind() if is_empty else await read_message(request, state, kind)
            return await method(request, state, message)

        _add_route(name, endpoint)
        return method

    return add


async def read_message(request: Request, state: AppState, kind: Any) -> Any:
    """The message of a request, which is a short one.

    Args:
        request: The request.
        state: The state of the API.
        kind: Its class.

    Raises:
        InputTooLargeError: If it has more than `MAX_MESSAGE_BYTES`.
        MalformedInputError: If it is none.
    """
    data, name = await state.body_parser.receive(request, is_array=True), kind.DESCRIPTOR.name
    if len(data) > MAX_MESSAGE_BYTES:
        raise InputTooLargeError(
            f"expected a message {name} of at most {MAX_MESSAGE_BYTES} bytes, got {len(data)}"
        )
    try:
        return kind.FromString(bytes(data))
    except DecodeError as error:
        raise MalformedInputError(f"expected a message {name}, got bytes that are none") from error


def _add_route(name: str, endpoint: Callable[..., Awaitable[Response]]) -> None:
    router.add_api_route(
        f"/{name}",
        endpoint,
        methods=["POST"],
        name=f"grpc_{name}",
        response_model=None,
        include_in_schema=False,
        route_class_override=DirectRoute,
    )


def message_response(
    name: str, fields: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """A response with one message.

    Args:
        name: The message.
        fields: Its fields.
        headers: Headers, which are sent as metadata.
    """
    data = CLASSES[name](**fields).SerializeToString()
    return Response(data, headers=dict(headers or {}), media_type=MEDIA_TYPE)


@_method("ServerLive")
async def server_live(request: Request, state: AppState, message: Any) -> Response:
    """Whether the process responds."""
    return message_response("ServerLiveResponse", {"live": True})


@_method("ServerReady")
async def server_ready(request: Request, state: AppState, message: Any) -> Response:
    """Whether the process can serve requests, by the same rules as `/health/ready`."""
    return message_response("ServerReadyResponse", {"ready": health.readiness(state).ready})


@_method("ServerMetadata")
async def server_metadata(request: Request, state: AppState, message: Any) -> Response:
    """Name and version of the server."""
    return message_response(
        "ServerMetadataResponse",
        {
            "name": models.PLATFORM,
            "version": state.version,
            "extensions": models.EXTENSIONS,
        },
    )


@_method("ModelReady")
async def model_ready(request: Request, state: AppState, message: Any) -> Response:
    """Whether the model can be used now; false while it is registered and not usable."""
    try:
        await asyncio.to_thread(check_ready, state, message.name, message.version or None)
    except (NotReadyError, UnavailableError):
        return message_response("ModelReadyResponse", {"ready": False})
    return message_response("ModelReadyResponse", {"ready": True})


@_method("ModelMetadata")
async def model_metadata(request: Request, state: AppState, message: Any) -> Response:
    """Inputs, outputs and version of a model."""
    find = partial(find_model, state.pipeline, parse_name(message.name), message.version or None)
    model = await asyncio.to_thread(find)
    headers = resolution_headers(model.resolution)
    return message_response("ModelMetadataResponse", model.metadata.model_dump(), headers)


@_method("ModelConfig")
async def model_config(request: Request, state: AppState, message: Any) -> Response:
    """The configuration of a model, as far as one has it here."""
    find = partial(find_model, state.pipeline, parse_name(message.name), message.version or None)
    model = await asyncio.to_thread(find)
    fields = repository.configuration(model).model_dump()
    for tensor in (*fields["input"], *fields["output"]):
        tensor["data_type"] = DATA_TYPES[tensor["data_type"]]
    headers = resolution_headers(model.resolution)
    return message_response("ModelConfigResponse", {"config": fields}, headers)


@_method("ModelStatistics")
async def model_statistics(request: Request, state: AppState, message: Any) -> Response:
    """Requests that this process has served, of one model or of all."""
    name, version = message.name, message.version or None
    entries = await asyncio.to_thread(repository.statistics, state, name, version)
    fields = {"model_stats": [entry.model_dump() for entry in entries]}
    return message_response("ModelStatisticsResponse", fields)


@_method("RepositoryIndex")
async def repository_index(request: Request, state: AppState, message: Any) -> Response:
    """The models of all that is registered, and whether they are ready."""
    listed = await asyncio.to_thread(repository.list_models, state, ready=message.ready)
    fields = {"models": [model.model_dump() for model in listed]}
    return message_response("RepositoryIndexResponse", fields)


async def _infer(request: Request) -> Response:
    """Embed, translate, classify or stitch, according to the name of the model."""
    return await _infer_message(request, _infer_response)


async def _stream_infer(request: Request) -> Response:
    """The same for one message of a stream."""
    return await _infer_message(request, _stream_response)


_add_route("ModelInfer", _infer)
_add_route("ModelStreamInfer", _stream_infer)


async def _infer_message(
    request: Request,
    render: Callable[
        [Mapping[str, str], Mapping[str, NDArray[Any]], Sequence[OutputSpec], Mapping[str, str]],
        Response,
    ],
) -> Response:
    state = app_state(request)
    model, version, payload = await read_request(request, state.body_parser)
    name = parse_name(model)
    check_room(state, name)
    return await infer(request, state, name, version, payload, render)


def _response_fields(
    fields: Mapping[str, str],
    outputs: Mapping[str, NDArray[Any]],
    specs: Sequence[OutputSpec],
) -> dict[str, Any]:
    """The fields of a `ModelInferResponse`."""
    entries, raw = list[dict[str, Any]](), list[bytes]()
    for spec in specs:
        array = outputs[spec.name]
        datatype = datatype_of(array)
        entry: dict[str, Any] = {
            "name": spec.name,
            "datatype": datatype,
            "shape": list(array.shape),
        }
        if spec.binary:
            raw.append(binary_data(array, datatype))
        else:
            values = array.ravel().tolist()
            if datatype == "BYTES":
                values = [text.encode() for text in values]
            entry["contents"] = {CONTENTS[datatype]: values}
        entries.append(entry)
    return {**fields, "outputs": entries, "raw_output_contents": raw}


def _infer_response(
    fields: Mapping[str, str],
    outputs: Mapping[str, NDArray[Any]],
    specs: Sequence[OutputSpec],
    headers: Mapping[str, str],
) -> Response:
    return message_response("ModelInferResponse", _response_fields(fields, outputs, specs), headers)


def _stream_response(
    fields: Mapping[str, str],
    outputs: Mapping[str, NDArray[Any]],
    specs: Sequence[OutputSpec],
    headers: Mapping[str, str],
) -> Response:
    content = CLASSES["ModelInferResponse"](**_response_fields(fields, outputs, specs))
    # As Triton marks the last response to a request; there is one for each.
    content.parameters["triton_final_response"].bool_param = True
    return message_response("ModelStreamInferResponse", {"infer_response": content}, headers)


def stream_error(text: str, metadata: Iterable[tuple[str, str]]) -> bytes:
    """The message of a stream for a request that failed.

    Args:
        text: The error.
        metadata: What would be trailing metadata of a call, as parameters of the response.
    """
    message = CLASSES["ModelStreamInferResponse"](error_message=text)
    for name, value in metadata:
        message.infer_response.parameters[name].string_param = value
    data: bytes = message.SerializeToString()
    return data


STREAMS: Final = {f"/{GRPC_SERVICE}/ModelStreamInfer": stream_error}
"""Methods of streams, each message of which is a request, with what makes the messages of errors.
"""
