"""The gRPC API of the Open Inference Protocol: Triton's client against a running service."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray

from tests.integration.protocols.conftest import TEXTS, World
from tests.support import machine

pytestmark = [
    pytest.mark.models,
    # Triton's generated code is of protobuf 6, which protobuf 7 runs.
    pytest.mark.filterwarnings("ignore:Protobuf gencode version"),
]

INPUTS = TEXTS[3:15]


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(world.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def rows(world: World) -> NDArray[np.float32]:
    body = world.http.post("/embed/minilm", json={"items": INPUTS}).json()
    return np.array(body["embeddings"], np.float32)


def tensor(name: str, values: NDArray[Any], datatype: str) -> triton.InferInput:
    result = triton.InferInput(name, list(values.shape), datatype)
    result.set_data_from_numpy(values)
    return result


def best_labels(result: triton.InferResult) -> list[str]:
    return [row[0].decode() for row in result.as_numpy("labels")]


def test_stitch_model_of_texts_equals_stitch_route(
    world: World, client: triton.InferenceServerClient
) -> None:
    inputs = [tensor("items", np.array(INPUTS, object), "BYTES")]
    result = client.infer(
        "stitch:minilm:topic",
        inputs,
        request_id="7",
        parameters={"top": 2, "bridge": "ridge"},
        client_timeout=machine.deadline(60),
    )
    body = {"items": INPUTS, "top": 2, "bridge": "ridge"}
    expected = world.http.post("/stitch/minilm/topic", json=body).json()["predictions"]
    assert best_labels(result) == [prediction["label"] for prediction in expected]
    assert result.as_numpy("labels").shape == result.as_numpy("scores").shape == (len(INPUTS), 2)
    confidences = [prediction["confidence"] for prediction in expected]
    np.testing.assert_allclose(result.as_numpy("confidence"), confidences, atol=1e-5)
    response = result.get_response()
    assert (response.id, response.model_name) == ("7", "stitch:minilm:topic")
