"""Arrays as safetensors and .npy files, read and written without copies where possible."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stitchwork.api.content import json
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import BodyBytes
from stitchwork.errors import InvalidInputError, MalformedInputError
from stitchwork.resources import Floats

MAX_SAFETENSORS_HEADER: Final = 1 << 20
MAX_NPY_HEADER: Final = 4096
MAX_SIDE: Final = 1 << 40
"""Largest dimension or offset that a file may declare; sizes computed from it stay exact."""
LENGTH_BYTES: Final = 8
"""Bytes of the header's length in a safetensors file; the header is padded to a multiple of it."""
SENT_BYTES: Final = 1024 * 1024
"""Bytes of a response that are sent at a time."""
DTYPES: Final[dict[str, Any]] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_EMPTY: Final = np.zeros(0, np.uint8)


class BufferResponse(Response):
    """A response whose body is a sequence of buffers, sent without joining them.

    Args:
        buffers: Bytes, or the memory of an array.
        headers: Further headers.
        media_type: Media type of the body.
    """

    def __init__(
        self,
        buffers: Sequence[bytes | memoryview],
        headers: Mapping[str, str] | None,
        media_type: str,
    ) -> None:
        size = sum(len(buffer) for buffer in buffers)
        super().__init__(
            headers={**(headers or {}), "content-length": str(size)}, media_type=media_type
        )
        self._buffers = buffers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        for buffer in self._buffers:
            # The server would copy what the client does not read at once.
            for begin in range(0, len(buffer), SENT_BYTES):
                part = buffer[begin : begin + SENT_BYTES]
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def to_safetensors(
    name: str, rows: Floats, metadata: Mapping[str, str]
) -> list[bytes | memoryview]:
    """A safetensors file of one (n, d) float32 array, as buffers."""
    entry = {"dtype": "F32", "shape": rows.shape, "data_offsets": (0, rows.nbytes)}
    header = orjson.dumps({"__metadata__": metadata, name: entry})
    header += b" " * (-len(header) % LENGTH_BYTES)
    return [len(header).to_bytes(LENGTH_BYTES, "little") + header, _memory(rows)]


def to_npy(rows: Floats) -> list[bytes | memoryview]:
    """An .npy file of one (n, d) float32 array, as buffers."""
    contiguous = np.ascontiguousarray(rows, "<f4")
    header = io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(contiguous))
    return [header.getvalue(), _memory(contiguous)]


def from_safetensors(
    data: BodyBytes, limits: RequestLimits
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Parse a safetensors file into arrays, which share its memory, and its metadata.

    Raises:
        MalformedInputError: If the bytes are not a safetensors file, or their sizes disagree.
        InvalidInputError: If the header is nested too deeply, or a tensor has another dtype than
            those of `DTYPES`, or other than 1 or 2 dimensions.
    """
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if len(data) < LENGTH_BYTES or length > min(len(data) - LENGTH_BYTES, MAX_SAFETENSORS_HEADER):
        raise MalformedInputError(
            f"expected safetensors: {LENGTH_BYTES} bytes with the length of the header, a header "
            f"of at most {MAX_SAFETENSORS_HEADER} bytes, then the tensors; got a length of "
            f"{length} in a file of {len(data)} bytes"
        )
    start = LENGTH_BYTES + length
    entries, metadata = _parse_header(bytes(data[LENGTH_BYTES:start]), limits)
    arrays, reached = {}, 0
    for name, begin, end, shape, dtype in sorted(entries, key=lambda entry: entry[1:3]):
        if begin != reached:
            raise MalformedInputError(
                f"expected safetensors: {name[:80]} must begin at byte {reached} of the tensors, "
                f"got {begin}"
            )
        if start + end > len(data):
            raise MalformedInputError(
                f"expected safetensors: {name[:80]} ends at byte {start + end}, got {len(data)}"
            )
        flat = np.frombuffer(data, "u1", end - begin, start + begin) if end > begin else _EMPTY
        array = flat.view(DTYPES[dtype]).reshape(shape)
        if dtype == "BF16":
            array = (array.astype("<u4") << 16).view("<f4")
        arrays[name], reached = array, end
    if start + reached != len(data):
        raise MalformedInputError(
            f"expected safetensors of {start + reached} bytes as declared in its header, got "
            f"{len(data)}"
        )
    return arrays, metadata


def _parse_header(
    data: bytes, limits: RequestLimits
) -> tuple[list[tuple[str, int, int, list[int], str]], dict[str, str]]:
    """The tensors' entries and the metadata of a safetensors header."""
    try:
        header = json.parse(data, limits, strict=True)
    except MalformedInputError as error:
        message = error.message.removeprefix("expected JSON: ")
        raise MalformedInputError(
            f"expected safetensors, whose header is JSON: {message}", code=error.code
        ) from error
    if not isinstance(header, dict):
        raise MalformedInputError("expected safetensors, whose header is a JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(type(text) is str for text in metadata.values()):
        raise MalformedInputError("expected safetensors, whose __metadata__ maps names to strings")
    return _entries(header), metadata


def _entries(header: Mapping[str, Any]) -> list[tuple[str, int, int, list[int], str]]:
    """Name, begin, end, shape and dtype of each tensor, each within bounds and consistent."""
    entries = []
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            valid = type(dtype) is str and all(
                type(n) is int and 0 <= n <= MAX_SIDE for n in (begin, end, *shape)
            )
        except (TypeError, KeyError, ValueError):
            valid = False
        if not valid:
            raise MalformedInputError(
                f"expected safetensors: dtype, shape and data_offsets of {name[:80]}"
            )
        if dtype not in DTYPES:
            raise InvalidInputError(
                f"expected tensors of {', '.join(DTYPES)}, got {str(dtype)[:20]}",
                pointer=f"/{name}",
            )
        if not 1 <= len(shape) <= 2:
            raise InvalidInputError(
                f"expected 1 or 2 dimensions, got {str(shape)[:80]}", pointer=f"/{name}"
            )
        size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if end - begin != size:
            raise MalformedInputError(
                f"expected safetensors: {name[:80]} of {shape} {dtype} has {size} bytes, "
                f"got {end - begin}"
            )
        entries.append((name, begin, end, shape, dtype))
    return entries


def from_npy(data: BodyBytes, name: str) -> NDArray[Any]:
    """Parse an untrusted .npy file into an array, which shares its memory.

    The declared size is compared with the bytes before anything of that size is allocated.

    Args:
        data: The file.
        name: Field that errors point at.

    Raises:
        MalformedInputError: If the bytes are not an .npy file, or their sizes disagree.
        InvalidInputError: If it holds anything but floats or int8 in 1 or 2 dimensions.
    """
    stream = io.BytesIO(data[: 2 * MAX_NPY_HEADER])
    try:
        version = npy.read_magic(stream)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[
            version
        ]
        shape, fortran, dtype = read_header(stream, max_header_size=MAX_NPY_HEADER)
    except Exception as error:
        raise MalformedInputError("expected an .npy file of version 1 or 2") from error
    sides_valid = all(type(side) is int and 0 <= side <= MAX_SIDE for side in shape)
    is_number = dtype.kind == "f" or dtype == np.int8
    if dtype.hasobject or not is_number or not sides_valid or not 1 <= len(shape) <= 2:
        raise InvalidInputError(
            f"expected 1 or 2 dimensions of floats or int8, got {str(dtype)[:80]} of "
            f"{str(shape)[:80]}",
            pointer=f"/{name}",
        )
    expected, size = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if expected != size:
        raise MalformedInputError(
            f"expected {expected} bytes for an .npy array of {list(shape)}, got {size}"
        )
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _memory(rows: Floats) -> memoryview:
    contiguous: Any = np.ascontiguousarray(rows, "<f4")
    return memoryview(contiguous).cast("B")
