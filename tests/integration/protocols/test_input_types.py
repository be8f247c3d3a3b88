"""Prompts that `input_type` and `task` select, and lengths of rows that an encoder computes."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from stitchwork.client import Stitchwork
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import Floats
from tests.integration.protocols.conftest import TEXTS, World

pytestmark = pytest.mark.models

INPUTS = [*TEXTS[3:12], "which train goes to the coast?"]
PROMPTS = {"query": "query: ", "passage": "passage: "}
"""The prompts of e5, whose files do not name them."""


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[Stitchwork]:
    """A client; the space `prompted` has the anchors and the model of `minilm`, and prompts."""
    with Stitchwork(world.url) as client:
        encoder = {"kind": "transformers", "model": str(minilm_folder()), "prompts": PROMPTS}
        client.put_space("prompted", "texts", encoder=encoder)
        client.wait("spaces", "prompted")
        yield client


def expected_rows(client: Stitchwork, prompt: str, **fields: Any) -> Floats:
    """Rows of the inputs with a prompt as part of their text, by the space without prompts."""
    return client.embed("minilm", [prompt + text for text in INPUTS], **fields)


def assert_equal(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_embed_route_takes_an_input_type_and_names_the_prompt(
    world: World, client: Stitchwork
) -> None:
    body = {"items": INPUTS, "input_type": "search_query"}
    response = world.http.post("/embed/prompted", json=body)
    assert response.headers["stitchwork-prompt"] == response.json()["prompt_name"] == "query"
    assert_equal(response.json()["embeddings"], expected_rows(client, "query: "))
    plain = world.http.post("/embed/prompted", json={"items": INPUTS})
    assert "prompt_name" not in plain.json()
    assert "stitchwork-prompt" not in plain.headers
    assert_equal(plain.json()["embeddings"], expected_rows(client, ""))
    record = client.get("spaces", "prompted")
    assert (record["encoder"]["prompts"], record["encoder"]["prompt"]) == (PROMPTS, "")


def test_translated_queries_are_those_of_the_prompted_texts(client: Stitchwork) -> None:
    rows = client.embed("prompted", INPUTS, "turned", input_type="query")
    np.testing.assert_allclose(rows, expected_rows(client, "query: ", target="turned"), atol=1e-3)


def test_stitch_route_takes_an_input_type(world: World, client: Stitchwork) -> None:
    body = {"items": INPUTS, "input_type": "retrieval.passage"}
    response = world.http.post("/stitch/prompted/topic", json=body)
    assert response.json()["prompt_name"] == "passage"
    expected = client.stitch("minilm", "topic", [f"passage: {text}" for text in INPUTS])
    actual = client.stitch("prompted", "topic", INPUTS, input_type="document")
    for prediction, other, third in zip(
        response.json()["predictions"], expected, actual, strict=True
    ):
        assert prediction["label"] == other["label"] == third["label"]
        assert prediction["score"] == pytest.approx(other["score"], abs=1e-3)
        assert prediction["score"] == pytest.approx(third["score"], abs=1e-5)


@pytest.mark.parametrize("field", ["input_type", "task"])
def test_openai_clients_may_send_the_extensions_of_other_services(
    world: World, client: Stitchwork, field: str
) -> None:
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key="unused") as openai_client:
        response = openai_client.embeddings.with_raw_response.create(
            model="prompted",
            input=INPUTS,
            encoding_format="float",
            extra_body={field: "retrieval.query"},
        )
    assert response.headers["stitchwork-prompt"] == "query"
    rows = [row.embedding for row in response.parse().data]
    assert_equal(rows, expected_rows(client, "query: "))


def test_inference_protocol_takes_an_input_type(world: World, client: Stitchwork) -> None:
    tensor = {"name": "items", "shape": [len(INPUTS)], "datatype": "BYTES", "data": INPUTS}
    body = {"inputs": [tensor], "parameters": {"input_type": "query"}}
    response = world.http.post("/v2/models/embed:prompted/infer", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["stitchwork-prompt"] == "query"
    (output,) = response.json()["outputs"]
    assert_equal(np.reshape(output["data"], output["shape"]), expected_rows(client, "query: "))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed/prompted", {"items": INPUTS, "input_type": "clustering"}),
        ("/stitch/prompted/topic", {"items": INPUTS, "input_type": "clustering"}),
        ("/embed/prompted", {"items": INPUTS * 4, "input_type": "clustering"}),
    ],
)
def test_input_type_that_no_prompt_fits_is_refused_with_the_names(
    world: World, client: Stitchwork, path: str, body: dict[str, Any]
) -> None:
    response = world.http.post(path, json=body)
    problem = response.json()
    assert response.status_code == 422
    assert (problem["code"], problem["pointer"]) == ("unknown-prompt", "/input_type")
    assert "(query, passage), got 'clustering'" in problem["detail"]


def test_openai_error_names_the_field_that_was_sent(world: World, client: Stitchwork) -> None:
    body = {"model": "prompted", "input": INPUTS, "task": "clustering"}
    error = world.http.post("/v1/embeddings", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("unknown-prompt", "task")
    both = world.http.post("/v1/embeddings", json=body | {"input_type": "query"})
    assert both.status_code == 400
    assert "either input_type or task" in both.json()["error"]["message"]


def test_image_encoder_takes_no_input_type_but_image(world: World, client: Stitchwork) -> None:
    rows = client.embed("lite", world.images, input_type="image")
    assert_equal(rows, client.embed("lite", world.images))
    with pytest.raises(InvalidInputError, match="it has none") as raised:
        client.embed("lite", world.images, input_type="query")
    assert raised.value.code == ErrorCode.UNKNOWN_PROMPT


def test_head_is_evaluated_on_items_of_an_input_type(client: Stitchwork) -> None:
    predictions = client.stitch("prompted", "topic", TEXTS, input_type="query")
    labels = [prediction["label"] for prediction in predictions]
    report = client.evaluate_head("prompted", "topic", labels, items=TEXTS, input_type="query")
    assert report["translated"]["accuracy"] == 1.0


def test_rows_of_an_encoder_whose_lengths_do_not_fit_the_anchors_are_warned_of(
    world: World, client: Stitchwork
) -> None:
    rows = client.embed("minilm", TEXTS)
    client.put_anchor_set("texts-alone", size=len(TEXTS))
    encoder = {"kind": "transformers", "model": str(minilm_folder())}
    client.put_space("scaled", "texts-alone", anchors=rows * 7, encoder=encoder)
    client.put_space("scaled-target", "texts-alone", anchors=rows[:, ::-1] * 5)
    head = {"space": "scaled-target", "weight": np.eye(3, 384).tolist(), "labels": ["a", "b", "c"]}
    assert world.http.put("/heads/scaled-head", json=head).status_code == 201
    cause = (
        "embeddings of its encoder have length 1, the anchors of space scaled 7: the encoder "
        "normalises, the anchors were registered otherwise; register both alike"
    )
    # More than one job.
    for path in ("/stitch/scaled/scaled-head", "/embed/scaled"):
        response = world.http.post(path, json={"items": TEXTS})
        assert response.json()["warnings"][-1] == f"{len(TEXTS)} of {len(TEXTS)} {cause}"
        assert response.headers["stitchwork-mismatched-lengths"] == str(len(TEXTS))
    body = {"items": TEXTS[:4], "target": "scaled-target"}
    response = world.http.post("/embed/scaled", json=body)
    assert response.json()["warnings"][-1] == f"4 of 4 {cause}"
    openai_body = {"model": "scaled->scaled-target", "input": TEXTS[:4]}
    response = world.http.post("/v1/embeddings", json=openai_body)
    assert response.headers["stitchwork-mismatched-lengths"] == "4"
    sample = {"items": TEXTS[:6], "labels": ["a", "b", "c"] * 2}
    report = world.http.post("/compatibility/scaled/scaled-head", json=sample).json()
    assert f"6 of 6 {cause}" in report["warnings"]
    fitting = world.http.post("/embed/minilm", json={"items": TEXTS[:4]})
    assert json.loads(fitting.content)["warnings"] == []
    assert "stitchwork-mismatched-lengths" not in fitting.headers


def test_clients_that_always_send_an_input_type_use_a_model_with_empty_prompts(
    world: World, client: Stitchwork
) -> None:
    # Clients of NVIDIA's services do. Without prompts such a request would be refused.
    prompts = {"query": "", "passage": ""}
    encoder = {"kind": "transformers", "model": str(minilm_folder()), "prompts": prompts}
    client.put_space("unprompted", "texts", encoder=encoder)
    client.wait("spaces", "unprompted")
    for input_type in prompts:
        body: dict[str, Any] = {"model": "unprompted", "input": INPUTS, "input_type": input_type}
        body |= {"encoding_format": "float", "truncate": "NONE", "user": None}
        data = world.http.post("/v1/embeddings", json=body).json()["data"]
        rows = np.array([row["embedding"] for row in data], np.float32)
        assert_equal(rows, client.embed("minilm", INPUTS))
