"""Media types of requests and responses: JSON, NDJSON, safetensors, .npy, multipart.

A body of any media type becomes one dictionary that a schema validates: the fields of a JSON body,
or the query parameters together with the arrays of a binary body. `kserve.tensors` parses the
bodies of the Open Inference Protocol, which are JSON followed by bytes.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, assert_never

import numpy as np
import orjson
from pybase64 import b64encode
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from stitchwork.api.content import json, multipart
from stitchwork.api.content.arrays import (
    BufferResponse,
    from_npy,
    from_safetensors,
    to_npy,
    to_safetensors,
)
from stitchwork.api.content.queries import check_no_fields, with_query
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import request_headers
from stitchwork.api.schemas.response_model import EmbeddingsModel, json_fields
from stitchwork.api.validation_errors import from_validation
from stitchwork.errors import (
    ErrorCode,
    InvalidInputError,
    MalformedInputError,
    UnsupportedFormatError,
)
from stitchwork.resources import Floats

M = TypeVar("M", bound=BaseModel)
B = TypeVar("B")

BodyType: TypeAlias = Literal[
    "application/json",
    "application/vnd.safetensors",
    "application/x-npy",
    "multipart/form-data",
    "application/x-ndjson",
]
"""A media type of bodies that `read_body` parses."""
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
SAFETENSORS: Final = "application/vnd.safetensors"
NPY: Final = "application/x-npy"
ONNX: Final = "application/x-onnx"
MULTIPART: Final = "multipart/form-data"
OCTETS: Final = "application/octet-stream"
BINARY: Final = (SAFETENSORS, NPY)
RAW_INPUTS: Final = (MULTIPART, NDJSON)

_QUALITY: Final = re.compile(r"[01](\.\d{1,3})?")
LARGE_BODY: Final = 64 * 1024
"""Bytes above which a body is parsed on a thread, off the event loop."""
LARGE_BINARY: Final = 1024 * 1024
"""The same for a body that is an array already."""


@dataclass(frozen=True, slots=True)
class Body(Generic[B]):
    """A body that was received and is not parsed yet.

    Attributes:
        is_short: Whether the event loop may parse it.
        read: Parses and validates it, and raises what `read_body` raises.
    """

    is_short: bool
    read: Callable[[], B]


async def receive_body(
    request: Request,
    model: type[M],
    limits: RequestLimits,
    *,
    array_field: str | None = None,
    accepts_raw_inputs: bool = False,
) -> Body[M]:
    """Receive the body of a request, for callers that parse it on a thread of their choice.

    Arguments and errors are those of `read_body`.
    """
    media = _supported_media_type(request, array_field, accepts_raw_inputs)
    # `middleware.body_limits` bounds its size and duration.
    data = await request.body()
    form = await multipart.parse(request.headers, data, limits) if media == MULTIPART else {}

    def parse() -> M:
        match media:
            case "application/json":
                payload = json.parse_object(data, limits, array_field=array_field)
                check_no_fields(request, model)
            case "multipart/form-data":
                payload = with_query(request, form)
            case "application/x-ndjson":
                payload = with_query(request, _ndjson(data, limits))
            case "application/vnd.safetensors":
                payload = with_query(request, _safetensors(data, limits))
            case "application/x-npy":
                name = str(array_field)
                payload = with_query(request, {name: from_npy(data, name)})
            case _:
                assert_never(media)
        return _validate(model, payload, limits)

    limit = LARGE_BINARY if media in BINARY else LARGE_BODY
    return Body(len(data) <= limit, parse)


async def read_body(
    request: Request,
    model: type[M],
    limits: RequestLimits,
    *,
    array_field: str | None = None,
    accepts_raw_inputs: bool = False,
) -> M:
    """Receive, parse and validate the body of a request.

    Args:
        request: The request.
        model: Schema of the body.
        limits: Bounds on its content.
        array_field: Field of the array in a binary body (safetensors, .npy); None refuses binary
            bodies.
        accepts_raw_inputs: Whether raw inputs may come as multipart or NDJSON.

    Raises:
        MalformedInputError: If the bytes cannot be parsed.
        InputTooLargeError: If it holds more than `limits` allows.
        UnsupportedFormatError: If the route does not accept the media type.
        InvalidInputError: If validation fails; `pointer` names the place.
    """
    body = await receive_body(
        request, model, limits, array_field=array_field, accepts_raw_inputs=accepts_raw_inputs
    )
    return body.read() if body.is_short else await asyncio.to_thread(body.read)


def parse_body(data: bytes, model: type[M], limits: RequestLimits) -> M:
    """Parse and validate a JSON object.

    Raises:
        MalformedInputError: If it is not JSON.
        InputTooLargeError: If it holds more than `limits` allows.
        InvalidInputError: If it is nested too deeply, or validation fails; `pointer` names the
            place.
    """
    return _validate(model, json.parse_object(data, limits), limits)


def media_type(request: Request) -> str:
    """The media type of a request's body without parameters; JSON if there is none."""
    return _media_type(request_headers(request.scope).get(b"content-type", JSON.encode()))


@lru_cache(256)
def _media_type(content_type: bytes) -> str:
    return content_type.decode("latin-1").split(";")[0].strip().lower()


def body_media_type(request: Request) -> str:
    """The media type of a body that is to be parsed.

    Raises:
        UnsupportedFormatError: If its text is not in UTF-8.
    """
    for parameter in request.headers.get("content-type", "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in ("utf-8", "utf8"):
            raise UnsupportedFormatError(
                f"expected a body in UTF-8, got charset {charset[:40]!r} in content-type"
            )
    return media_type(request)


def _supported_media_type(
    request: Request, array_field: str | None, accepts_raw_inputs: bool
) -> BodyType:
    binary: tuple[BodyType, ...] = BINARY if array_field else ()
    raw_inputs: tuple[BodyType, ...] = RAW_INPUTS if accepts_raw_inputs else ()
    supported: tuple[BodyType, ...] = (JSON, *binary, *raw_inputs)
    media = body_media_type(request)
    for body_type in supported:
        if media == body_type:
            return body_type
    raise UnsupportedFormatError(
        f"expected a body of type {', '.join(supported)}, got {media[:80]}"
    )


def rows_response(
    request: Request,
    response: EmbeddingsModel,
    *,
    as_base64: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response with rows, in the format that the request accepts.

    Args:
        request: The request; without a preference in `Accept`, the format of its body is used.
        response: Its embeddings are (n, d) float32. The other fields are metadata in
            safetensors, and not part of an .npy response.
        as_base64: In JSON, encode each row as the base64 of little-endian float32.
        headers: Further headers.
    """
    own = media_type(request)
    media = preferred_media_type(request, (JSON, *BINARY), own if own in BINARY else JSON)
    if media == NPY:
        return BufferResponse(to_npy(response.embeddings), headers, NPY)
    if media == SAFETENSORS:
        fields = dict(json_fields(response))
        rows = fields.pop("embeddings")
        metadata = {name: to_json(value).decode() for name, value in fields.items()}
        return BufferResponse(to_safetensors("embeddings", rows, metadata), headers, SAFETENSORS)
    if as_base64:
        encoded = base64_rows(response.embeddings)
        response = response.model_copy(update={"embeddings": encoded})
    return json_response(response, headers=headers)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with a value as JSON."""
    return Response(to_json(value), status, headers, JSON)


def to_json(value: Any) -> bytes:
    """A value as JSON: models, dataclasses, arrays, and what is made of them."""
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=_to_plain, option=option)


def _to_plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return json_fields(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


def base64_rows(rows: Floats) -> list[str]:
    """Each row as the base64 of little-endian float32."""
    return [b64encode(row).decode() for row in np.ascontiguousarray(rows, dtype="<f4")]


def preferred_media_type(request: Request, offers: tuple[str, ...], default: str) -> str:
    """The offered media type that the `Accept` header prefers.

    Of equal weights the first one counts. A wildcard selects the default. If the header accepts
    none of the offers, the result is the first offer.
    """
    accept = request_headers(request.scope).get(b"accept", b"*/*")
    return _preferred(accept, offers, default)


@lru_cache(256)
def _preferred(accept: bytes, offers: tuple[str, ...], default: str) -> str:
    acceptable: list[tuple[float, str]] = []
    for part in accept.decode("latin-1").split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights = [p.removeprefix("q=") for p in parameters if p.startswith("q=")]
        weight = float(weights[0]) if weights and _QUALITY.fullmatch(weights[0]) else 1.0
        offer = default if media in ("*/*", "application/*") else media
        if offer in offers and weight > 0:
            acceptable.append((weight, offer))
    return max(acceptable, key=lambda entry: entry[0], default=(1.0, offers[0]))[1]


def _validate(model: type[M], payload: Any, limits: RequestLimits) -> M:
    try:
        return model.model_validate(payload, context=limits)
    except ValidationError as error:
        raise from_validation(error, model.model_fields, payload) from error


def _ndjson(data: bytes, limits: RequestLimits) -> dict[str, Any]:
    json.check_value_count(data, limits)
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.parse_object(line, limits))
            except InvalidInputError as error:
                message = f"line {number}: {error.message}"
                raise type(error)(message, code=error.code) from error
    lists = {
        plural: [row[name] for row in rows if name in row]
        for name, plural in (("id", "ids"), ("label", "labels"))
    }
    items = [row.get("item") for row in rows]
    return {"items": items, **{plural: values for plural, values in lists.items() if values}}


def _safetensors(data: bytes, limits: RequestLimits) -> dict[str, Any]:
    """Metadata are fields too: JSON where they can be parsed as such, text otherwise."""
    arrays, metadata = from_safetensors(data, limits)
    fields: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            fields[name] = json.parse(text.encode(), limits, strict=True)
        except MalformedInputError as error:
            if error.code == ErrorCode.DUPLICATE_KEY:
                raise
            fields[name] = text
    return {**fields, **arrays}
