"""The Open Inference Protocol's bytes: what was written is read, and damage is always named."""

import asyncio
import json
import struct
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from stitchwork.api.kserve import tensors
from stitchwork.errors import InvalidInputError
from tests.support.request_limits import LIMITS

ROWS = np.arange(6, dtype="<f4").reshape(2, 3)
TEXTS = ["a", "ünïcode", "three words here"]
RAW_TEXTS = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in TEXTS)
HEAD = json.dumps(
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
BODY = HEAD + ROWS.tobytes() + RAW_TEXTS


def read(body: bytes, length: int) -> tensors.Inference:
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(tensors.HEADER.lower().encode(), str(length).encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return asyncio.run(tensors.read(request, LIMITS))


def test_each_tensor_gets_its_own_bytes() -> None:
    first, second = read(BODY, len(HEAD)).tensors
    np.testing.assert_array_equal(tensors.rows(first, LIMITS), ROWS)
    assert tensors.items(second, LIMITS) == [text.encode() for text in TEXTS]


def test_answers_are_read_as_they_were_written() -> None:
    labels = np.array([["a", "ü"], ["", "long"]], object)
    outputs = {"embeddings": ROWS, "labels": labels}
    wanted = [("labels", True), ("embeddings", True), ("labels", False)]
    answer = tensors.respond(read(BODY, len(HEAD)), {"model_name": "m"}, outputs, wanted, {})
    size = int(answer.headers[tensors.HEADER])
    told, rest = orjson.loads(answer.body[:size]), answer.body[size:]
    sizes = [output["parameters"]["binary_data_size"] for output in told["outputs"][:2]]
    assert (told["id"], sum(sizes)) == ("1", len(rest))
    assert bytes(rest[: sizes[0]]) == b"\1\0\0\0a\2\0\0\0\xc3\xbc\0\0\0\0\4\0\0\0long"
    np.testing.assert_array_equal(np.frombuffer(rest[sizes[0] :], "<f4").reshape(2, 3), ROWS)
    assert told["outputs"][2]["data"] == ["a", "ü", "", "long"]


Damage = tuple[int, bytes]


@settings(max_examples=300, deadline=None)
@given(
    damages=st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.binary(max_size=4)), max_size=3),
    cut=st.integers(0, len(BODY)),
    length=st.integers(0, len(BODY)) | st.just(len(HEAD)),
)
def test_damage_is_named_or_harmless(damages: list[Damage], cut: int, length: int) -> None:
    body = bytearray(BODY)
    for at, instead in damages:
        body[at : at + len(instead)] = instead
    # Any other error would be a 500, and fails here.
    for data in (bytes(body), bytes(body[:cut])):
        with suppress(InvalidInputError):
            found = read(data, length)
            found.wanted(("embeddings",))
            for tensor in found.tensors:
                for take in (tensors.rows, tensors.items):
                    with suppress(InvalidInputError):
                        take(tensor, LIMITS)
