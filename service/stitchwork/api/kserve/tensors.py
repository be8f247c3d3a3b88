"""The Open Inference Protocol's tensors ↔ arrays: in JSON, or as raw bytes behind it.

A request with the binary extension is JSON of `Inference-Header-Content-Length` bytes, and then the
bytes of each tensor that says `binary_data_size`, in their order; so is an answer. Numbers are
little-endian, rows one after another; each string is its length in 4 bytes and then itself.
"""

import asyncio
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from stitchwork.api.content import negotiation, validation
from stitchwork.api.kserve.schemas import InferenceRequest, RequestInput
from stitchwork.api.limits import RequestLimits
from stitchwork.api.problem_details import replace_pointer
from stitchwork.errors import (
    InputTooLargeError,
    InvalidInputError,
    MalformedInputError,
    UnsupportedFormatError,
)
from stitchwork.resources import Floats

HEADER: Final = "Inference-Header-Content-Length"
FLOATS: Final[dict[str, str]] = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2"}
LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input.

    Attributes:
        told: What the JSON says of it.
        raw: Its bytes, if it came as bytes.
        pointer: Where the JSON says it.
    """

    told: RequestInput
    raw: memoryview | None
    pointer: str


@dataclass(frozen=True, slots=True)
class Inference:
    """One request."""

    body: InferenceRequest
    tensors: tuple[Tensor, ...]

    def only(self, name: str) -> Tensor:
        """The one input there is to be.

        Raises:
            InvalidInputError: If there are others, or it has another name.
        """
        names = [tensor.told.name for tensor in self.tensors]
        if names != [name]:
            got = ", ".join(repr(name[:40]) for name in names[:8])
            raise InvalidInputError(f"expected one input, {name!r}, got {got}", pointer="/inputs")
        return self.tensors[0]

    def wanted(self, names: Sequence[str]) -> list[tuple[str, bool]]:
        """The outputs to send, and whether as bytes; all of them unless some are named.

        Raises:
            InvalidInputError: If there is no output of a name.
        """
        usual = self.body.parameters.binary_data_output
        if not self.body.outputs:
            return [(name, usual) for name in names]
        found = []
        for i, output in enumerate(self.body.outputs):
            if output.name not in names:
                raise InvalidInputError(
                    f"expected outputs out of {', '.join(names)}, got {output.name[:40]!r}",
                    pointer=f"/outputs/{i}/name",
                )
            binary = output.parameters.binary_data
            found.append((output.name, usual if binary is None else binary))
        return found


async def read(request: Request, limits: RequestLimits) -> Inference:
    """A request, its JSON validated and each tensor's bytes found.

    Raises:
        MalformedInputError: If it is no JSON, or there are more or fewer bytes than it says.
        InputTooLargeError: If there are too many.
        UnsupportedFormatError: If it says that it is anything else, or is compressed.
        InvalidInputError: If what it says has no meaning; `pointer` says where.
    """
    media = negotiation.media_type(request)
    if media not in (negotiation.JSON, negotiation.OCTETS):
        raise UnsupportedFormatError(
            f"expected a body of {negotiation.JSON} or {negotiation.OCTETS}, got {media[:80]}"
        )
    data = await request.body()
    length = _json_length(request.headers.get(HEADER), len(data))

    def decode() -> Inference:
        body = negotiation.parse_body(data[:length], InferenceRequest, limits)
        return Inference(body, _located(body, memoryview(data)[length:]))

    return await asyncio.to_thread(decode) if len(data) > negotiation.LARGE_BODY else decode()


def rows(tensor: Tensor, limits: RequestLimits) -> Floats:
    """An input as embeddings, (n, d) float32, finite.

    Raises:
        InvalidInputError: If it is of another datatype or shape, or holds anything else.
        InputTooLargeError: If there are more rows or columns than are taken.
    """
    told = tensor.told
    if told.datatype not in FLOATS:
        raise _datatype(tensor, ", ".join(FLOATS))
    if len(told.shape) != 2:
        raise _shape(tensor, "[n, d]")
    n, d = told.shape
    for got, most, what in (
        (n, limits.max_rows, "rows (max_rows)"),
        (d, limits.max_width, "numbers in a row (max_width)"),
    ):
        if got > most:
            place = f"{tensor.pointer}/shape"
            raise InputTooLargeError(f"expected at most {most} {what}, got {got}", pointer=place)
    if tensor.raw is not None:
        dtype = np.dtype(FLOATS[told.datatype])
        if n * d * dtype.itemsize != len(tensor.raw):
            raise InvalidInputError(
                f"expected {n * d * dtype.itemsize} bytes of {told.datatype} for shape "
                f"{told.shape}, got {len(tensor.raw)}",
                pointer=tensor.pointer,
            )
        given: Any = np.frombuffer(tensor.raw, dtype).reshape(n, d)
    else:
        given = told.data
    with replace_pointer("", f"{tensor.pointer}/data"):
        if isinstance(given, list) and given and not isinstance(given[0], list):
            if len(given) != n * d:
                raise InvalidInputError(
                    f"expected {n * d} numbers for shape {told.shape}, got {len(given)}"
                )
            flat: Floats = validation.vector(given, max(1, n * d))
            return flat.reshape(n, d)
        found = validation.vectors(
            given, base64=False, max_rows=limits.max_rows, max_width=limits.max_width
        )
        if found.shape != (n, d):
            raise InvalidInputError(
                f"expected numbers of shape {told.shape}, got {list(found.shape)}"
            )
        return found


def items(tensor: Tensor, limits: RequestLimits) -> list[str | bytes]:
    """An input as raw inputs: strings of JSON, or the bytes of texts or of image files.

    Raises:
        InvalidInputError: If it is of another datatype or shape, or holds anything else.
        InputTooLargeError: If there are more than are taken.
    """
    told = tensor.told
    if told.datatype != "BYTES":
        raise _datatype(tensor, "BYTES")
    n = math.prod(told.shape)
    if not told.shape or told.shape[0] != n or len(told.shape) > 2 or not n:
        raise _shape(tensor, "[n] or [n, 1], n at least 1")
    if n > limits.max_items:
        place = f"{tensor.pointer}/shape"
        raise InputTooLargeError(
            f"expected at most {limits.max_items} items (max_items), got {n}", pointer=place
        )
    if tensor.raw is not None:
        return list(_strings(tensor.raw, n, tensor.pointer))
    given = [
        row[0] if isinstance(row, list) and len(row) == len(told.shape) - 1 else row
        for row in told.data or []
    ]
    if len(given) != n:
        raise InvalidInputError(
            f"expected {n} strings for shape {told.shape}, got {len(given)}",
            pointer=f"{tensor.pointer}/data",
        )
    for i, item in enumerate(given):
        if not isinstance(item, str):
            raise InvalidInputError(
                f"expected a string, got {validation.json_type(item)}",
                pointer=f"{tensor.pointer}/data/{i}",
            )
    return given


def respond(
    asked: Inference,
    told: Mapping[str, str],
    outputs: Mapping[str, NDArray[Any]],
    wanted: Sequence[tuple[str, bool]],
    headers: Mapping[str, str],
) -> Response:
    """An answer.

    Args:
        asked: What is answered; its `id` is sent back.
        told: What is said of the model.
        outputs: Each output by its name: floats, or objects that are strings.
        wanted: Which of them, and whether as bytes.
        headers: Further headers.
    """
    shown, parts = [], []
    for name, binary in wanted:
        array = outputs[name]
        strings = array.dtype.hasobject
        entry: dict[str, Any] = {
            "name": name,
            "datatype": "BYTES" if strings else "FP32",
            "shape": list(array.shape),
        }
        if binary:
            part = _string_bytes(array) if strings else np.ascontiguousarray(array, "<f4").tobytes()
            entry["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            entry["data"] = array.ravel().tolist() if strings else np.ravel(array)
        shown.append(entry)
    answer = {**told, "outputs": shown}
    if asked.body.id is not None:
        answer["id"] = asked.body.id
    if not parts:
        return negotiation.json_response(answer, headers=headers)
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    more = {**headers, HEADER: str(len(head))}
    return Response(b"".join([head, *parts]), 200, more, negotiation.OCTETS)


def _json_length(header: str | None, total: int) -> int:
    if header is None:
        return total
    told = header.strip()
    if not (told.isascii() and told.isdecimal() and len(told) < 20 and int(told) <= total):
        raise MalformedInputError(
            f"{HEADER}: expected at most {total} bytes of JSON, got {told[:40]!r}"
        )
    return int(told)


def _located(body: InferenceRequest, rest: memoryview) -> tuple[Tensor, ...]:
    """Each tensor with its part of the bytes behind the JSON; they must add up."""
    found, start = [], 0
    for i, told in enumerate(body.inputs):
        size, pointer = told.parameters.binary_data_size, f"/inputs/{i}"
        if (size is None) == (told.data is None):
            raise InvalidInputError(
                "expected either data or, with the binary extension, binary_data_size",
                pointer=pointer,
            )
        raw = None if size is None else rest[start : start + size]
        start += size or 0
        found.append(Tensor(told, raw, pointer))
    if start != len(rest):
        raise MalformedInputError(
            f"the inputs' binary_data_size adds up to {start} bytes, {len(rest)} stand behind the "
            f"JSON; {HEADER} says how long that is"
        )
    return tuple(found)


def _strings(raw: memoryview, count: int, pointer: str) -> list[bytes]:
    """Strings that each stand behind their length in 4 bytes."""
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        stop = at + LENGTH.size
        if len(found) < count and stop <= len(raw):
            stop += LENGTH.unpack_from(raw, at)[0]
            if stop <= len(raw):
                found.append(bytes(raw[at + LENGTH.size : stop]))
                at = stop
                continue
        break
    if len(found) != count or at != len(raw):
        raise InvalidInputError(
            f"expected {count} strings, each behind its length in 4 bytes, in {len(raw)} bytes; "
            f"got {len(found)}, and {len(raw) - at} bytes that are none",
            pointer=pointer,
        )
    return found


def _string_bytes(array: NDArray[Any]) -> bytes:
    texts = [text.encode() for text in array.ravel().tolist()]
    return b"".join(part for text in texts for part in (LENGTH.pack(len(text)), text))


def _datatype(tensor: Tensor, expected: str) -> InvalidInputError:
    name, got = tensor.told.name[:40], tensor.told.datatype
    told = f"expected {name!r} as a tensor of {expected}, got {got!r}"
    return InvalidInputError(told, pointer=f"{tensor.pointer}/datatype")


def _shape(tensor: Tensor, expected: str) -> InvalidInputError:
    told = f"expected {tensor.told.name[:40]!r} of shape {expected}, got {tensor.told.shape}"
    return InvalidInputError(told, pointer=f"{tensor.pointer}/shape")
