"""OpenAI's embeddings API, spoken by OpenAI's own client to the real service."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from transformers import AutoTokenizer

from stitchwork.models.packaged_encoders import minilm_folder
from tests.integration.protocols.conftest import TEXTS, WIDTH, World, coded

pytestmark = pytest.mark.models

ASKED = [*TEXTS[3:12], "a text that no anchor is like, and somewhat longer than the others are"]


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key="unused", max_retries=0) as found:
        yield found


def embedded(world: World, **told: Any) -> NDArray[np.float64]:
    """The same texts by the service's own route."""
    answer = world.http.post("/embed/minilm", json={"items": ASKED, **told})
    return np.array(answer.json()["embeddings"])


def rows(answer: Any) -> NDArray[np.float64]:
    assert [told.index for told in answer.data] == list(range(len(answer.data)))
    return np.array([told.embedding for told in answer.data])


@pytest.mark.parametrize("encoding", ["default", "float", "base64"])
@pytest.mark.parametrize(
    ("model", "told", "width"),
    [("minilm", {}, 384), ("minilm->turned", {"target": "turned"}, WIDTH)],
)
def test_embeddings_are_those_of_our_own_route(
    world: World, client: openai.OpenAI, model: str, told: dict[str, str], width: int, encoding: str
) -> None:
    more: dict[str, Any] = {} if encoding == "default" else {"encoding_format": encoding}
    answer = client.embeddings.create(model=model, input=ASKED, user="u", dimensions=width, **more)
    if encoding == "base64":
        coded_rows: list[Any] = [told.embedding for told in answer.data]
        found = np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in coded_rows])
    else:
        found = rows(answer)
    np.testing.assert_allclose(found, embedded(world, **told), atol=1e-4)
    assert (answer.model, answer.object, found.shape) == (model, "list", (len(ASKED), width))


def test_usage_is_what_the_tokenizer_counts(client: openai.OpenAI) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    tokens = sum(len(ids) for ids in tokenizer(ASKED)["input_ids"])
    usage = client.embeddings.create(model="minilm", input=ASKED).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (tokens, tokens)
    cut = client.embeddings.create(
        model="minilm", input="word " * 600, extra_body={"truncate": True}
    )
    assert cut.usage.prompt_tokens == 256


def test_one_text_and_another_bridge(world: World, client: openai.OpenAI) -> None:
    answer = client.embeddings.create(
        model="minilm->turned", input=ASKED[0], extra_body={"bridge": "irp"}
    )
    expected = embedded(world, target="turned", bridge="irp")[:1]
    np.testing.assert_allclose(rows(answer), expected, atol=1e-5)


def test_the_async_client(world: World) -> None:
    async def ask() -> NDArray[np.float64]:
        async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="unused") as client:
            calls = [client.embeddings.create(model="minilm", input=text) for text in ASKED]
            return np.concatenate([rows(answer) for answer in await asyncio.gather(*calls)])

    np.testing.assert_allclose(asyncio.run(ask()), embedded(world), atol=1e-5)


def test_images_as_base64(world: World, client: openai.OpenAI) -> None:
    files = [coded(image) for image in world.images[:3]]
    answer = client.embeddings.create(model="lite", input=files)
    expected = world.http.post("/embed/lite", json={"items": files}).json()["embeddings"]
    np.testing.assert_allclose(rows(answer), expected, atol=1e-5)
    assert answer.usage.prompt_tokens == 0


def test_models(client: openai.OpenAI) -> None:
    found = [model.id for model in client.models.list()]
    assert {"minilm", "minilm->turned", "lite"} <= set(found)
    assert not {"turned", "turned->minilm", "minilm->lite"} & set(found), "no encoder, other set"
    for name in found:
        assert client.models.retrieve(name).id == name
    told = client.models.with_raw_response.retrieve("minilm->turned")
    assert (told.parse().model_extra or {})["dimensions"] == WIDTH
    assert told.headers["stitchwork-target"].startswith("turned@")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("text-embedding-3-small")


@pytest.mark.parametrize(
    ("told", "code", "param", "said"),
    [
        ({"input": ""}, "invalid-input", "input[0]", "not empty"),
        ({"input": []}, "invalid-input", "input", "non-empty list"),
        ({"input": ["a", " "]}, "invalid-input", "input[1]", "not empty"),
        ({"input": [1, 2, 3]}, "token-ids", "input", "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, "token-ids", "input", "check_embedding_ctx_length=False"),
        ({"input": ["a", "word " * 600]}, "context_length_exceeded", "input[1]", "256 tokens"),
        ({"input": [*"a" * 9, "x" * 10**6]}, "context_length_exceeded", "input[9]", "characters"),
        ({"input": ["a"] * 41}, "input-too-large", "input", "at most 40"),
        ({"dimensions": 100}, "invalid-input", "dimensions", "gives 384 numbers"),
        (
            {"model": "minilm->turned", "dimensions": 384},
            "invalid-input",
            "dimensions",
            "gives 256",
        ),
        ({"encoding_format": "hex"}, "invalid-input", "encoding_format", "base64"),
        ({"model": "a/b"}, "invalid-id", "model", "a/b"),
        ({"model": "minilm->turned->x"}, "invalid-id", "model", "turned->x"),
        ({"model": "minilm->lite"}, "anchor-set-mismatch", None, "same anchor set"),
        ({"model": "turned"}, "no-encoder", None, "no encoder"),
        ({"extra_body": {"instruction": "x"}}, "invalid-input", "instruction", "unknown field"),
    ],
)
def test_bad_requests(
    client: openai.OpenAI, told: dict[str, Any], code: str, param: str | None, said: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(**{"model": "minilm", "input": "a", **told})
    error = refused.value
    assert (error.type, error.code, error.param) == ("invalid_request_error", code, param)
    assert said in error.message
    assert error.request_id


def test_unknown_models_and_methods(world: World, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.embeddings.create(model="nobody", input="a")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    for name in ("nobody", "turned", "minilm->lite"):
        with pytest.raises(openai.NotFoundError) as unknown:
            client.models.retrieve(name)
        assert unknown.value.code == "model_not_found"
    for answer in (world.http.get("/v1/embeddings"), world.http.post("/v1/completions")):
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["content-type"] == "application/json"
    assert world.http.get("/v1/embeddings").headers["allow"] == "POST"


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[1]", b'{"input": NaN}', b"[" * 100_000])
def test_bytes_that_are_no_request(world: World, content: bytes) -> None:
    answer = world.http.post("/v1/embeddings", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_only_these_paths_have_their_envelope(world: World) -> None:
    form = world.http.post("/v1/embeddings", data={"input": "a"})
    assert (form.status_code, form.json()["error"]["code"]) == (400, "unsupported-format")
    for path in ("/v1x", "/nowhere/v1", "/translate/v1"):
        assert world.http.get(path).headers["content-type"] == "application/problem+json"


def test_a_deadline_is_what_the_client_may_retry(world: World) -> None:
    headers = {"X-Request-Timeout": "0.000001"}
    asked = {"model": "minilm", "input": "a"}
    late: httpx.Response = world.http.post("/v1/embeddings", json=asked, headers=headers)
    assert (late.status_code, late.json()["error"]["type"]) == (504, "server_error")
