"""`/v1/rerank`: the order of documents by the cosine of their embeddings and a query's."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from stitchwork.models.packaged_encoders import minilm_folder
from tests.integration.protocols.conftest import TEXTS, World, to_base64
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

QUERY = "the train is late again"
DOCUMENTS = TEXTS[:9]


def rerank(world: World, **fields: Any) -> dict[str, Any]:
    body = {"model": "minilm", "query": QUERY, "documents": DOCUMENTS, **fields}
    response = world.http.post("/v1/rerank", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["id"] == response.headers["x-request-id"]
    return answer


def scores(world: World, space: str, query: str, documents: list[str], **fields: Any) -> Any:
    """Cosines of embeddings by the service's own route."""
    items = [query, *documents]
    body = world.http.post(f"/embed/{space}", json={"items": items, **fields}).json()
    rows = np.array(body["embeddings"])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit[1:] @ unit[0]


@pytest.mark.parametrize(
    ("model", "fields"), [("minilm", {}), ("BAAI/bge:latest", {"target": "turned"})]
)
def test_relevance_of_documents_is_the_cosine_of_their_embeddings(
    world: World, model: str, fields: dict[str, Any]
) -> None:
    expected = scores(world, "minilm", QUERY, DOCUMENTS, **fields)
    answer = rerank(world, model=model)
    assert answer["model"] == model
    order = [result["index"] for result in answer["results"]]
    assert order == np.argsort(-expected, kind="stable").tolist()
    relevance = [result["relevance_score"] for result in answer["results"]]
    np.testing.assert_allclose(relevance, expected[order], atol=1e-5)


def test_path_of_cohere_version_2_has_the_same_results(world: World) -> None:
    body = {"model": "minilm", "query": QUERY, "documents": DOCUMENTS}
    response = world.http.post("/v2/rerank", json=body).json()
    assert response["results"] == rerank(world)["results"]
    assert "error" in world.http.post("/v2/rerank", json=body | {"query": ""}).json()


def test_top_results_come_with_their_documents(world: World) -> None:
    documents: list[Any] = [
        DOCUMENTS[0],
        {"text": DOCUMENTS[1]},
        {"type": "text", "text": DOCUMENTS[2]},
    ]
    answer = rerank(world, documents=documents, top_n=2, return_documents=True)
    assert len(answer["results"]) == 2
    for result in answer["results"]:
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}
    assert "document" not in rerank(world)["results"][0]


def test_images_are_ranked(world: World) -> None:
    images = [to_base64(image) for image in world.images[:4]]
    documents = [images[0], {"image": "data:image/png;base64," + images[1]}, images[2]]
    answer = rerank(world, model="lite", query=images[2], documents=documents)
    assert answer["results"][0]["index"] == 2
    assert answer["results"][0]["relevance_score"] == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def prompted(world: World) -> Iterator[str]:
    """A space whose encoder has a prompt for queries and one for documents."""
    prompts = {"query": "query: ", "document": "passage: "}
    encoder = {"kind": "transformers", "model": str(minilm_folder()), "prompts": prompts}
    body = {"anchor_set": "texts", "encoder": encoder}
    assert world.http.put("/spaces/prompted", json=body).is_success

    def is_ready() -> bool:
        status: str = world.http.get("/spaces/prompted").json()["status"]
        return status == "ready"

    wait_until("the space is ready", is_ready, 60)
    yield "prompted"
    world.http.delete("/spaces/prompted")


def test_query_and_documents_have_the_prompts_of_the_model(world: World, prompted: str) -> None:
    answer = rerank(world, model=prompted)
    prefixed = [f"passage: {text}" for text in DOCUMENTS]
    expected = scores(world, "minilm", f"query: {QUERY}", prefixed)
    relevance = {result["index"]: result["relevance_score"] for result in answer["results"]}
    np.testing.assert_allclose([relevance[i] for i in range(9)], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"query": " "}, "query", "not empty"),
        ({"query": 3}, "query", "expected a text, got a number"),
        ({"query": {"image": "AAAA"}}, "query", "the encoder takes texts, got an image"),
        ({"documents": ["a", {"image": "AAAA"}]}, "documents[1]", "got an image"),
        ({"documents": [{"text": "a", "image": "AAAA"}]}, "documents[0]", "an object with both"),
        ({"query": None}, "query", "expected a value, got none"),
        ({"documents": ["a", ""]}, "documents[1]", "not empty"),
        ({"documents": []}, "documents", "non-empty list"),
        ({"documents": "a"}, "documents", "list of documents"),
        ({"documents": ["a", "word " * 600]}, "documents[1]", "256 tokens"),
        ({"documents": ["a", {"title": "a"}]}, "documents[1]", "another object"),
        ({"documents": ["a"] * 41}, "documents", "at most 40"),
        ({"top_n": 0}, "top_n", "1"),
        ({"rank_fields": ["title"]}, "rank_fields", "the text of each document"),
        ({"max_tokens_per_doc": 99}, "max_tokens_per_doc", "truncate"),
        ({"model": None}, "model", "expected a model"),
        ({"model": "turned"}, None, "no encoder"),
    ],
)
def test_invalid_request_is_refused(
    world: World, fields: dict[str, Any], param: str | None, message: str
) -> None:
    body = {"model": "minilm", "query": QUERY, "documents": DOCUMENTS, **fields}
    response = world.http.post("/v1/rerank", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert message in error["message"]
