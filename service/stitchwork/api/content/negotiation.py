"""Media types of requests and responses: JSON, NDJSON, safetensors, .npy, multipart.

A body of any media type becomes one dictionary that a schema validates: the fields of a JSON body,
or the query parameters together with the arrays of a binary body. `kserve.tensors` parses the
bodies of the Open Inference Protocol, which are JSON followed by bytes.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

import numpy as np
from pybase64 import b64encode
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from stitchwork.api.content.arrays import (
    LENGTH_BYTES,
    BufferResponse,
    to_npy,
    to_safetensors,
)
from stitchwork.api.content.body_content import BodyType, parse_content, parse_content_with_rows
from stitchwork.api.content.body_parser import ROW_BYTES, BodyParser
from stitchwork.api.content.queries import check_no_fields, query_fields
from stitchwork.api.content.sliced_json import (
    SLICE_VALUES,
    SlicedJsonResponse,
    check_json_values,
    row_slices,
    to_json,
    with_nulls,
)
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import request_headers
from stitchwork.api.schemas.response_model import EmbeddingsModel, json_fields
from stitchwork.errors import (
    InvalidInputError,
    UnsupportedFormatError,
)
from stitchwork.resources import Floats

M = TypeVar("M", bound=BaseModel)

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


async def read_body(
    request: Request,
    model: type[M],
    parser: BodyParser,
    *,
    array_field: str | None = None,
    accepts_raw_inputs: bool = False,
) -> M:
    """Receive, parse and validate the body of a request.

    Args:
        request: The request.
        model: Schema of the body.
        parser: Decides where it is parsed, and bounds its content.
        array_field: Field of the array in a binary body (safetensors, .npy); None refuses binary
            bodies.
        accepts_raw_inputs: Whether raw inputs may come as multipart or NDJSON.

    Raises:
        MalformedInputError: If the bytes cannot be parsed.
        InputTooLargeError: If it holds more than the limits allow.
        UnsupportedFormatError: If the route does not accept the media type.
        InvalidInputError: If validation fails; `pointer` names the place.
        StitchworkError: What `BodyParser.parse` raises.
    """
    media = _supported_media_type(request, array_field, accepts_raw_inputs)
    if media == JSON:
        check_no_fields(request, model)
    is_array = media in BINARY
    rows_field = array_field if media == JSON else None
    data = await parser.receive(request, is_array=is_array, may_have_rows=rows_field is not None)
    if rows_field is not None:
        parse_rows = partial(parse_content_with_rows, data, model, parser.limits, rows_field)
        content = await parser.parse_rows(request, parse_rows, len(data))
        if content is not None:
            return content
    content_type = request.headers.get("content-type", "")
    query = {} if media == JSON else query_fields(request)
    text_bytes = len(data)
    if is_array:
        # The header of safetensors is JSON after its length, with further JSON in its texts.
        length = int.from_bytes(data[:LENGTH_BYTES], "little")
        text_bytes = min(length, len(data)) if media == SAFETENSORS else 0
    array_bytes = len(data) if rows_field is None else ROW_BYTES * len(data)
    return await parser.parse(
        request,
        parse_content,
        data,
        media,
        model,
        parser.limits,
        content_type,
        query,
        array_field,
        text_bytes=text_bytes,
        array_bytes=array_bytes,
    )


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
    nulls: Collection[int] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response with rows, in the format that the request accepts.

    Args:
        request: The request; without a preference in `Accept`, the format of its body is used.
        response: Its embeddings are (n, d) float32. The other fields are metadata in
            safetensors, and not part of an .npy response.
        as_base64: In JSON, encode each row as the base64 of little-endian float32.
        nulls: Indices of rows in whose place is null, in JSON if that is acceptable at all; None
            if there can be none.
        headers: Further headers.
    """
    media = _rows_media_type(request, nullable=nulls is not None)
    if media == NPY:
        return BufferResponse(to_npy(response.embeddings), headers, NPY)
    if media == SAFETENSORS:
        fields = dict(json_fields(response))
        rows = fields.pop("embeddings")
        metadata = {name: to_json(value).decode() for name, value in fields.items()}
        return BufferResponse(to_safetensors("embeddings", rows, metadata), headers, SAFETENSORS)
    rows, encode = response.embeddings, base64_rows if as_base64 else np.asarray
    if rows.size <= SLICE_VALUES:
        encoded = with_nulls(encode(rows), nulls) if nulls else encode(rows)
        return json_response(response.model_copy(update={"embeddings": encoded}), headers=headers)
    fields = dict(json_fields(response))
    del fields["embeddings"]
    slices: Iterable[Any] = (encode(rows[part]) for part in row_slices(*rows.shape))
    if nulls:
        slices = (
            with_nulls(encode(rows[part]), nulls, part.start) for part in row_slices(*rows.shape)
        )
    return SlicedJsonResponse("embeddings", slices, fields, headers)


def check_rows(
    request: Request,
    shape: tuple[int, int],
    limits: RequestLimits,
    *,
    as_base64: bool,
    nullable: bool = False,
) -> None:
    """Check the number of numbers in a response with rows, before they are computed.

    Args:
        request: The request, whose `Accept` decides the format.
        shape: (n, d) of the rows.
        limits: Bound of a response in JSON.
        as_base64: Whether JSON has rows as base64, which are not bounded.
        nullable: Whether the place of a row may have null.

    Raises:
        InputTooLargeError: If it is JSON with more than `max_json_values`.
    """
    if not as_base64 and _rows_media_type(request, nullable=nullable) == JSON:
        alternative = f"accept {NPY} or {SAFETENSORS}, set encoding_format to base64, or send fewer"
        check_json_values(shape[0] * shape[1], limits, alternative)


def check_nullable(request: Request) -> None:
    """Check that a response with rows may have null in the place of some.

    Raises:
        InvalidInputError: If `Accept` allows arrays only.
    """
    media = _rows_media_type(request, nullable=True)
    if media != JSON:
        raise InvalidInputError(
            f"expected blank_texts refuse with a response of type {media}, whose rows cannot be "
            "null; accept application/json",
            pointer="/blank_texts",
        )


def _rows_media_type(request: Request, *, nullable: bool = False) -> str:
    own = media_type(request)
    if nullable and preferred_media_type(request, ("", JSON), JSON) == JSON:
        return JSON
    return preferred_media_type(request, (JSON, *BINARY), own if own in BINARY else JSON)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with a value as JSON."""
    return Response(to_json(value), status, headers, JSON)


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
