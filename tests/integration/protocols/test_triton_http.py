"""Arguments and calls of Triton's HTTP client beside plain inference, against a running service."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

from tests.integration.protocols.conftest import TEXTS, World
from tests.support import machine

pytestmark = pytest.mark.models

INPUTS = TEXTS[3:9]
MODEL = "stitch:minilm:topic"
PATH = f"/v2/models/{MODEL}/infer"
BODY = json.dumps(
    {"inputs": [{"name": "items", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}
).encode()


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[triton.InferenceServerClient]:
    seconds = machine.deadline(60)
    with triton.InferenceServerClient(
        world.url.removeprefix("http://"), network_timeout=seconds, connection_timeout=seconds
    ) as client:
        yield client


def items(binary: bool) -> list[triton.InferInput]:
    tensor = triton.InferInput("items", [len(INPUTS)], "BYTES")
    tensor.set_data_from_numpy(np.array(INPUTS, object), binary_data=binary)
    return [tensor]


def arguments(binary: bool, coding: str | None) -> dict[str, Any]:
    return {
        "model_version": "",
        "outputs": [
            triton.InferRequestedOutput("labels", binary_data=binary),
            triton.InferRequestedOutput("scores", binary_data=binary, class_count=2),
        ],
        "request_id": "7",
        "sequence_id": 5,
        "sequence_start": True,
        "sequence_end": True,
        "priority": 3,
        "timeout": int(machine.deadline(60) * 1e6),
        "headers": {"x-request-id": "triton-http"},
        "query_params": {"a": "b"},
        "request_compression_algorithm": coding,
        "response_compression_algorithm": coding,
        "parameters": {"unknown": "value", "top": 3},
    }


def strings(values: Any) -> list[list[str]]:
    """The strings of an output, which are bytes if they came as such."""
    return [[s.decode() if isinstance(s, bytes) else s for s in row] for row in values]


def check(world: World, result: Any) -> None:
    body = world.http.post("/stitch/minilm/topic", json={"items": INPUTS}).json()
    expected = [prediction["label"] for prediction in body["predictions"]]
    assert [row[0] for row in strings(result.as_numpy("labels"))] == expected
    classes = result.as_numpy("scores")
    assert classes.shape == (len(INPUTS), 2)
    assert [row[0].split(":")[2] for row in strings(classes)] == expected
    assert result.get_response()["id"] == "7"


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_every_argument_of_the_client_is_accepted(
    world: World, client: triton.InferenceServerClient, binary: bool, coding: str | None
) -> None:
    check(world, client.infer(MODEL, items(binary), **arguments(binary, coding)))


def test_every_argument_of_the_asynchronous_client_is_accepted(world: World) -> None:
    async def run() -> Any:
        async with aio.InferenceServerClient(world.url.removeprefix("http://")) as client:
            return await client.infer(MODEL, items(True), **arguments(True, "gzip"))

    check(world, asyncio.run(run()))


def test_index_configuration_and_statistics(
    world: World, client: triton.InferenceServerClient
) -> None:
    index = client.get_model_repository_index()
    states = {model["name"]: model["state"] for model in index}
    assert states[MODEL] == "READY"
    assert client.get_model_config(MODEL)["output"][0] == {
        "name": "labels",
        "data_type": "TYPE_STRING",
        "dims": [-1, -1],
    }
    (before,) = client.get_inference_statistics(MODEL)["model_stats"]
    client.infer(MODEL, items(True))
    (after,) = client.get_inference_statistics(MODEL)["model_stats"]
    assert after["inference_count"] == before["inference_count"] + len(INPUTS)
    assert after["version"] == client.get_model_metadata(MODEL)["versions"][0]
    assert world.http.get("/v2/models/embed:no/stats").status_code == 404
    assert world.http.get("/v2/models/embed:no/config").status_code == 404
    ready = world.http.post("/v2/repository/index", json={"ready": True}).json()
    assert {model["state"] for model in ready} == {"READY"}


def test_classification_of_an_output_without_classes_is_refused(
    client: triton.InferenceServerClient,
) -> None:
    outputs = [triton.InferRequestedOutput("labels", class_count=2)]
    with pytest.raises(InferenceServerException, match="scores"):
        client.infer(MODEL, items(True), outputs=outputs)
    with pytest.raises(InferenceServerException, match="once"):
        client.infer(MODEL, items(True), outputs=[triton.InferRequestedOutput("scores")] * 2)


@pytest.mark.parametrize(
    ("content", "coding", "status", "message"),
    [
        (gzip.compress(bytes(8_000_000)), "gzip", 413, "max_body_bytes"),
        (gzip.compress(BODY)[:-9], "gzip", 400, "part"),
        (gzip.compress(BODY) + b"more", "gzip", 400, "after it"),
        (BODY, "gzip", 400, "gzip"),
        (BODY, "deflate", 400, "deflate"),
        (b"", "gzip", 400, "part"),
        (gzip.compress(BODY), "gzip, gzip", 415, "gzip"),
    ],
)
def test_compressed_body_that_is_invalid_is_refused(
    world: World, content: bytes, coding: str, status: int, message: str
) -> None:
    response = world.http.post(PATH, content=content, headers={"Content-Encoding": coding})
    assert response.status_code == status, response.text
    assert message in response.json()["error"]


def test_compressed_body_elsewhere_is_refused(world: World) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    content = gzip.compress(b'{"items": ["a"]}')
    assert world.http.post("/embed/minilm", content=content, headers=headers).status_code == 415
    headers["Content-Encoding"] = "deflate"
    assert world.http.post(PATH, content=zlib.compress(BODY), headers=headers).status_code == 200
