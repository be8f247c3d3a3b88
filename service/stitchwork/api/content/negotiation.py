"""Bytes ↔ values: JSON, base64, safetensors, .npy, multipart. The only file with media types.

Whatever comes in becomes one dictionary that a schema validates, arrays included: the fields of a
JSON body, or the query's parameters with the arrays of a binary body under their names.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
import orjson
from pybase64 import b64encode
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from stitchwork.api.content import json_depth, json_duplicates
from stitchwork.api.content.arrays import (
    Blob,
    from_json,
    from_npy,
    from_safetensors,
    to_npy,
    to_safetensors,
)
from stitchwork.api.content.validation import named
from stitchwork.api.limits import RequestLimits
from stitchwork.api.problem_details import from_validation
from stitchwork.api.schemas.fields import Told
from stitchwork.errors import (
    ErrorCode,
    InputTooLargeError,
    InvalidInputError,
    MalformedInputError,
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

_QUALITY: Final = re.compile(r"[01](\.\d{1,3})?")
LARGE_BODY: Final = 64 * 1024
"""A body above this is decoded on a thread, away from the event loop."""


@dataclass(frozen=True, slots=True)
class Body(Generic[M]):
    """A body that has arrived and is still to be read.

    Attributes:
        size: In bytes.
        read: What it says, validated; takes its time where it is large, and raises as `read_body`.
    """

    size: int
    read: Callable[[], M]


async def receive_body(
    request: Request,
    model: type[M],
    limits: RequestLimits,
    *,
    main: str | None = None,
    raw: bool = False,
) -> Body[M]:
    """The body of a request; see `read_body`, for who has a thread of their own to read it on."""
    media = media_type(request)
    inputs = (MULTIPART, NDJSON) if raw or not main else ()
    takes = (JSON, *(BINARY if main else ()), *inputs)
    if media not in takes:
        raise UnsupportedFormatError(
            f"expected a body of type {', '.join(takes)}, got {media[:80]}"
        )
    # How large and how slow it may be is bounded in `middleware.body_limits`.
    data = await request.body()
    parts = await _multipart(request.headers, data, limits) if media == MULTIPART else {}

    def decode() -> M:
        if media in (JSON, NDJSON):
            _count_values(data, limits.max_json_values)
        if media == JSON:
            # What is read straight into an array has three levels; `_json` bounds all else.
            payload = (main and from_json(data, main)) or _json(data, limits)
        elif media == MULTIPART:
            payload = {**_query(request), **parts}
        elif media == NDJSON:
            payload = {**_query(request), **_ndjson(data, limits)}
        elif media == SAFETENSORS:
            payload = {**_query(request), **_safetensors(data, limits)}
        else:
            payload = {**_query(request), str(main): from_npy(data, str(main))}
        return _validate(model, payload, limits)

    return Body(len(data), decode)


async def read_body(
    request: Request,
    model: type[M],
    limits: RequestLimits,
    *,
    main: str | None = None,
    raw: bool = False,
) -> M:
    """The body of a request, validated.

    Args:
        request: The request.
        model: The schema of its body.
        limits: What it may hold.
        main: Field that the one array of an .npy body stands for; None takes no binary bodies,
            but raw inputs as multipart or as lines.
        raw: Take such raw inputs even so.

    Raises:
        MalformedInputError: If the bytes cannot be parsed.
        InputTooLargeError: If there are too many.
        UnsupportedFormatError: If the media type is not spoken here.
        InvalidInputError: If what they say has no meaning; `pointer` says where.
    """
    body = await receive_body(request, model, limits, main=main, raw=raw)
    return await asyncio.to_thread(body.read) if body.size > LARGE_BODY else body.read()


def parse_body(data: bytes, model: type[M], limits: RequestLimits) -> M:
    """A JSON object, validated.

    Raises:
        MalformedInputError: If it is not JSON.
        InputTooLargeError: If it holds too much.
        InvalidInputError: If it is too deep, or what it says has no meaning; `pointer` says where.
    """
    _count_values(data, limits.max_json_values)
    return _validate(model, _json(data, limits), limits)


def media_type(request: Request) -> str:
    """The media type of the body, without parameters; JSON if none is named."""
    return request.headers.get("content-type", JSON).split(";")[0].strip().lower()


def rows_response(
    request: Request,
    name: str,
    rows: Floats,
    facts: dict[str, Any],
    *,
    as_base64: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Rows and the facts about them, in the format that was asked for.

    Args:
        request: The request; `Accept` chooses, its own format is the default.
        name: What the rows are called.
        rows: (n, d) float32.
        facts: What else is answered, as JSON; an .npy answer has only headers for it.
        as_base64: In JSON, each row as the base64 of little-endian float32.
        headers: Further headers.
    """
    media = _wanted(request)
    if media == NPY:
        return Blob(to_npy(rows), headers, NPY)
    if media == SAFETENSORS:
        told = {key: orjson.dumps(value).decode() for key, value in facts.items()}
        return Blob(to_safetensors(name, rows, told), headers, SAFETENSORS)
    shown: Any = base64_rows(rows) if as_base64 else rows
    return json_response({name: shown, **facts}, headers=headers)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Any value as JSON, arrays included."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Response(body, status, headers, JSON)


def base64_rows(rows: Floats) -> list[str]:
    """Each row as the base64 of little-endian float32."""
    return [b64encode(row).decode() for row in np.ascontiguousarray(rows, dtype="<f4")]


def _wanted(request: Request) -> str:
    own = media_type(request)
    return preferred_media_type(request, (JSON, *BINARY), own if own in BINARY else JSON)


def preferred_media_type(request: Request, offers: tuple[str, ...], default: str) -> str:
    """Which of the offered media types the client wishes for most.

    Of equal wishes the first one counts; a wish for anything is one for the default, and who
    wishes for nothing that is offered gets the first offer.
    """
    wanted: list[tuple[float, str]] = []
    for part in request.headers.get("accept", "*/*").split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights = [p.removeprefix("q=") for p in parameters if p.startswith("q=")]
        weight = float(weights[0]) if weights and _QUALITY.fullmatch(weights[0]) else 1.0
        found = default if media in ("*/*", "application/*") else media
        if found in offers and weight > 0:
            wanted.append((weight, found))
    return max(wanted, key=lambda wish: wish[0], default=(1.0, offers[0]))[1]


def _query(request: Request) -> dict[str, Any]:
    told = request.query_params.multi_items()
    found = dict(told)
    if len(found) < len(told):
        twice = next(name for name in found if sum(name == other for other, _ in told) > 1)
        raise InvalidInputError(
            f"the query says {twice[:80]!r} twice", code=ErrorCode.DUPLICATE_KEY
        )
    return {name: Told(value) for name, value in found.items()}


def _validate(model: type[M], payload: Any, limits: RequestLimits) -> M:
    try:
        return model.model_validate(payload, context=limits)
    except ValidationError as error:
        raise from_validation(error, model.model_fields) from error


def _count_values(data: bytes, most: int) -> None:
    """Refuse JSON that is far larger as values than as bytes, such as a million empty lists.

    Each value but the first follows one of these three; some in texts are counted too.
    """
    if len(data) > most and sum(map(data.count, (b",", b"[", b"{"))) > most:
        raise InputTooLargeError(
            f"expected JSON of at most {most} values (max_json_values); send arrays as safetensors "
            "or .npy"
        )


def _json(data: bytes, limits: RequestLimits) -> Any:
    json_depth.refuse(data, limits.max_json_depth)
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        payload = _loose_json(data, error)
    if not isinstance(payload, dict):
        raise InvalidInputError(f"expected a JSON object, got {named(payload)}", pointer="")
    json_duplicates.refuse(data, payload)
    return payload


def _loose_json(data: bytes, error: ValueError) -> Any:
    """NaN and Infinity are not JSON, but whoever sends them should hear where they stand."""
    try:
        return json.loads(data.decode())
    except ValueError:
        raise MalformedInputError(f"expected JSON: {error}") from error


def _ndjson(data: bytes, limits: RequestLimits) -> dict[str, Any]:
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            try:
                rows.append(_json(line, limits))
            except InvalidInputError as error:
                where = f"line {number}: {error.message}"
                raise type(error)(where, code=error.code) from error
    items = [row.get("item") for row in rows]
    told = {
        plural: [row[name] for row in rows if name in row]
        for name, plural in (("id", "ids"), ("label", "labels"))
    }
    return {"items": items, **{plural: values for plural, values in told.items() if values}}


class _InMemory(MultiPartParser):
    # Raw inputs of users are never written to a disk.
    spool_max_size = 1 << 40

    def close(self) -> None:
        """Let go of every part that was begun; one that does not end is in no form."""
        for file in self._files_to_close_on_error:
            file.close()


def _safetensors(data: bytes, limits: RequestLimits) -> dict[str, Any]:
    """Metadata are fields too, as JSON where they are."""
    arrays, told = from_safetensors(data, limits.max_json_depth)
    payload: dict[str, Any] = {}
    for key, text in told.items():
        json_depth.refuse(text.encode(), limits.max_json_depth)
        try:
            payload[key] = orjson.loads(text)
        except orjson.JSONDecodeError:
            payload[key] = text
    return {**payload, **arrays}


async def _multipart(headers: Headers, data: bytes, limits: RequestLimits) -> dict[str, Any]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield data

    try:
        parser = _InMemory(
            headers,
            stream(),
            max_files=limits.max_anchors,
            max_fields=limits.max_anchors,
            max_part_size=limits.max_body_bytes,
        )
        if not data.rstrip().endswith(b"--"):
            raise MalformedInputError("the multipart body has no closing boundary: it was cut")
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        if "Too many" in str(error):
            raise InputTooLargeError(
                f"expected at most {limits.max_anchors} parts (max_anchors) in multipart/form-data"
            ) from error
        raise MalformedInputError(f"expected multipart/form-data: {error}") from error
    payload: dict[str, Any] = {}
    files = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    parser.close()
    if files:
        payload["items"] = files
    for key, value in form.multi_items():
        if isinstance(value, str):
            payload.setdefault(key, Told(value))
    return payload
