"""A `ModelInferRequest` of gRPC as the request of the REST API: one schema validates both.

Bytes of raw tensors are not copied. The rest of a message is parsed as JSON is: on the event loop
if it is short, in another process if it is long, since few bytes can become many objects.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import ValidationError
from starlette.requests import Request

from stitchwork.api.content.body_parser import LONG_TEXT, SHORT_ARRAY, SHORT_TEXT, BodyParser
from stitchwork.api.kserve.grpc_messages import CLASSES, CONTENTS, MESSAGES
from stitchwork.api.kserve.schemas import InferenceRequest
from stitchwork.api.kserve.tensors import (
    FLOAT_DTYPES,
    Tensor,
    TensorRequest,
    compact_data,
)
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import BodyBytes
from stitchwork.api.validation_errors import from_validation
from stitchwork.errors import InputTooLargeError, InvalidInputError, MalformedInputError

MAX_FIELDS: Final = 1024
"""Fields of a message, before it is known how many of its inputs and outputs are valid."""
RAW_INPUT_CONTENTS: Final = 7
FIXED_SIZES: Final = {1: 8, 5: 4}
"""Bytes of values by wire type."""
VARINT: Final = 0
LENGTH_DELIMITED: Final = 2
READ_CONTENTS: Final = (*FLOAT_DTYPES, "BYTES")
"""Datatypes whose values are read; tensors of others are refused by their datatype."""


class InferMessage(NamedTuple):
    """A message without its raw contents.

    Attributes:
        model: Name of the model.
        version: The version that must be current; None accepts any.
        body: The rest as the body of a REST request.
        unknown_fields: Number of fields that this service does not know.
    """

    model: str
    version: str | None
    body: InferenceRequest
    unknown_fields: int


class ModelRequest(NamedTuple):
    """An inference request that names its model.

    Attributes:
        model: Name of the model.
        version: The version that must be current; None accepts any.
        payload: The tensors.
    """

    model: str
    version: str | None
    payload: TensorRequest


async def read_request(request: Request, parser: BodyParser) -> ModelRequest:
    """Read a `ModelInferRequest`.

    Raises:
        MalformedInputError: If it is no such message.
        InputTooLargeError: If it holds more than `limits` allows.
        InvalidInputError: If validation fails; `pointer` names the place.
    """
    data = await parser.receive(request, is_array=True)
    rest, contents = split_message(data)
    message = await parser.parse(request, parse_message, rest, parser.limits, text_bytes=len(rest))
    tensors = _tensors(message.body, contents)
    # Outputs are raw if inputs are, as KServe's servers have it.
    message.body.parameters.binary_data_output = bool(contents)
    is_short = len(rest) <= SHORT_TEXT and len(data) <= SHORT_ARRAY
    payload = TensorRequest(message.body, tensors, is_short, message.unknown_fields)
    return ModelRequest(message.model, message.version, payload)


def split_message(data: BodyBytes) -> tuple[bytes, list[memoryview]]:
    """Split a message into its raw contents, which are not copied, and the rest of it.

    Raises:
        MalformedInputError: If the bytes are no message.
        InputTooLargeError: If it has more than `MAX_FIELDS` fields.
    """
    view, position, rest, contents = memoryview(data), 0, list[memoryview](), list[memoryview]()
    try:
        while position < len(view):
            start = position
            tag, position = _varint(view, position)
            wire_type, first = tag & 7, position
            if wire_type == VARINT:
                _, position = _varint(view, position)
            elif wire_type == LENGTH_DELIMITED:
                length, first = _varint(view, position)
                position = first + length
            else:
                position += FIXED_SIZES[wire_type]
            if position > len(view):
                raise IndexError(position)
            if tag == RAW_INPUT_CONTENTS << 3 | LENGTH_DELIMITED:
                contents.append(view[first:position])
            else:
                rest.append(view[start:position])
            if len(contents) + len(rest) > MAX_FIELDS:
                raise InputTooLargeError(f"expected at most {MAX_FIELDS} fields, got more")
    except (IndexError, KeyError) as error:
        raise _malformed() from error
    return b"".join(rest), contents


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the position after it."""
    value = shift = 0
    while True:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError(position)


def parse_message(data: bytes, limits: RequestLimits) -> InferMessage:
    """Parse a message without raw contents, and validate it as the body of a REST request.

    Raises:
        MalformedInputError: If the bytes are no message.
        InvalidInputError: If validation fails.
    """
    try:
        message = CLASSES["ModelInferRequest"].FromString(data)
    except DecodeError as error:
        raise _malformed() from error
    unknown, fields = _count_unknown(message), _fields(message, limits)
    try:
        body = InferenceRequest.model_validate(fields, context=limits)
    except ValidationError as error:
        raise from_validation(error, InferenceRequest.model_fields, fields) from error
    for output in body.outputs or ():
        # It chooses between JSON and bytes.
        output.parameters.binary_data = None
    if len(data) > LONG_TEXT:
        compact_data(body, limits)
    return InferMessage(message.model_name, message.model_version or None, body, unknown)


def _fields(message: Any, limits: RequestLimits) -> dict[str, Any]:
    """The members of the JSON that a message stands for."""
    fields: dict[str, Any] = {
        "id": message.id or None,
        "parameters": _parameters(message.parameters),
        "inputs": [_input(spec, i, limits) for i, spec in enumerate(message.inputs)],
    }
    if message.outputs:
        fields["outputs"] = [
            {"name": output.name, "parameters": _parameters(output.parameters)}
            for output in message.outputs
        ]
    return fields


def _input(spec: Any, index: int, limits: RequestLimits) -> dict[str, Any]:
    parameters = _parameters(spec.parameters)
    # A parameter of the binary extension of REST.
    parameters.pop("binary_data_size", None)
    return {
        "name": spec.name,
        "shape": list(spec.shape[:16]),
        "datatype": spec.datatype,
        "parameters": parameters,
        "data": _contents(spec, f"/inputs/{index}", limits) if spec.HasField("contents") else None,
    }


def _contents(spec: Any, pointer: str, limits: RequestLimits) -> Any:
    """The values of a tensor that is not raw."""
    fields = {name: getattr(spec.contents, name) for name in MESSAGES["InferTensorContents"]}
    names = [name for name, values in fields.items() if len(values)]
    expected = CONTENTS.get(spec.datatype)
    if names and names != [expected]:
        raise InvalidInputError(
            f"expected values of {spec.datatype[:40]} in {expected or 'raw_input_contents'}, got "
            f"{' and '.join(names)}",
            pointer=f"{pointer}/contents",
        )
    if not names:
        return None
    if expected is None or spec.datatype not in READ_CONTENTS:
        return []
    values = fields[expected]
    if len(values) > limits.max_json_values:
        raise InputTooLargeError(
            f"expected at most {limits.max_json_values} values (max_json_values), got "
            f"{len(values)}; send raw_input_contents",
            pointer=f"{pointer}/contents",
        )
    return list(values)


def _parameters(parameters: Any) -> dict[str, Any]:
    """Parameters by name; one without a value is null."""
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = getattr(parameter, choice) if choice else None
    return values


def _count_unknown(message: Any) -> int:
    parts = (message, *message.inputs, *message.outputs)
    return sum(len(UnknownFieldSet(part)) for part in parts)


def _tensors(body: InferenceRequest, contents: Sequence[memoryview]) -> tuple[Tensor, ...]:
    """The inputs with their raw contents, which either all or none of them have."""
    if contents and len(contents) != len(body.inputs):
        raise InvalidInputError(
            f"expected raw_input_contents of all {len(body.inputs)} inputs or of none, got "
            f"{len(contents)}",
            pointer="/raw_input_contents",
        )
    tensors = []
    for i, spec in enumerate(body.inputs):
        if contents and spec.data is not None and len(spec.data):
            raise InvalidInputError(
                "expected contents or raw_input_contents, got both", pointer=f"/inputs/{i}"
            )
        if not contents and spec.data is None:
            raise InvalidInputError(
                "expected contents or raw_input_contents, got neither", pointer=f"/inputs/{i}"
            )
        tensors.append(Tensor(spec, contents[i] if contents else None, f"/inputs/{i}"))
    return tuple(tensors)


def _malformed() -> MalformedInputError:
    return MalformedInputError("expected a message ModelInferRequest, got bytes that are none")
