"""Errors in the formats of other protocols, as their clients report them."""

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
def test_errors_under_v1_have_the_openai_format(
    error: StitchworkError, status: int, type_: str, code: str, retry: str | None
) -> None:
    response = error_response(error, "r", path="/v1/embeddings")
    body = orjson.loads(response.body)["error"]
    assert (response.status_code, body["type"], body["code"]) == (status, type_, code)
    assert (body["message"], response.headers.get("retry-after")) == (error.message, retry)


def test_authentication_errors_have_the_format_of_their_protocol() -> None:
    options: dict[str, Any] = {"headers": {"WWW-Authenticate": "Bearer"}}
    response = problem_response(
        401, "unauthenticated", "expected a key", "r", path="/v1/models", **options
    )
    assert orjson.loads(response.body)["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    response = problem_response(
        403, "insufficient-scope", "expected a key", "r", path="/v2", **options
    )
    assert (response.status_code, orjson.loads(response.body)) == (403, {"error": "expected a key"})


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (QueueFullError("full"), 429, "Overloaded"),
        (NotReadyError("soon"), 409, "Validation"),
        (DeadlineExceededError("late"), 504, "Backend"),
        (InputTooLargeError("much"), 413, "Validation"),
    ],
)
def test_errors_under_tei_have_the_format_of_its_servers(
    error: StitchworkError, status: int, kind: str
) -> None:
    response = error_response(error, "r", path="/tei/minilm/embed")
    assert response.status_code == status
    assert orjson.loads(response.body) == {"error": error.message, "error_type": kind}


@pytest.mark.parametrize(
    "path", ["", "/", "/v1x", "/teix", "tei/x", "/v2x/y", "/v", "/spaces/v1", "/V1"]
)
def test_errors_of_other_paths_are_problem_json(path: str) -> None:
    assert (
        problem_response(404, "unknown-resource", "no", "r", path=path).media_type
        == "application/problem+json"
    )


def test_clients_of_other_protocols_report_a_service_without_a_worker(
    url: str, http: httpx.Client, pair: Pair
) -> None:
    encoder = {"kind": "transformers", "model": "sentence-transformers/nobody-has-it"}
    registered = {"anchor_set": "foreign", "anchors": pair.x_anchors.tolist(), "encoder": encoder}
    assert http.put("/spaces/given", json=registered).status_code == 201
    items = {"modality": "text", "items": ["a", "b", "c"]}
    assert http.put("/anchor-sets/words", json=items).is_success
    pending = {"anchor_set": "words", "encoder": encoder}
    assert http.put("/spaces/pending", json=pending).status_code == 202
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        for model, code in (("given", "no-worker"), ("pending", "not-ready")):
            with pytest.raises(openai.InternalServerError) as raised:
                client.embeddings.create(model=model, input="a")
            assert (raised.value.status_code, raised.value.code) == (503, code)
            assert float(raised.value.response.headers["retry-after"]) >= 1
        assert "pending" not in {model.id for model in client.models.list()}
    with triton.InferenceServerClient(url.removeprefix("http://")) as server:
        assert server.is_server_live()
        assert server.is_server_ready(), "without workers it still translates"
        assert not server.is_model_ready("embed:given")
        assert server.is_model_ready("translate:given:given")
        with pytest.raises(InferenceServerException, match="still being prepared") as unavailable:
            server.get_model_metadata("embed:pending")
        assert unavailable.value.status() == "409"
