"""Errors in the shapes of other protocols: what their clients make of them."""

from typing import Any

import httpx
import openai
import orjson
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from stitchwork.api.problem_details import error_response, problem_response
from stitchwork.errors import (
    AnchorSetMismatchError,
    DeadlineExceededError,
    InputTooLargeError,
    NotReadyError,
    QueueFullError,
    RegistryUnavailableError,
    StitchworkError,
    UnknownResourceError,
    UnsupportedFormatError,
)
from tests.conftest import Pair


@pytest.mark.parametrize(
    ("error", "status", "type_", "code", "retry"),
    [
        (QueueFullError("full"), 429, "requests", "rate_limit_exceeded", "1"),
        (RegistryUnavailableError("away"), 503, "server_error", "registry-unavailable", "2"),
        (NotReadyError("soon"), 503, "server_error", "not-ready", "1"),
        (DeadlineExceededError("late"), 504, "server_error", "deadline-exceeded", None),
        (AnchorSetMismatchError("no"), 400, "invalid_request_error", "anchor-set-mismatch", None),
        (UnknownResourceError("who"), 404, "invalid_request_error", "model_not_found", None),
        (UnsupportedFormatError("what"), 400, "invalid_request_error", "unsupported-format", None),
        (InputTooLargeError("much"), 400, "invalid_request_error", "input-too-large", None),
    ],
)
def test_every_kind_of_error_as_openai_says_it(
    error: StitchworkError, status: int, type_: str, code: str, retry: str | None
) -> None:
    answer = error_response(error, "r", path="/v1/embeddings")
    told = orjson.loads(answer.body)["error"]
    assert (answer.status_code, told["type"], told["code"]) == (status, type_, code)
    assert (told["message"], answer.headers.get("retry-after")) == (error.message, retry)


def test_keys_as_both_protocols_say_it() -> None:
    told: dict[str, Any] = {"headers": {"WWW-Authenticate": "Bearer"}}
    answer = problem_response(
        401, "unauthenticated", "expected a key", "r", path="/v1/models", **told
    )
    assert orjson.loads(answer.body)["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    answer = problem_response(403, "insufficient-scope", "expected a key", "r", path="/v2", **told)
    assert (answer.status_code, orjson.loads(answer.body)) == (403, {"error": "expected a key"})


@pytest.mark.parametrize("path", ["", "/", "/v1x", "/v2x/y", "/v", "/spaces/v1", "/V1"])
def test_other_paths_keep_their_own_shape(path: str) -> None:
    assert (
        problem_response(404, "unknown-resource", "no", "r", path=path).media_type
        == "application/problem+json"
    )


def test_without_a_worker(url: str, http: httpx.Client, pair: Pair) -> None:
    encoder = {"kind": "transformers", "model": "nobody/has-it"}
    given = {"anchor_set": "foreign", "anchors": pair.x_anchors.tolist(), "encoder": encoder}
    assert http.put("/spaces/given", json=given).status_code == 201
    items = {"modality": "text", "items": ["a", "b", "c"]}
    assert http.put("/anchor-sets/words", json=items).is_success
    pending = {"anchor_set": "words", "encoder": encoder}
    assert http.put("/spaces/pending", json=pending).status_code == 202
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        for model, code in (("given", "no-worker"), ("pending", "not-ready")):
            with pytest.raises(openai.InternalServerError) as refused:
                client.embeddings.create(model=model, input="a")
            assert (refused.value.status_code, refused.value.code) == (503, code)
            assert float(refused.value.response.headers["retry-after"]) >= 1
        assert "pending" not in {model.id for model in client.models.list()}
    with triton.InferenceServerClient(url.removeprefix("http://")) as server:
        assert server.is_server_live()
        assert not server.is_server_ready()
        assert not server.is_model_ready("embed:given")
        assert server.is_model_ready("translate:given:given")
        with pytest.raises(InferenceServerException, match="still being prepared") as told:
            server.get_model_metadata("embed:pending")
        assert told.value.status() == "409"
