"""Text Embeddings Inference: its paths, and the client of huggingface_hub, which is unmodified."""

from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from numpy.typing import NDArray

from tests.integration.protocols.conftest import TEXTS, World, to_base64

pytestmark = pytest.mark.models

INPUTS = TEXTS[:6]


def own_rows(world: World, space: str, items: list[str], **fields: Any) -> NDArray[np.float64]:
    """Embeddings by the service's own route."""
    body = world.http.post(f"/embed/{space}", json={"items": items, **fields}).json()
    return np.array(body["embeddings"])


@pytest.mark.parametrize("path", ["", "/", "/embed"])
@pytest.mark.parametrize(
    ("model", "fields"), [("minilm->turned", {"target": "turned"}), ("minilm", {})]
)
def test_client_of_huggingface_hub_gets_embeddings(
    world: World, model: str, fields: dict[str, str], path: str
) -> None:
    client = InferenceClient(f"{world.url}/tei/{model}{path}")
    expected = own_rows(world, "minilm", INPUTS, **fields)
    raw = client.feature_extraction(INPUTS, normalize=False)
    np.testing.assert_allclose(raw, expected, atol=1e-5)
    unit = client.feature_extraction(INPUTS[0])
    np.testing.assert_allclose(
        unit, expected[:1] / np.linalg.norm(expected[:1], axis=1, keepdims=True), atol=1e-5
    )


def test_client_of_huggingface_hub_cuts_long_texts_on_request(world: World) -> None:
    client = InferenceClient(f"{world.url}/tei/minilm")
    text = "word " * 600
    with pytest.raises(HfHubHTTPError, match="422"):
        client.feature_extraction(text)
    rows = client.feature_extraction(text, truncate=True, truncation_direction="right")
    assert rows.shape == (1, 384)


def test_images_are_embedded(world: World) -> None:
    images = [to_base64(image) for image in world.images[:3]]
    body = {"inputs": images, "normalize": False}
    rows = world.http.post("/tei/lite/embed", json=body).json()
    np.testing.assert_allclose(rows, own_rows(world, "lite", images), atol=1e-5)


def test_info_describes_the_model_without_its_path(world: World) -> None:
    info = world.http.get("/tei/BAAI/bge:latest/info").json()
    assert info["model_id"] == "minilm"
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (info["max_input_length"], info["max_client_batch_size"]) == (256, 40)
    images = world.http.get("/tei/lite/info").json()
    assert images["max_input_length"] is None
    assert images["model_type"] == {"embedding": {"pooling": "image"}}


@pytest.mark.parametrize(("model", "status"), [("minilm", 200), ("nobody", 404), ("turned", 422)])
def test_health_is_that_of_the_model(world: World, model: str, status: int) -> None:
    assert world.http.get(f"/tei/{model}/health").status_code == status


@pytest.mark.parametrize(
    ("model", "fields", "status", "message"),
    [
        ("minilm", {"inputs": ""}, 422, "not empty (at /inputs/0)"),
        ("minilm", {"inputs": []}, 422, "non-empty list of texts, got an empty list"),
        ("minilm", {"inputs": ["a", "word " * 600]}, 422, "256 tokens"),
        ("minilm", {"inputs": ["a"] * 41}, 413, "at most 40"),
        ("minilm", {"truncation_direction": "Left"}, 422, "truncation_direction"),
        ("minilm", {"prompt_name": "query"}, 422, "(at /prompt_name)"),
        ("minilm", {"dimensions": 3}, 422, "may be cut to 3"),
        ("minilm", {"normalize": "yes"}, 422, "normalize"),
        ("minilm", {"parameters": {"truncate": True}}, 422, "beside `inputs`"),
        ("nobody", {}, 404, "nobody"),
        ("turned", {}, 422, "no encoder"),
        ("minilm/predict", {}, 422, "expected an id"),
    ],
)
def test_invalid_request_has_the_error_of_the_protocol(
    world: World, model: str, fields: dict[str, Any], status: int, message: str
) -> None:
    response = world.http.post(f"/tei/{model}/embed", json={"inputs": "a", **fields})
    error = response.json()
    assert (response.status_code, error["error_type"]) == (status, "Validation")
    assert message in error["error"]


@pytest.mark.parametrize("path", ["info", "health"])
def test_paths_that_are_read_refuse_other_methods(world: World, path: str) -> None:
    response = world.http.post(f"/tei/minilm/{path}", json={"inputs": "a"})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


def test_unknown_fields_are_ignored(world: World) -> None:
    body = {"inputs": "a", "stream": False, "parameters": None}
    assert world.http.post("/tei/minilm/embed", json=body).status_code == 200
