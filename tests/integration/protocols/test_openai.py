"""OpenAI's embeddings API: OpenAI's client and raw HTTP against a running service."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from openai.types import CreateEmbeddingResponse
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from stitchwork.models.packaged_encoders import minilm_folder
from tests.integration.protocols.conftest import TEXTS, WIDTH, World, to_base64
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

INPUTS = [*TEXTS[3:12], "a text that no anchor is like, and somewhat longer than the others are"]


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def embed(world: World, **fields: Any) -> NDArray[np.float64]:
    """Embeddings of `INPUTS` by the service's own route."""
    body = world.http.post("/embed/minilm", json={"items": INPUTS, **fields}).json()
    return np.array(body["embeddings"])


def rows(response: CreateEmbeddingResponse) -> NDArray[np.float64]:
    assert [row.index for row in response.data] == list(range(len(response.data)))
    return np.array([row.embedding for row in response.data])


@pytest.mark.parametrize("encoding", ["default", "float", "base64"])
@pytest.mark.parametrize(
    ("model", "fields", "width"),
    [("minilm", {}, 384), ("minilm->turned", {"target": "turned"}, WIDTH)],
)
def test_embeddings_in_any_encoding_equal_those_of_the_embed_route(
    world: World,
    client: openai.OpenAI,
    model: str,
    fields: dict[str, str],
    width: int,
    encoding: str,
) -> None:
    options: dict[str, Any] = {} if encoding == "default" else {"encoding_format": encoding}
    response = client.embeddings.create(
        model=model, input=INPUTS, user="u", dimensions=width, **options
    )
    if encoding == "base64":
        encoded: list[Any] = [row.embedding for row in response.data]
        embeddings = np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in encoded])
    else:
        embeddings = rows(response)
    np.testing.assert_allclose(embeddings, embed(world, **fields), atol=1e-4)
    assert (response.model, response.object) == (model, "list")
    assert embeddings.shape == (len(INPUTS), width)


def test_token_ids_of_the_models_tokenizer_are_embedded_as_their_texts(
    world: World, client: openai.OpenAI
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    ids: list[list[int]] = tokenizer(INPUTS)["input_ids"]
    response = client.embeddings.create(model="minilm", input=ids)
    np.testing.assert_allclose(rows(response), embed(world), atol=1e-5)
    assert response.usage.prompt_tokens == sum(map(len, ids))
    single = client.embeddings.create(model="minilm->turned", input=ids[0])
    np.testing.assert_allclose(rows(single), embed(world, target="turned")[:1], atol=1e-4)
    mixed: list[Any] = [INPUTS[0], ids[1]]
    response = client.embeddings.create(model="minilm", input=mixed)
    np.testing.assert_allclose(rows(response), embed(world)[:2], atol=1e-5)


def test_token_ids_that_are_too_many_are_cut_like_their_text(client: openai.OpenAI) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    text = "the river is broad " * 200
    ids = tokenizer(text, verbose=False)["input_ids"]
    cut, expected = (
        client.embeddings.create(model="minilm", input=value, extra_body={"truncate": True})
        for value in (ids, text)
    )
    np.testing.assert_allclose(rows(cut), rows(expected), atol=1e-5)
    assert cut.usage.prompt_tokens == 256


def test_usage_of_texts_is_the_number_of_tokens(client: openai.OpenAI) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    tokens = sum(len(ids) for ids in tokenizer(INPUTS)["input_ids"])
    usage = client.embeddings.create(model="minilm", input=INPUTS).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (tokens, tokens)


def test_usage_of_a_truncated_text_is_the_limit_of_tokens(client: openai.OpenAI) -> None:
    response = client.embeddings.create(
        model="minilm", input="word " * 600, extra_body={"truncate": True}
    )
    assert response.usage.prompt_tokens == 256


def test_embeddings_of_one_text_use_the_bridge_of_the_request(
    world: World, client: openai.OpenAI
) -> None:
    response = client.embeddings.create(
        model="minilm->turned", input=INPUTS[0], extra_body={"bridge": "irp"}
    )
    expected = embed(world, target="turned", bridge="irp")[:1]
    np.testing.assert_allclose(rows(response), expected, atol=1e-5)


def test_async_client_with_concurrent_requests_gets_each_result(world: World) -> None:
    async def run() -> NDArray[np.float64]:
        async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="unused") as client:
            calls = [client.embeddings.create(model="minilm", input=text) for text in INPUTS]
            return np.concatenate([rows(response) for response in await asyncio.gather(*calls)])

    np.testing.assert_allclose(asyncio.run(run()), embed(world), atol=1e-5)


def test_embeddings_of_images_in_base64_equal_those_of_the_embed_route(
    world: World, client: openai.OpenAI
) -> None:
    images = [to_base64(image) for image in world.images[:3]]
    response = client.embeddings.create(model="lite", input=images)
    expected = world.http.post("/embed/lite", json={"items": images}).json()["embeddings"]
    np.testing.assert_allclose(rows(response), expected, atol=1e-5)
    assert response.usage.prompt_tokens == 0


def test_models_are_spaces_with_an_encoder_and_their_pairs(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"minilm", "minilm->turned", "lite", "BAAI/bge:latest"} <= set(names)
    assert not {"turned", "turned->minilm", "minilm->lite"} & set(names), "no encoder, other set"
    for name in names:
        assert client.models.retrieve(name).id == name


def test_model_of_a_pair_has_dimensions_and_version_of_the_target(client: openai.OpenAI) -> None:
    response = client.models.with_raw_response.retrieve("minilm->turned")
    assert (response.parse().model_extra or {})["dimensions"] == WIDTH
    assert response.headers["stitchwork-target"].startswith("turned@")


@pytest.fixture(scope="module")
def shortened(world: World) -> Iterator[str]:
    """A space whose encoder is made to be cut to 64 and 128 dimensions."""
    encoder = {"kind": "transformers", "model": str(minilm_folder()), "matryoshka": [64, 128]}
    body = {"anchor_set": "texts", "encoder": encoder}
    assert world.http.put("/spaces/shortened", json=body).is_success
    wait_until("the space is ready", lambda: state(world, "shortened") == "ready", 60)
    yield "shortened"
    world.http.delete("/spaces/shortened")


def state(world: World, space: str) -> str:
    status: str = world.http.get(f"/spaces/{space}").json()["status"]
    return status


def test_embeddings_are_cut_to_dimensions_that_the_encoder_is_made_for(
    world: World, client: openai.OpenAI, shortened: str
) -> None:
    model = SentenceTransformer(str(minilm_folder()), device="cpu", truncate_dim=64)
    response = client.embeddings.create(model=shortened, input=INPUTS, dimensions=64)
    expected = model.encode(INPUTS, normalize_embeddings=True)
    np.testing.assert_allclose(rows(response), expected, atol=1e-5)
    response = client.embeddings.create(model=f"minilm->{shortened}", input=INPUTS, dimensions=128)
    translated = embed(world, target=shortened)[:, :128]
    translated /= np.linalg.norm(translated, axis=1, keepdims=True)
    np.testing.assert_allclose(rows(response), translated, atol=1e-5)
    whole = client.embeddings.create(model=shortened, input=INPUTS, dimensions=384)
    np.testing.assert_allclose(rows(whole), embed(world), atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="expected one of 64, 128"):
        client.embeddings.create(model=shortened, input=INPUTS, dimensions=65)
    with pytest.raises(openai.BadRequestError, match="expected at most 384 dimensions"):
        client.embeddings.create(model=shortened, input=INPUTS, dimensions=512)


@pytest.mark.parametrize(
    ("fields", "code", "param", "message"),
    [
        ({"input": ""}, "invalid-input", "input[0]", "not empty"),
        ({"input": []}, "invalid-input", "input", "non-empty list"),
        ({"input": ["a", " "]}, "invalid-input", "input[1]", "not empty"),
        ({"input": [1, 2, 3]}, "token-ids", "input[0]", "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, "token-ids", "input[0]", "check_embedding_ctx_length=False"),
        (
            {"input": ["a", [7592, 2088]]},
            "token-ids",
            "input[1]",
            "the tokenizer of the model of space minilm, which begin with 101 and end with 102",
        ),
        ({"input": [101, 30522, 102]}, "token-ids", "input[0]", "less than 30522"),
        ({"input": [101, 102]}, "invalid-input", "input[0]", "not empty"),
        ({"input": [[]]}, "invalid-input", "input[0]", "not empty"),
        ({"input": [101, -1, 102]}, "invalid-input", "input[0][1]", "expected a token id, got -1"),
        ({"input": [[101, True, 102]]}, "invalid-input", "input[0][1]", "got a boolean"),
        ({"input": [[101, 2**31, 102]]}, "invalid-input", "input[0][1]", "expected a token id"),
        (
            {"input": [101, *[7592] * 300, 102]},
            "context_length_exceeded",
            "input[0]",
            "256 tokens for",
        ),
        ({"model": "lite", "input": [101, 102]}, "token-ids", "input[0]", "expected an image"),
        ({"input": ["a", "word " * 600]}, "context_length_exceeded", "input[1]", "256 tokens"),
        ({"input": [*"a" * 9, "x" * 10**6]}, "context_length_exceeded", "input[9]", "characters"),
        ({"input": ["a"] * 41}, "input-too-large", "input", "at most 40"),
        ({"dimensions": 100}, "invalid-input", "dimensions", "may be cut to 100"),
        (
            {"model": "minilm->turned", "dimensions": 384},
            "invalid-input",
            "dimensions",
            "expected 256 dimensions",
        ),
        ({"encoding_format": "hex"}, "invalid-input", "encoding_format", "base64"),
        ({"model": "a/b"}, "invalid-id", "model", "a/b"),
        ({"model": "minilm->turned->x"}, "invalid-id", "model", "turned->x"),
        ({"model": "minilm->lite"}, "anchor-set-mismatch", None, "same anchor set"),
        ({"model": "turned"}, "no-encoder", None, "no encoder"),
        ({"input": [{"type": "audio"}]}, "invalid-input", "input[0]", "another object"),
        (
            {
                "input": [
                    "a",
                    {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
                ]
            },
            "invalid-input",
            "input[1]",
            "the encoder takes texts, got an image",
        ),
        (
            {"input": [{"type": "image_url", "image_url": "data:image/png;base64,AAAA"}]},
            "invalid-input",
            "input[0]",
            "got an image",
        ),
        (
            {"input": [{"type": "text", "text": "a", "image_url": {"url": "https://b.example"}}]},
            "invalid-input",
            "input[0]",
            "an object with both",
        ),
        ({"input": [True]}, "invalid-input", "input[0]", "expected a text, got a boolean"),
        ({"extra_body": {"instruction": "x"}}, "invalid-input", "instruction", "input_type"),
        ({"extra_body": {"normalized": True}}, "invalid-input", "normalized", "length"),
        ({"extra_body": {"output_dtype": "int8"}}, "invalid-input", "output_dtype", "float or"),
        ({"extra_body": {"truncate": "START"}}, "invalid-input", "truncate", "'END' or 'NONE'"),
        (
            {"extra_body": {"truncate_prompt_tokens": 9}},
            "invalid-input",
            "truncate_prompt_tokens",
            "-1",
        ),
        ({"extra_body": {"model": None}}, "invalid-input", "model", "expected a model, got none"),
    ],
)
def test_embeddings_of_an_invalid_request_are_refused(
    client: openai.OpenAI, fields: dict[str, Any], code: str, param: str | None, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(**{"model": "minilm", "input": "a", **fields})
    error = raised.value
    assert (error.type, error.code, error.param) == ("invalid_request_error", code, param)
    assert message in error.message
    assert str(minilm_folder()) not in error.message, "callers need not know where models are"
    assert error.request_id


def test_null_means_absent_and_unknown_fields_are_ignored_and_counted(world: World) -> None:
    def ignored() -> float:
        text = world.http.get("/metrics").text
        return sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("stitchwork_ignored_fields_total")
        )

    plain = world.http.post("/v1/embeddings", json={"model": "minilm", "input": INPUTS}).json()
    before = ignored()
    optional = ("encoding_format", "dimensions", "user", "input_type", "task", "bridge", "truncate")
    body = {"model": "minilm", "input": INPUTS, **dict.fromkeys(optional), "normalize": False}
    others = {"priority": 3, "request_id": "r", "stream": False, "extra": {"a": [1]}, "none": None}
    response = world.http.post("/v1/embeddings", json=body | others)
    assert response.status_code == 200, response.text
    embeddings, expected = (
        np.array([row["embedding"] for row in answer["data"]])
        for answer in (response.json(), plain)
    )
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert ignored() - before == 5


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_blank_texts_have_no_embedding_where_the_client_allows_it(
    world: World, client: openai.OpenAI, encoding: Any
) -> None:
    texts = ["", INPUTS[0], " \n", *INPUTS[1:], "\t"]
    response = client.embeddings.create(
        model="minilm",
        input=texts,
        encoding_format=encoding,
        extra_body={"blank_texts": "null"},
    )
    assert [row.index for row in response.data] == list(range(len(texts)))
    for text, row in zip(texts, response.data, strict=True):
        assert (row.embedding is None) == (not text.strip())
        error = (row.model_extra or {}).get("error")
        assert error == (None if text.strip() else "expected a text that is not empty")
    present: list[Any] = [row.embedding for row in response.data if row.embedding is not None]
    if encoding == "base64":
        present = [np.frombuffer(base64.b64decode(row), "<f4") for row in present]
    np.testing.assert_allclose(present, embed(world), atol=1e-5)


def test_batch_of_blank_texts_has_no_embedding(client: openai.OpenAI) -> None:
    response = client.embeddings.create(
        model="minilm", input=["", " "], extra_body={"blank_texts": "null"}
    )
    assert [row.embedding for row in response.data] == [None, None]
    assert response.usage.total_tokens == 0


def test_error_beside_blank_texts_names_the_index_in_the_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(
            model="minilm",
            input=["", "a", "", "word " * 600],
            extra_body={"blank_texts": "null"},
        )
    assert raised.value.param == "input[3]"


def test_parts_of_messages_and_data_uris_are_inputs(world: World, client: openai.OpenAI) -> None:
    parts: list[Any] = [{"type": "text", "text": text} for text in INPUTS]
    response = client.embeddings.create(model="minilm", input=parts)
    np.testing.assert_allclose(rows(response), embed(world), atol=1e-5)
    images = [to_base64(image) for image in world.images[:4]]
    expected = world.http.post("/embed/lite", json={"items": images}).json()["embeddings"]
    uri = "data:image/png;base64," + images[0]
    wrapped = base64.encodebytes(world.images[1]).decode()
    inputs: list[Any] = [
        uri,
        wrapped,
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + images[2]}},
        {"type": "image_url", "image_url": "data:;base64," + images[3]},
    ]
    response = client.embeddings.create(model="lite", input=inputs)
    np.testing.assert_allclose(rows(response), expected, atol=1e-5)


@pytest.mark.parametrize("truncate", [{"truncate": "END"}, {"truncate_prompt_tokens": -1}])
def test_texts_are_cut_by_the_options_of_other_servers(
    client: openai.OpenAI, truncate: dict[str, Any]
) -> None:
    text = "word " * 600
    response = client.embeddings.create(model="minilm", input=text, extra_body=truncate)
    assert response.usage.prompt_tokens == 256


def test_aliases_are_other_names_of_models(world: World, client: openai.OpenAI) -> None:
    response = client.embeddings.create(model="BAAI/bge:latest", input=INPUTS)
    np.testing.assert_allclose(rows(response), embed(world, target="turned"), atol=1e-5)
    assert response.model == "BAAI/bge:latest"
    assert client.models.retrieve("BAAI/bge:latest").id == "BAAI/bge:latest"


def test_embeddings_of_an_unknown_model_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.embeddings.create(model="nobody", input="a")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("name", ["nobody", "turned", "minilm->lite", "text-embedding-3-small"])
def test_model_that_cannot_be_used_is_unknown(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve(name)
    assert raised.value.code == "model_not_found"


def test_unknown_path_and_method_have_the_envelope_of_openai(world: World) -> None:
    for response in (world.http.get("/v1/embeddings"), world.http.post("/v1/completions")):
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert response.headers["content-type"] == "application/json"
    assert world.http.get("/v1/embeddings").headers["allow"] == "POST"


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[1]", b'{"input": NaN}', b"[" * 100_000])
def test_body_that_is_not_a_json_object_is_refused(world: World, content: bytes) -> None:
    response = world.http.post("/v1/embeddings", content=content)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_form_body_is_refused_in_the_envelope_of_openai(world: World) -> None:
    response = world.http.post("/v1/embeddings", data={"input": "a"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported-format")


@pytest.mark.parametrize("path", ["/v1x", "/nowhere/v1", "/translate/v1"])
def test_path_that_only_resembles_openai_has_problem_json(world: World, path: str) -> None:
    assert world.http.get(path).headers["content-type"] == "application/problem+json"


def test_embeddings_after_the_timeout_are_a_server_error(world: World) -> None:
    headers = {"X-Request-Timeout": "0.000001"}
    body = {"model": "minilm", "input": "a"}
    response = world.http.post("/v1/embeddings", json=body, headers=headers)
    assert (response.status_code, response.json()["error"]["type"]) == (504, "server_error")
