"""Output tensors as JSON, or as the bytes that the binary extension and gRPC send."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from stitchwork.api.content import negotiation, sliced_json
from stitchwork.api.kserve.schemas import (
    Datatype,
    InferenceResponse,
    ResponseOutput,
    ResponseOutputParameters,
)
from stitchwork.api.kserve.tensors import JSON_LENGTH_HEADER, STRING_LENGTH, OutputSpec


def tensor_response(
    fields: Mapping[str, str],
    outputs: Mapping[str, NDArray[Any]],
    specs: Sequence[OutputSpec],
    headers: Mapping[str, str],
) -> Response:
    """A response with output tensors.

    Args:
        fields: Fields of the response besides its outputs.
        outputs: The model's outputs by name: floats, booleans, or objects that are strings.
        specs: The outputs to send.
        headers: Further headers.
    """
    if not any(spec.binary for spec in specs):
        count = sum(outputs[spec.name].size for spec in specs)
        if count > sliced_json.SLICE_VALUES:
            return sliced_json.JsonPartsResponse(_json_parts(fields, outputs, specs), headers)
    entries, parts = [], []
    for name, binary, _ in specs:
        array = outputs[name]
        datatype, shape = datatype_of(array), list(array.shape)
        content: dict[str, Any]
        if binary:
            part = binary_data(array, datatype)
            content = {"parameters": ResponseOutputParameters(binary_data_size=len(part))}
            parts.append(part)
        else:
            content = {"data": _json_values(array)}
        entries.append(ResponseOutput(name=name, datatype=datatype, shape=shape, **content))
    content = {**fields, "outputs": entries}
    body = InferenceResponse.model_construct(None, **content)
    if not parts:
        return negotiation.json_response(body, headers=headers)
    data = sliced_json.to_json(body)
    headers = {**headers, JSON_LENGTH_HEADER: str(len(data))}
    return Response(b"".join([data, *parts]), 200, headers, negotiation.OCTETS)


def _json_parts(
    fields: Mapping[str, str],
    outputs: Mapping[str, NDArray[Any]],
    specs: Sequence[OutputSpec],
) -> Iterator[bytes]:
    """The same JSON as that of a small response, in parts."""
    before = sliced_json.to_json(fields)[:-1] + b',"outputs":['
    for spec in specs:
        array = outputs[spec.name]
        entry = {"name": spec.name, "datatype": datatype_of(array), "shape": list(array.shape)}
        yield before + sliced_json.to_json(entry)[:-1] + b',"data":['
        flat, separator = array.ravel(), b""
        for part in sliced_json.row_slices(len(flat), 1):
            yield separator + sliced_json.to_json(_json_values(flat[part]))[1:-1]
            separator = b","
        before = b"]},"
    yield b"]}]}"


def _json_values(array: NDArray[Any]) -> Any:
    """Values in row-major order, as they are rendered."""
    return np.ravel(array) if datatype_of(array) == "FP32" else array.ravel().tolist()


def datatype_of(array: NDArray[Any]) -> Datatype:
    """The protocol's name of an output's datatype."""
    return "BYTES" if array.dtype.hasobject else "BOOL" if array.dtype == np.bool_ else "FP32"


def binary_data(array: NDArray[Any], datatype: Datatype) -> bytes:
    """The bytes of an output, as the binary extension and raw contents have them."""
    if datatype == "BYTES":
        return _string_bytes(array)
    return np.ascontiguousarray(array, "?" if datatype == "BOOL" else "<f4").tobytes()


def _string_bytes(array: NDArray[Any]) -> bytes:
    texts = [text.encode() for text in array.ravel().tolist()]
    return b"".join(part for text in texts for part in (STRING_LENGTH.pack(len(text)), text))
