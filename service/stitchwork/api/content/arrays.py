"""Arrays in bodies, in and out, with no copy that is not needed: safetensors, .npy, JSON rows."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson
import simdjson
from numpy.lib import format as npy
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stitchwork.api.content import json_depth
from stitchwork.errors import InvalidInputError, MalformedInputError
from stitchwork.resources import Floats

MOST_HEADER: Final = 1 << 20
MOST_NPY_HEADER: Final = 4096
MOST_SIDE: Final = 1 << 40
LENGTH: Final = 8
"""Bytes that say how long the header of a safetensors file is; headers end at a multiple of it."""
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
EMPTY: Final = np.zeros(0, np.uint8)


class Blob(Response):
    """A response in pieces that are sent as they are, not joined first.

    Args:
        pieces: Bytes, or an array's memory.
        headers: Further headers.
        media_type: Of the whole.
    """

    def __init__(
        self,
        pieces: Sequence[bytes | memoryview],
        headers: Mapping[str, str] | None,
        media_type: str,
    ) -> None:
        size = sum(len(piece) for piece in pieces)
        told = {**(headers or {}), "content-length": str(size)}
        super().__init__(headers=told, media_type=media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def to_safetensors(name: str, rows: Floats, told: Mapping[str, str]) -> list[bytes | memoryview]:
    """A safetensors file of one (n, d) float32 array, as pieces."""
    entry = {"dtype": "F32", "shape": rows.shape, "data_offsets": (0, rows.nbytes)}
    header = orjson.dumps({"__metadata__": told, name: entry})
    header += b" " * (-len(header) % LENGTH)
    return [len(header).to_bytes(LENGTH, "little") + header, _memory(rows)]


def to_npy(rows: Floats) -> list[bytes | memoryview]:
    """An .npy file of one (n, d) float32 array, as pieces."""
    contiguous = np.ascontiguousarray(rows, "<f4")
    head = io.BytesIO()
    npy.write_array_header_1_0(head, npy.header_data_from_array_1_0(contiguous))
    return [head.getvalue(), _memory(contiguous)]


def from_safetensors(
    data: bytes, most_depth: int
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a safetensors file, which share its memory, and its metadata.

    Args:
        data: The file.
        most_depth: Levels that the JSON of its header may have.

    Raises:
        MalformedInputError: If the bytes are no such file, or do not add up.
        InvalidInputError: If its header is deeper, or a tensor of another type, or of other than 1
        or 2
            dimensions.
    """
    length = int.from_bytes(data[:LENGTH], "little")
    if len(data) < LENGTH or length > min(len(data) - LENGTH, MOST_HEADER):
        raise MalformedInputError(
            f"expected safetensors: a header of at most {MOST_HEADER} bytes after {LENGTH} bytes "
            f"that say its length, then the tensors; got {length} in a file of {len(data)} bytes"
        )
    start = LENGTH + length
    json_depth.refuse(data[LENGTH:start], most_depth)
    try:
        header = orjson.loads(data[LENGTH:start])
    except orjson.JSONDecodeError as error:
        raise MalformedInputError(f"expected safetensors, whose header is JSON: {error}") from error
    if not isinstance(header, dict):
        raise MalformedInputError("expected safetensors, whose header is a JSON object")
    told = header.pop("__metadata__", None) or {}
    if not isinstance(told, dict) or not all(type(text) is str for text in told.values()):
        raise MalformedInputError("expected safetensors, whose __metadata__ holds texts by name")
    arrays, reached = {}, 0
    for name, begin, end, shape, kind in sorted(_entries(header), key=lambda entry: entry[1:3]):
        if begin != reached:
            raise MalformedInputError(
                f"expected safetensors: {name[:80]} is to begin at byte {reached} of the tensors, "
                f"got {begin}"
            )
        if start + end > len(data):
            raise MalformedInputError(
                f"expected safetensors: {name[:80]} ends at byte {start + end}, got {len(data)}"
            )
        flat = np.frombuffer(data, "u1", end - begin, start + begin) if end > begin else EMPTY
        array = flat.view(DTYPES[kind]).reshape(shape)
        if kind == "BF16":
            array = (array.astype("<u4") << 16).view("<f4")
        arrays[name], reached = array, end
    if start + reached != len(data):
        raise MalformedInputError(
            f"expected safetensors of {start + reached} bytes as its header says, got {len(data)}"
        )
    return arrays, told


def _entries(header: Mapping[str, Any]) -> list[tuple[str, int, int, list[int], str]]:
    """Name, begin, end, shape and dtype of each tensor, within bounds and in agreement."""
    found = []
    for name, entry in header.items():
        try:
            kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            fits = type(kind) is str and all(
                type(n) is int and 0 <= n <= MOST_SIDE for n in (begin, end, *shape)
            )
        except (TypeError, KeyError, ValueError):
            fits = False
        if not fits:
            raise MalformedInputError(
                f"expected safetensors: dtype, shape and data_offsets of {name[:80]}"
            )
        if kind not in DTYPES:
            raise InvalidInputError(
                f"expected tensors of {', '.join(DTYPES)}, got {str(kind)[:20]}",
                pointer=f"/{name}",
            )
        if not 1 <= len(shape) <= 2:
            raise InvalidInputError(
                f"expected 1 or 2 dimensions, got {str(shape)[:80]}", pointer=f"/{name}"
            )
        size = math.prod(shape) * np.dtype(DTYPES[kind]).itemsize
        if end - begin != size:
            raise MalformedInputError(
                f"expected safetensors: {name[:80]} of {shape} {kind} has {size} bytes, "
                f"got {end - begin}"
            )
        found.append((name, begin, end, shape, kind))
    return found


def from_npy(data: bytes, name: str) -> NDArray[Any]:
    """The array of an .npy file without trust, which shares its memory.

    Its size is checked before anything of that size is made.

    Raises:
        MalformedInputError: If the bytes are no such file, or do not add up.
        InvalidInputError: If it holds anything but floats in 1 or 2 dimensions.
    """
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = header(stream, max_header_size=MOST_NPY_HEADER)
    except Exception as error:
        raise MalformedInputError("expected an .npy file of version 1 or 2") from error
    sides = all(type(side) is int and 0 <= side <= MOST_SIDE for side in shape)
    if dtype.hasobject or dtype.kind != "f" or not sides or not 1 <= len(shape) <= 2:
        raise InvalidInputError(
            f"expected 1 or 2 dimensions of floats, got {dtype} of {str(shape)[:80]}",
            pointer=f"/{name}",
        )
    expected, got = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if expected != got:
        raise MalformedInputError(
            f"the .npy header says {expected} bytes of {list(shape)}, got {got}"
        )
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def from_json(data: bytes, name: str) -> dict[str, Any] | None:
    """A JSON object whose field `name` holds rows of numbers, read straight into an array.

    Returns:
        The object, with a (n, d) float64 array in that field; None if it is anything else, which
        whoever reads it the long way can say more of.
    """
    try:
        parsed: Any = simdjson.Parser().parse(data)
        keys = list(parsed.keys()) if isinstance(parsed, simdjson.Object) else []
        # What stands twice, or beside containers, is for the long way to judge.
        if name not in keys or len(set(keys)) < len(keys):
            return None
        found = {key: parsed[key] for key in keys if key != name}
        rows = parsed[name]
        if any(isinstance(value, simdjson.Object) for value in found.values()) or not len(rows):
            return None
        flat = np.frombuffer(rows.as_buffer(of_type="d"), np.float64)
        count, width = len(rows), len(rows[0])
        # As many lists as rows and one around them: none within a row, and none elsewhere.
        if data.count(b"[") != count + 1 or any(len(row) != width for row in rows):
            return None
    except (ValueError, TypeError, LookupError, RuntimeError, AttributeError):
        return None
    return {**found, name: flat.reshape(count, width)}


def _memory(rows: Floats) -> memoryview:
    contiguous: Any = np.ascontiguousarray(rows, "<f4")
    return memoryview(contiguous).cast("B")
