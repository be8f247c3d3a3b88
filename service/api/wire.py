"""Bytes ↔ values: JSON, base64, safetensors, .npy, multipart. The only file with media types.

Whatever comes in becomes one dictionary that a schema validates, arrays included: the fields of a
JSON body, or the query's parameters with the arrays of a binary body under their names.
"""

import asyncio
import base64
import io
import json
import math
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, TypeVar

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from service.api import duplicates
from service.api.arrays import named
from service.api.depends import Limits
from service.api.fields import Told
from service.api.problems import from_validation
from service.errors import (
    DeadlineExceeded,
    InputTooLarge,
    InvalidInput,
    MalformedInput,
    UnsupportedFormat,
)
from service.records import Floats

M = TypeVar("M", bound=BaseModel)

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
SAFETENSORS: Final = "application/vnd.safetensors"
NPY: Final = "application/x-npy"
MULTIPART: Final = "multipart/form-data"
BINARY: Final = (SAFETENSORS, NPY)

_QUALITY: Final = re.compile(r"[01](\.\d{1,3})?")
LARGE_BODY: Final = 64 * 1024
"""A body above this is decoded on a thread, away from the event loop."""
MOST_NPY_HEADER: Final = 4096
MOST_SIDE: Final = 1 << 40
DTYPES: Final[dict[str, Any]] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "u1",
    "BOOL": "?",
}


async def read(
    request: Request,
    model: type[M],
    limits: Limits,
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
        MalformedInput: If the bytes cannot be parsed.
        InputTooLarge: If there are too many.
        UnsupportedFormat: If the media type is not spoken here.
        InvalidInput: If what they say has no meaning; `pointer` says where.
    """
    media = media_type(request)
    inputs = (MULTIPART, NDJSON) if raw or not main else ()
    takes = (JSON, *(BINARY if main else ()), *inputs)
    if media not in takes:
        raise UnsupportedFormat(f"expected a body of type {', '.join(takes)}, got {media[:80]}")
    try:
        async with asyncio.timeout(limits.seconds):
            data = await read_bytes(request, limits.body_bytes)
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"the body did not arrive within {limits.seconds:g} seconds"
        ) from error
    if media == MULTIPART:
        payload = await _multipart(request.headers, data, limits)
        return _validate(model, {**_query(request), **payload}, limits)

    def decode() -> M:
        if media == JSON:
            payload = _json(data)
        elif media == NDJSON:
            payload = {**_query(request), **_ndjson(data)}
        elif media == SAFETENSORS:
            payload = {**_query(request), **_safetensors(data)}
        else:
            payload = {**_query(request), str(main): _npy(data, str(main))}
        return _validate(model, payload, limits)

    return await asyncio.to_thread(decode) if len(data) > LARGE_BODY else decode()


async def read_bytes(request: Request, limit: int) -> bytes:
    """The raw body, refused as soon as it proves too large, whatever length it claims.

    Raises:
        InputTooLarge: If there are more than `limit` bytes.
        UnsupportedFormat: If the body is compressed.
    """
    coding = request.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise UnsupportedFormat(
            f"expected an uncompressed body, got content-encoding {coding[:40]}"
        )
    claimed = request.headers.get("content-length", "")
    too_large = InputTooLarge(f"a body may have {limit} bytes at most (max_body_bytes)")
    if claimed.isdecimal() and int(claimed) > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def media_type(request: Request) -> str:
    """The media type of the body, without parameters; JSON if none is named."""
    return request.headers.get("content-type", JSON).split(";")[0].strip().lower()


def respond(
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
        buffer = io.BytesIO()
        npy.write_array(buffer, np.ascontiguousarray(rows), allow_pickle=False)
        return Response(buffer.getvalue(), 200, headers, NPY)
    if media == SAFETENSORS:
        told = {key: orjson.dumps(value).decode() for key, value in facts.items()}
        return Response(save({name: np.ascontiguousarray(rows)}, told), 200, headers, SAFETENSORS)
    shown: Any = [base64.b64encode(row).decode() for row in _little(rows)] if as_base64 else rows
    return answer({name: shown, **facts}, headers=headers)


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Any value as JSON, arrays included."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Response(body, status, headers, JSON)


def _little(rows: Floats) -> NDArray[Any]:
    return np.ascontiguousarray(rows, dtype="<f4")


def _wanted(request: Request) -> str:
    own = media_type(request)
    default = own if own in BINARY else JSON
    wanted: list[tuple[float, str]] = []
    for part in request.headers.get("accept", "*/*").split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights = [p.removeprefix("q=") for p in parameters if p.startswith("q=")]
        weight = float(weights[0]) if weights and _QUALITY.fullmatch(weights[0]) else 1.0
        found = default if media in ("*/*", "application/*") else media
        if found in (JSON, *BINARY) and weight > 0:
            wanted.append((weight, found))
    # Of equal wishes the first one counts; who wishes for nothing we have still gets JSON.
    return max(wanted, key=lambda wish: wish[0], default=(1.0, JSON))[1]


def _query(request: Request) -> dict[str, Any]:
    told = request.query_params.multi_items()
    found = dict(told)
    if len(found) < len(told):
        twice = next(name for name in found if sum(name == other for other, _ in told) > 1)
        raise InvalidInput(f"the query says {twice[:80]!r} twice", code="duplicate-key")
    return {name: Told(value) for name, value in found.items()}


def _validate(model: type[M], payload: Any, limits: Limits) -> M:
    try:
        return model.model_validate(payload, context=limits)
    except ValidationError as error:
        raise from_validation(error) from error


def _json(data: bytes) -> Any:
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        payload = _loose_json(data, error)
    if not isinstance(payload, dict):
        raise InvalidInput(f"expected a JSON object, got {named(payload)}", pointer="")
    duplicates.refuse(data, payload)
    return payload


def _loose_json(data: bytes, error: ValueError) -> Any:
    """NaN and Infinity are not JSON, but whoever sends them should hear where they stand."""
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError):
        raise MalformedInput(f"expected JSON: {error}") from error


def _ndjson(data: bytes) -> dict[str, Any]:
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            try:
                rows.append(_json(line))
            except InvalidInput as error:
                raise type(error)(f"line {number}: {error.message}") from error
    items = [row.get("item") for row in rows]
    told = {
        plural: [row[name] for row in rows if name in row]
        for name, plural in (("id", "ids"), ("label", "labels"))
    }
    return {"items": items, **{plural: values for plural, values in told.items() if values}}


def _safetensors(data: bytes) -> dict[str, Any]:
    try:
        tensors: Any = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise MalformedInput(f"expected safetensors: {error}") from error
    payload: dict[str, Any] = {}
    header = orjson.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    for key, text in (header.get("__metadata__") or {}).items():
        try:
            payload[key] = orjson.loads(text)
        except orjson.JSONDecodeError:
            payload[key] = text
    for name, tensor in tensors:
        if tensor["dtype"] not in DTYPES:
            raise InvalidInput(
                f"expected tensors of {', '.join(DTYPES)}, got {tensor['dtype']}",
                pointer=f"/{name}",
            )
        shape = tensor["shape"]
        if not 1 <= len(shape) <= 2 or max(shape) > MOST_SIDE:
            raise InvalidInput(
                f"expected 1 or 2 dimensions, got {str(shape)[:80]}", pointer=f"/{name}"
            )
        array = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(shape)
        if tensor["dtype"] == "BF16":
            array = (array.astype("<u4") << 16).view("<f4")
        payload[name] = array
    return payload


def _npy(data: bytes, name: str) -> NDArray[Any]:
    """An .npy file without trust: its size is checked before anything of that size is made."""
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = header(stream, max_header_size=MOST_NPY_HEADER)
    except Exception as error:
        raise MalformedInput("expected an .npy file of version 1 or 2") from error
    sides = all(type(side) is int and 0 <= side <= MOST_SIDE for side in shape)
    if dtype.hasobject or dtype.kind != "f" or not sides or not 1 <= len(shape) <= 2:
        raise InvalidInput(
            f"expected 1 or 2 dimensions of floats, got {dtype} of {str(shape)[:80]}",
            pointer=f"/{name}",
        )
    expected, got = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if expected != got:
        raise MalformedInput(f"the .npy header says {expected} bytes of {list(shape)}, got {got}")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


class _InMemory(MultiPartParser):
    # Raw inputs of users are never written to a disk.
    spool_max_size = 1 << 40


async def _multipart(headers: Headers, data: bytes, limits: Limits) -> dict[str, Any]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield data

    try:
        parser = _InMemory(
            headers,
            stream(),
            max_files=limits.anchors,
            max_fields=limits.anchors,
            max_part_size=limits.body_bytes,
        )
        if not data.rstrip().endswith(b"--"):
            raise MalformedInput("the multipart body has no closing boundary: it was cut")
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise MalformedInput(f"expected multipart/form-data: {error}") from error
    payload: dict[str, Any] = {}
    files = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if files:
        payload["items"] = files
    for key, value in form.multi_items():
        if isinstance(value, str):
            payload.setdefault(key, Told(value))
    await form.close()
    return payload
