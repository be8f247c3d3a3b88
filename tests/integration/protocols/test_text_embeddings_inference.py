"""Text Embeddings Inference: its paths, and the client of huggingface_hub, which is unmodified."""

from typing import Any

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stitchwork.models.packaged_encoders import minilm_folder
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
        ("minilm/similarity", {}, 404, "no path /tei/minilm/similarity"),
    ],
)
def test_invalid_request_has_the_error_of_the_protocol(
    world: World, model: str, fields: dict[str, Any], status: int, message: str
) -> None:
    response = world.http.post(f"/tei/{model}/embed", json={"inputs": "a", **fields})
    error = response.json()
    assert (response.status_code, error["error_type"]) == (status, "Validation")
    assert message in error["error"]


@pytest.mark.parametrize("path", ["predict", "rerank", "similarity", "embed_all", "embed_sparse"])
@pytest.mark.parametrize("model", ["minilm", "minilm->turned", "BAAI/bge:latest"])
def test_paths_that_are_not_offered_are_unknown(world: World, model: str, path: str) -> None:
    response = world.http.post(f"/tei/{model}/{path}", json={"inputs": "a"})
    assert response.status_code == 404
    assert f"no path /tei/{model}/{path}: a model is at" in response.json()["error"]
    assert "/embed, /tokenize, /decode, /info and /health" in response.json()["error"]


@pytest.mark.parametrize("path", ["info", "health"])
def test_paths_that_are_read_refuse_other_methods(world: World, path: str) -> None:
    response = world.http.post(f"/tei/minilm/{path}", json={"inputs": "a"})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


def test_unknown_fields_are_ignored(world: World) -> None:
    body = {"inputs": "a", "stream": False, "parameters": None}
    assert world.http.post("/tei/minilm/embed", json=body).status_code == 200


def tokenize(world: World, **fields: Any) -> httpx.Response:
    return world.http.post("/tei/minilm->turned/tokenize", json=fields)


def test_tokens_are_those_of_the_models_own_tokenizer(world: World) -> None:
    texts = ["Kein Zürich-Zug? embeddings!", *INPUTS]
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for adds in (True, False):
        lists = tokenize(world, inputs=texts, add_special_tokens=adds).json()
        encodings = [tokenizer.encode(text, add_special_tokens=adds) for text in texts]
        assert [[token["id"] for token in tokens] for tokens in lists] == [
            encoding.ids for encoding in encodings
        ]
    first = lists[0]
    assert "".join(token["text"] for token in first) == texts[0].replace(" ", "")
    assert all(texts[0][token["start"] : token["stop"]] == token["text"] for token in first)
    start, *_, end = tokenize(world, inputs=texts[0]).json()[0]
    special = {"special": True, "start": None, "stop": None}
    assert (start, end) == (
        {"id": 101, "text": "[CLS]"} | special,
        {"id": 102, "text": "[SEP]"} | special,
    )


def test_more_tokens_than_the_model_takes_are_counted(world: World) -> None:
    (tokens,) = tokenize(world, inputs="word " * 600).json()
    assert len(tokens) == 602


def test_requests_of_several_jobs_keep_their_order(world: World) -> None:
    texts = [f"{word} {i}" for i, word in enumerate(["river", "card", "dog"] * 9)]
    lists = tokenize(world, inputs=texts).json()
    assert ["".join(t["text"] for t in tokens if not t["special"]) for tokens in lists] == [
        text.replace(" ", "") for text in texts
    ]


def test_decoded_tokens_are_the_text_again(world: World) -> None:
    (tokens,) = tokenize(world, inputs="my card was stolen").json()
    ids = [token["id"] for token in tokens]
    path = "/tei/minilm/decode"
    assert world.http.post(path, json={"ids": ids}).json() == ["my card was stolen"]
    both = world.http.post(path, json={"ids": [ids, ids[:2]], "skip_special_tokens": False}).json()
    assert both == ["[CLS] my card was stolen [SEP]", "[CLS] my"]


@pytest.mark.parametrize(
    ("path", "fields", "status", "message"),
    [
        ("minilm/tokenize", {"inputs": [[1, 2]]}, 422, "a text, got token ids (at /inputs/0)"),
        ("minilm/tokenize", {"inputs": ["a", ""]}, 422, "not empty (at /inputs/1)"),
        ("minilm/tokenize", {"inputs": ["a"] * 41}, 413, "at most 40"),
        ("minilm/tokenize", {"inputs": "a" * 140_000}, 422, "131072 characters"),
        ("minilm/tokenize", {"inputs": ["a" * 130_000] * 9}, 413, "at most"),
        ("minilm/tokenize", {"inputs": "a", "prompt_name": "query"}, 422, "(at /prompt_name)"),
        ("minilm/tokenize", {}, 422, "inputs"),
        ("minilm/decode", {"ids": ["a"]}, 422, "a list of token ids, got a string (at /ids/0)"),
        ("minilm/decode", {"ids": []}, 422, "list of token ids, or of such lists, got an empty"),
        ("minilm/decode", {"ids": "a"}, 422, "list of token ids, or of such lists, got a string"),
        ("minilm/decode", {"ids": [[1], []]}, 422, "token ids, got an empty list (at /ids/1)"),
        ("minilm/decode", {"ids": [[1], 2]}, 422, "(at /ids/1)"),
        ("minilm/decode", {"ids": [True]}, 422, "a token id, got a boolean (at /ids/0)"),
        ("minilm/decode", {"ids": [[1], [40_000]]}, 422, "less than 30522, got 40000"),
        ("lite/tokenize", {"inputs": "a"}, 422, "embeds images"),
        ("turned/tokenize", {"inputs": "a"}, 422, "no encoder"),
        ("nobody/decode", {"ids": [1]}, 404, "nobody"),
    ],
)
def test_invalid_request_about_tokens_names_what_was_expected(
    world: World, path: str, fields: dict[str, Any], status: int, message: str
) -> None:
    response = world.http.post(f"/tei/{path}", json=fields)
    assert response.status_code == status
    assert message in response.json()["error"]
    assert str(minilm_folder()) not in response.text
