"""Binary tensors of the Open Inference Protocol: round trips, and damaged requests."""

import asyncio
import json
import struct
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from stitchwork.api.kserve import output_tensors, tensors
from stitchwork.errors import InvalidInputError
from tests.support.body_parser import BODY_PARSER
from tests.support.request_limits import LIMITS

ROWS = np.arange(6, dtype="<f4").reshape(2, 3)
TEXTS = ["a", "ünïcode", "three words here"]
RAW_TEXTS = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in TEXTS)
HEADER_JSON = json.dumps(
    {
        "id": "1",
        "inputs": [
            {
                "name": "embeddings",
                "shape": [2, 3],
                "datatype": "FP32",
                "parameters": {"binary_data_size": 24},
            },
            {
                "name": "items",
                "shape": [3],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(RAW_TEXTS)},
            },
        ],
        "outputs": [{"name": "embeddings", "parameters": {"binary_data": True}}],
    }
).encode()
BODY = HEADER_JSON + ROWS.tobytes() + RAW_TEXTS


def read(body: bytes, length: int) -> tensors.TensorRequest:
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(tensors.JSON_LENGTH_HEADER.lower().encode(), str(length).encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return asyncio.run(tensors.read_request(request, BODY_PARSER))


def test_binary_tensors_get_their_bytes() -> None:
    first, second = read(BODY, len(HEADER_JSON)).tensors
    np.testing.assert_array_equal(tensors.read_rows(first, LIMITS), ROWS)
    assert tensors.read_items(second, LIMITS) == [text.encode() for text in TEXTS]


def test_binary_response_has_the_bytes_of_its_tensors() -> None:
    labels = np.array([["a", "ü"], ["", "long"]], object)
    outputs = {"embeddings": ROWS, "labels": labels}
    specs = [
        tensors.OutputSpec("labels", True),
        tensors.OutputSpec("embeddings", True),
        tensors.OutputSpec("labels", False),
    ]
    response = output_tensors.tensor_response({"id": "1"}, outputs, specs, {})
    size = int(response.headers[tensors.JSON_LENGTH_HEADER])
    header, rest = orjson.loads(response.body[:size]), response.body[size:]
    sizes = [output["parameters"]["binary_data_size"] for output in header["outputs"][:2]]
    assert (header["id"], sum(sizes)) == ("1", len(rest))
    assert bytes(rest[: sizes[0]]) == b"\1\0\0\0a\2\0\0\0\xc3\xbc\0\0\0\0\4\0\0\0long"
    np.testing.assert_array_equal(np.frombuffer(rest[sizes[0] :], "<f4").reshape(2, 3), ROWS)
    assert header["outputs"][2]["data"] == ["a", "ü", "", "long"]


def test_large_json_response_is_sent_in_parts_that_make_one_text() -> None:
    scores = np.random.default_rng(0).random((70, 1000), np.float32)
    labels = np.array([["a", 'ü"'], ["", "long"]], object)
    outputs = {"scores": scores, "labels": labels, "predicted": scores > 0.5}
    specs = [tensors.OutputSpec(name, False) for name in outputs]
    response = output_tensors.tensor_response({"id": "1"}, outputs, specs, {})
    sent: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("it reads nothing")

    asyncio.run(response({"type": "http"}, receive, send))
    assert len(sent) > 8
    assert orjson.loads(b"".join(sent)) == {
        "id": "1",
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [70, 1000], "data": approx(scores)},
            {
                "name": "labels",
                "datatype": "BYTES",
                "shape": [2, 2],
                "data": ["a", 'ü"', "", "long"],
            },
            {
                "name": "predicted",
                "datatype": "BOOL",
                "shape": [70, 1000],
                "data": (scores > 0.5).ravel().tolist(),
            },
        ],
    }


def approx(values: "np.ndarray[Any, np.dtype[np.float32]]") -> Any:
    """The same numbers in float32, whose shortest texts are others in float64."""
    return pytest.approx(values.ravel().tolist(), abs=1e-7)


Damage = tuple[int, bytes]


@settings(max_examples=300)
@given(
    damages=st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.binary(max_size=4)), max_size=3),
    cut=st.integers(0, len(BODY)),
    length=st.integers(0, len(BODY)) | st.just(len(HEADER_JSON)),
)
def test_damaged_request_is_parsed_or_refused(damages: list[Damage], cut: int, length: int) -> None:
    body = bytearray(BODY)
    for at, instead in damages:
        body[at : at + len(instead)] = instead
    # Any other error would be a 500, and fails here.
    for data in (bytes(body), bytes(body[:cut])):
        with suppress(InvalidInputError):
            request = read(data, length)
            request.select_outputs(("embeddings",))
            for tensor in request.tensors:
                for parse in (tensors.read_rows, tensors.read_items):
                    with suppress(InvalidInputError):
                        parse(tensor, LIMITS)
