"""Blank texts in a batch of the service's own routes: the batch fails, or that text alone."""

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from tests.integration.protocols.conftest import TEXTS, World, to_base64

pytestmark = pytest.mark.models

BLANK = {1, 3, 4}
ITEMS = [TEXTS[0], "", TEXTS[1], " \t", "\u3000", *TEXTS[2:9]]
PRESENT = [item for i, item in enumerate(ITEMS) if i not in BLANK]


def post(world: World, path: str, **fields: Any) -> httpx.Response:
    return world.http.post(path, json=fields)


@pytest.mark.parametrize("path", ["/embed/minilm", "/stitch/minilm/topic"])
def test_blank_text_fails_its_batch_by_default(world: World, path: str) -> None:
    response = post(world, path, items=ITEMS)
    assert (response.status_code, response.json()["pointer"]) == (422, "/items/1")


@pytest.mark.parametrize("fields", [{}, {"target": "turned"}])
def test_blank_texts_are_null_among_embeddings_on_request(
    world: World, fields: dict[str, str]
) -> None:
    body = post(world, "/embed/minilm", items=ITEMS, blank_texts="null", **fields).json()
    rows = body["embeddings"]
    assert {i for i, row in enumerate(rows) if row is None} == BLANK
    expected = post(world, "/embed/minilm", items=PRESENT, **fields).json()["embeddings"]
    np.testing.assert_allclose([row for row in rows if row is not None], expected, atol=1e-5)


def test_blank_texts_are_null_among_base64_rows(world: World) -> None:
    options = {"blank_texts": "null", "encoding_format": "base64"}
    rows = post(world, "/embed/minilm", items=["", TEXTS[0]], **options).json()["embeddings"]
    assert rows[0] is None
    assert len(base64.b64decode(rows[1])) == 4 * 384


def test_blank_texts_are_null_among_predictions_on_request(world: World) -> None:
    path = "/stitch/minilm/topic"
    predictions = post(world, path, items=ITEMS, blank_texts="null").json()["predictions"]
    assert {i for i, entry in enumerate(predictions) if entry is None} == BLANK
    labels = [entry["label"] for entry in predictions if entry is not None]
    expected = post(world, path, items=PRESENT).json()["predictions"]
    assert labels == [entry["label"] for entry in expected]


@pytest.mark.parametrize(
    ("path", "field"),
    [("/embed/minilm", "embeddings"), ("/stitch/minilm/topic", "predictions")],
)
def test_batch_of_blank_texts_is_null(world: World, path: str, field: str) -> None:
    assert post(world, path, items=["", " "], blank_texts="null").json()[field] == [None, None]


def test_indices_of_errors_and_warnings_are_those_of_the_request(world: World) -> None:
    long = "word " * 600
    response = post(world, "/embed/minilm", items=["", "a", long], blank_texts="null")
    assert (response.status_code, response.json()["pointer"]) == (422, "/items/2")
    fields = {"truncate": True, "blank_texts": "null"}
    body = post(world, "/embed/minilm", items=["", "a", long], **fields).json()
    assert body["truncated"] == [2]


def test_rows_that_cannot_be_null_are_refused(world: World) -> None:
    response = world.http.post(
        "/embed/minilm",
        json={"items": ["", "a"], "blank_texts": "null"},
        headers={"Accept": "application/x-npy"},
    )
    assert (response.status_code, response.json()["pointer"]) == (422, "/blank_texts")
    assert "application/json" in response.json()["detail"]
    accept = "application/x-npy, application/json;q=0.5"
    response = world.http.post(
        "/embed/minilm",
        json={"items": ["", "a"], "blank_texts": "null"},
        headers={"Accept": accept},
    )
    assert response.json()["embeddings"][0] is None


def test_images_are_never_blank(world: World) -> None:
    items = [to_base64(world.images[0]), ""]
    response = post(world, "/embed/lite", items=items, blank_texts="null")
    assert (response.status_code, response.json()["pointer"]) == (415, "/items/1")


PATHS = ["/embed/minilm", "/stitch/minilm/topic", "/v1/embeddings"]


def fields(path: str, texts: list[str]) -> dict[str, Any]:
    """A request for texts, of which blank ones are null."""
    own = {"model": "minilm", "input": texts} if path.startswith("/v1") else {"items": texts}
    return {**own, "blank_texts": "null"}


@pytest.mark.parametrize("path", PATHS)
def test_blank_texts_count_among_the_items_of_a_request(world: World, path: str) -> None:
    limit = world.http.get("/info").json()["limits"]["max_items"]
    for first in ("", TEXTS[0]):
        body = fields(path, [first] + [""] * limit)
        response = world.http.post(path, json=body)
        assert response.status_code == (400 if path.startswith("/v1") else 413), response.text
        assert f"at most {limit} items (max_items), got {limit + 1}" in response.text


@pytest.mark.parametrize("path", PATHS)
def test_input_type_is_checked_if_all_texts_are_blank(world: World, path: str) -> None:
    response = world.http.post(path, json={**fields(path, [""]), "input_type": "nope"})
    assert response.status_code == (400 if path.startswith("/v1") else 422), response.text
    assert "input_type" in response.text
