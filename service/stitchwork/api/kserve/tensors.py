"""Tensors of the Open Inference Protocol ↔ arrays: in JSON, or as raw bytes after it.

A request with the binary extension is JSON of `Inference-Header-Content-Length` bytes, followed by
the bytes of each tensor that has a `binary_data_size`, in order; so is a response. Numbers are
little-endian and in row-major order; each string follows its length in 4 bytes.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from starlette.requests import Request

from stitchwork.api.content import body_content, negotiation, validation
from stitchwork.api.content.body_parser import LONG_TEXT, SHORT_ARRAY, SHORT_TEXT, BodyParser
from stitchwork.api.content.compression import decompress
from stitchwork.api.content.validation import check_count
from stitchwork.api.kserve.schemas import (
    InferenceRequest,
    RequestInput,
)
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import BodyBytes
from stitchwork.api.problem_details import replace_pointer
from stitchwork.api.schemas.items import compact_text
from stitchwork.errors import (
    InvalidInputError,
    MalformedInputError,
    UnsupportedFormatError,
)
from stitchwork.resources import Floats, Input, LongText

JSON_LENGTH_HEADER: Final = "Inference-Header-Content-Length"
FLOAT_DTYPES: Final[dict[str, str]] = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "BF16": "<u2"}
"""Types of numpy by the protocol's names; it has none for the upper half of a float32."""
CLASSIFIED: Final = ("scores", "values")
"""Outputs that `classification` is meant for: a number for each class."""
STRING_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input tensor.

    Attributes:
        spec: Its description in the JSON, with its data unless they are binary.
        raw: Its bytes, if they are binary.
        pointer: JSON pointer to its description.
    """

    spec: RequestInput
    raw: memoryview | None
    pointer: str


class OutputSpec(NamedTuple):
    """An output tensor of a response.

    Attributes:
        name: Its name.
        binary: Whether it is sent as bytes after the JSON.
        classes: Number of the best classes that are sent instead; 0 for its values.
    """

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True, slots=True)
class TensorRequest:
    """An inference request.

    Attributes:
        body: Its JSON.
        tensors: Its inputs.
        is_short: Whether the event loop may read them.
        unknown_fields: Number of fields that are unknown, besides those of the JSON.
    """

    body: InferenceRequest
    tensors: tuple[Tensor, ...]
    is_short: bool = True
    unknown_fields: int = 0

    def single_input(self, name: str) -> Tensor:
        """The input of a model that has one, which may have any name.

        Args:
            name: Its name in the model's metadata.

        Raises:
            InvalidInputError: If there are several.
        """
        names = [tensor.spec.name for tensor in self.tensors]
        if len(names) != 1:
            got = ", ".join(repr(name[:40]) for name in names[:8])
            raise InvalidInputError(f"expected one input, {name!r}, got {got}", pointer="/inputs")
        return self.tensors[0]

    def select_outputs(self, names: Sequence[str]) -> list[OutputSpec]:
        """The outputs that the request names, or all of a model's if it names none.

        Args:
            names: The outputs of the model.

        Raises:
            InvalidInputError: If the model has no output of a name.
        """
        default = self.body.parameters.binary_data_output
        if not self.body.outputs:
            return [OutputSpec(name, default) for name in names]
        specs = []
        for i, output in enumerate(self.body.outputs):
            if output.name not in names:
                raise InvalidInputError(
                    f"expected outputs out of {', '.join(names)}, got {output.name[:40]!r}",
                    pointer=f"/outputs/{i}/name",
                )
            binary = output.parameters.binary_data
            classes = output.parameters.classification or 0
            if classes and output.name not in CLASSIFIED:
                raise InvalidInputError(
                    f"expected classification of output {' or '.join(CLASSIFIED)}, got it of "
                    f"{output.name!r}",
                    pointer=f"/outputs/{i}/parameters/classification",
                )
            specs.append(OutputSpec(output.name, default if binary is None else binary, classes))
        if len({spec.name for spec in specs}) < len(specs):
            raise InvalidInputError("expected each output once", pointer="/outputs")
        return specs


async def read_request(request: Request, parser: BodyParser) -> TensorRequest:
    """Read a request: validate its JSON, and assign the bytes after it to tensors.

    Raises:
        MalformedInputError: If it is not JSON, or the number of bytes after it is wrong.
        InputTooLargeError: If it holds more than `limits` allows.
        UnsupportedFormatError: If its media type is another, or how it is compressed.
        InvalidInputError: If validation fails; `pointer` names the place.
    """
    media = negotiation.body_media_type(request)
    if media not in (negotiation.JSON, negotiation.OCTETS):
        raise UnsupportedFormatError(
            f"expected a body of {negotiation.JSON} or {negotiation.OCTETS}, got {media[:80]}"
        )
    data = await parser.receive(request, is_array=JSON_LENGTH_HEADER.lower() in request.headers)
    data = await decompress(request, data, parser.limits)
    length = _json_length(request.headers.get(JSON_LENGTH_HEADER), len(data))
    text = data if length == len(data) else data[:length]
    body = await parser.parse(request, _parse, text, parser.limits, text_bytes=length)
    tensors = _split_tensors(body, memoryview(data)[length:])
    return TensorRequest(body, tensors, length <= SHORT_TEXT and len(data) <= SHORT_ARRAY)


def _parse(data: BodyBytes, limits: RequestLimits) -> InferenceRequest:
    """Parse the JSON of a request; of a long one, rows become arrays, which are compact."""
    body = body_content.parse_body(bytes(data), InferenceRequest, limits)
    if len(data) > LONG_TEXT:
        compact_data(body, limits)
    return body


def compact_data(body: InferenceRequest, limits: RequestLimits) -> None:
    """Replace the data of inputs by arrays and long texts, which take little memory.

    Raises:
        InvalidInputError: What `read_rows` and `read_items` raise.
        InputTooLargeError: The same.
    """
    for i, spec in enumerate(body.inputs):
        tensor = Tensor(spec, None, f"/inputs/{i}")
        if not spec.data:
            continue
        if spec.datatype == "BYTES":
            spec.shape, spec.data = [len(items := read_items(tensor, limits))], items
        else:
            spec.data = read_rows(tensor, limits)  # type: ignore[assignment]


def read_rows(tensor: Tensor, limits: RequestLimits) -> Floats:
    """Read an input as embeddings.

    Returns:
        (n, d) float32, finite.

    Raises:
        InvalidInputError: If its datatype, shape or data are not those of embeddings.
        InputTooLargeError: If it has more rows or columns than `limits` allows.
    """
    spec = tensor.spec
    if spec.datatype not in FLOAT_DTYPES:
        raise _wrong_datatype(tensor, ", ".join(FLOAT_DTYPES))
    if len(spec.shape) != 2:
        raise _wrong_shape(tensor, "[n, d]")
    n, d = spec.shape
    check_count(n, limits.max_rows, "rows", "max_rows", f"{tensor.pointer}/shape")
    check_count(d, limits.max_width, "numbers in a row", "max_width", f"{tensor.pointer}/shape")
    if tensor.raw is not None:
        dtype = np.dtype(FLOAT_DTYPES[spec.datatype])
        if n * d * dtype.itemsize != len(tensor.raw):
            raise InvalidInputError(
                f"expected {n * d * dtype.itemsize} bytes of {spec.datatype} for shape "
                f"{spec.shape}, got {len(tensor.raw)}",
                pointer=tensor.pointer,
            )
        values: Any = np.frombuffer(tensor.raw, dtype).reshape(n, d)
        if spec.datatype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
    else:
        values = spec.data
    with replace_pointer("", f"{tensor.pointer}/data"):
        if isinstance(values, list) and values and not isinstance(values[0], list):
            if len(values) != n * d:
                raise InvalidInputError(
                    f"expected {n * d} numbers for shape {spec.shape}, got {len(values)}"
                )
            flat: Floats = validation.vector(values, max(1, n * d))
            return flat.reshape(n, d)
        rows = validation.vectors(
            values, base64=False, max_rows=limits.max_rows, max_width=limits.max_width
        )
        if rows.shape != (n, d):
            raise InvalidInputError(
                f"expected numbers of shape {spec.shape}, got {list(rows.shape)}"
            )
        return rows


def read_items(tensor: Tensor, limits: RequestLimits) -> list[Input]:
    """Read an input as raw inputs.

    Returns:
        n strings of JSON or, from a binary tensor or a message, the memory of n texts or files.

    Raises:
        InvalidInputError: If its datatype, shape or data are not those of raw inputs.
        InputTooLargeError: If it has more items than `limits` allows.
    """
    spec = tensor.spec
    if spec.datatype != "BYTES":
        raise _wrong_datatype(tensor, "BYTES")
    n = math.prod(spec.shape)
    if not spec.shape or spec.shape[0] != n or len(spec.shape) > 2 or not n:
        raise _wrong_shape(tensor, "[n] or [n, 1], n at least 1")
    check_count(n, limits.max_items, "items", "max_items", f"{tensor.pointer}/shape")
    if tensor.raw is not None:
        return [*_parse_strings(tensor.raw, n, tensor.pointer)]
    items = [
        row[0] if isinstance(row, list) and len(row) == len(spec.shape) - 1 else row
        for row in spec.data or []
    ]
    if len(items) != n:
        raise InvalidInputError(
            f"expected {n} strings for shape {spec.shape}, got {len(items)}",
            pointer=f"{tensor.pointer}/data",
        )
    for i, item in enumerate(items):
        if not isinstance(item, str | bytes | memoryview | LongText):
            raise InvalidInputError(
                f"expected a string, got {validation.json_type(item)}",
                pointer=f"{tensor.pointer}/data/{i}",
            )
    return [compact_text(item) if isinstance(item, str) else item for item in items]


def _json_length(header: str | None, size: int) -> int:
    """The length of the JSON in a body of `size` bytes."""
    if header is None:
        return size
    value = header.strip()
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and int(value) <= size):
        raise MalformedInputError(
            f"{JSON_LENGTH_HEADER}: expected at most {size} bytes of JSON, got {value[:40]!r}"
        )
    return int(value)


def _split_tensors(body: InferenceRequest, rest: memoryview) -> tuple[Tensor, ...]:
    """Assign the bytes after the JSON to tensors; their sizes must add up to all of them."""
    tensors, start = [], 0
    for i, spec in enumerate(body.inputs):
        size, pointer = spec.parameters.binary_data_size, f"/inputs/{i}"
        if (size is None) == (spec.data is None):
            raise InvalidInputError(
                "expected either data or, with the binary extension, binary_data_size",
                pointer=pointer,
            )
        raw = None if size is None else rest[start : start + size]
        start += size or 0
        tensors.append(Tensor(spec, raw, pointer))
    if start != len(rest):
        raise MalformedInputError(
            f"expected {start} bytes after the JSON, the sum of the inputs' binary_data_size, got "
            f"{len(rest)}; {JSON_LENGTH_HEADER} is the length of the JSON"
        )
    return tuple(tensors)


def _parse_strings(raw: memoryview, count: int, pointer: str) -> list[memoryview]:
    """Parse strings that each follow their length in 4 bytes; they are not copied."""
    strings, start, prefix = list[memoryview](), 0, STRING_LENGTH.size
    while len(strings) < count and start + prefix <= len(raw):
        stop = start + prefix + STRING_LENGTH.unpack_from(raw, start)[0]
        if stop > len(raw):
            break
        strings.append(raw[start + prefix : stop])
        start = stop
    if len(strings) != count or start != len(raw):
        raise InvalidInputError(
            f"expected {count} strings in {len(raw)} bytes, each after its length in 4 bytes, got "
            f"{len(strings)} and {len(raw) - start} further bytes",
            pointer=pointer,
        )
    return strings


def _wrong_datatype(tensor: Tensor, expected: str) -> InvalidInputError:
    name, got = tensor.spec.name[:40], tensor.spec.datatype
    message = f"expected {name!r} as a tensor of {expected}, got {got!r}"
    return InvalidInputError(message, pointer=f"{tensor.pointer}/datatype")


def _wrong_shape(tensor: Tensor, expected: str) -> InvalidInputError:
    message = f"expected {tensor.spec.name[:40]!r} of shape {expected}, got {tensor.spec.shape}"
    return InvalidInputError(message, pointer=f"{tensor.pointer}/shape")
