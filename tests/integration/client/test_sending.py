"""The client's handling of refusals, broken connections and timeouts, on a scripted peer."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

from stitchwork import errors
from stitchwork.client import AsyncStitchwork, ServiceError, Stitchwork
from stitchwork.errors import (
    DeadlineExceededError,
    InvalidInputError,
    StitchworkError,
    UnavailableError,
)

CUT = 0
"""In place of a status: the connection is closed without a response."""
SILENT = -1
"""In place of a status: no response until the client gives up."""


class Peer(ThreadingHTTPServer):
    """Answers requests in order with scripted responses.

    Attributes:
        answers: Status, body and headers of each response to come.
        requests: Request line and headers of each request so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers: list[tuple[int, Any, dict[str, str]]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []

    def script(self, *answers: int | tuple[int, str], retry_after: str | None = None) -> None:
        """Set the statuses of the next responses, each with the code of its error, if any."""
        self.requests.clear()
        self.answers.clear()
        for answer in answers:
            status, code = answer if isinstance(answer, tuple) else (answer, "some-code")
            body = {"code": code, "detail": "the reason"} if status >= 400 else {"id": "s"}
            headers = {} if retry_after is None or status < 400 else {"Retry-After": retry_after}
            self.answers.append((status, body, headers))


class Handler(BaseHTTPRequestHandler):
    server: Peer
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((f"{self.command} {self.path}", dict(self.headers)))
        status, fields, headers = self.server.answers.pop(0)
        if status in (CUT, SILENT):
            if status == SILENT:
                self.rfile.read(1)
            self.close_connection = True
            return
        body = json.dumps(fields).encode()
        self.send_response(status)
        for name, value in {
            **headers,
            "Content-Type": "application/problem+json",
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        thread = Thread(target=peer.serve_forever)
        thread.start()
        yield peer
        peer.shutdown()
        thread.join()


Call = Callable[[Any], Any]
Perform = Callable[..., Any]


def perform_sync(url: str, call: Call, **setup: Any) -> Any:
    with Stitchwork(url, **setup) as client:
        return call(client)


def perform_async(url: str, call: Callable[[Any], Awaitable[Any]], **setup: Any) -> Any:
    async def run() -> Any:
        async with AsyncStitchwork(url, **setup) as client:
            return await call(client)

    return asyncio.run(run())


both = pytest.mark.parametrize("perform", [perform_sync, perform_async])


@both
@pytest.mark.parametrize("refusal", [429, 503, CUT, (503, "no-worker")])
def test_transient_refusal_is_sent_again(peer: Peer, perform: Perform, refusal: Any) -> None:
    peer.script(refusal, refusal, 200, retry_after="0")
    assert perform(peer.url, lambda c: c.get("spaces", "s"))["id"] == "s"
    assert [line for line, _ in peer.requests] == ["GET /spaces/s"] * 3


@both
def test_retry_waits_for_retry_after(peer: Peer, perform: Perform) -> None:
    peer.script((429, "queue-full"), 200, retry_after="1")
    began = time.monotonic()
    perform(peer.url, lambda c: c.put_space("s", "S", anchors=np.ones((2, 2), np.float32)))
    assert time.monotonic() - began >= 1.0


@both
@pytest.mark.parametrize(
    "refusal", [400, 404, 409, 422, 500, 504, (503, "job-failed"), (503, "encoder-mismatch")]
)
def test_permanent_refusal_is_sent_once(peer: Peer, perform: Perform, refusal: Any) -> None:
    peer.script(refusal, retry_after="0")
    with pytest.raises(ServiceError, match="the reason"):
        perform(peer.url, lambda c: c.embed("s", ["a text"]))
    assert len(peer.requests) == 1


@both
def test_delete_is_not_sent_again_after_it_may_have_succeeded(peer: Peer, perform: Perform) -> None:
    peer.script(CUT)
    with pytest.raises(UnavailableError, match="was cut"):
        perform(peer.url, lambda c: c.delete("spaces", "s"))
    assert len(peer.requests) == 1
    peer.script((503, "registry-unavailable"), retry_after="0")
    with pytest.raises(UnavailableError, match="the reason"):
        perform(peer.url, lambda c: c.delete("spaces", "s"))
    peer.script(429, 204, retry_after="0")
    perform(peer.url, lambda c: c.delete("spaces", "s"))
    assert len(peer.requests) == 2


@both
def test_retries_are_limited(peer: Peer, perform: Perform) -> None:
    peer.script(*[(429, "queue-full")] * 3, retry_after="0")
    with pytest.raises(errors.QueueFullError) as refused:
        perform(peer.url, lambda c: c.info(), retries=2)
    assert len(peer.requests) == 3
    assert isinstance(refused.value, ServiceError)
    assert refused.value.status == 429


@both
def test_part_of_a_large_call_is_sent_again_for_the_timeout(peer: Peer, perform: Perform) -> None:
    limits = {"max_rows": 1000, "max_items": 100, "max_body_bytes": 10**6}
    rows, predictions = np.ones((65, 4), np.float32), [{"label": "a"}] * 65
    peer.script(200, *[(429, "queue-full")] * 3, 200, retry_after="0")
    peer.answers[0] = (200, {"limits": limits}, {})
    peer.answers[-1] = (200, {"predictions": predictions}, {})
    assert perform(peer.url, lambda c: c.classify("h", rows, "s"), retries=1) == predictions
    peer.script(200, *[(429, "queue-full")] * 9, retry_after="0")
    peer.answers[0] = (200, {"limits": limits}, {})
    with pytest.raises(errors.QueueFullError):
        perform(peer.url, lambda c: c.classify("h", rows, "s"), retries=1, timeout=0.2)
    # For as long as the timeout of a request, and at least as often as `retries`.
    assert 1 + 2 <= len(peer.requests) < 1 + 9


@both
def test_long_retry_after_raises_at_once(peer: Peer, perform: Perform) -> None:
    peer.script((429, "quota-exceeded"), retry_after="3600")
    with pytest.raises(ServiceError) as refused:
        perform(peer.url, lambda c: c.info())
    assert refused.value.retry_after == 3600
    assert len(peer.requests) == 1


@both
def test_silent_peer_ends_in_the_timeout(peer: Peer, perform: Perform) -> None:
    peer.script(SILENT)
    with pytest.raises(DeadlineExceededError, match=r"within 0.2 seconds"):
        perform(peer.url, lambda c: c.info(), timeout=0.2)
    assert peer.requests[0][1]["X-Request-Timeout"] == "0.2"


@both
def test_closed_port_is_unavailable(perform: Perform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UnavailableError, match="cannot be reached"):
        perform(f"http://127.0.0.1:{port}", lambda c: c.info(), retries=1)


@both
def test_refusal_of_a_part_ends_the_call(peer: Peer, perform: Perform) -> None:
    peer.script(*[422] * 9)
    rows = np.ones((9, 4), np.float32)
    with pytest.raises(InvalidInputError, match="the reason"):
        perform(peer.url, lambda c: c.classify("h", rows, "s"))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "unknown-resource", errors.UnknownResourceError),
        (409, "anchor-set-mismatch", errors.AnchorSetMismatchError),
        (422, "wrong-width", errors.InvalidInputError),
        (503, "encoder-mismatch", errors.UnavailableError),
        (500, "internal", StitchworkError),
    ],
)
def test_error_has_the_class_of_its_code(
    peer: Peer, status: int, code: str, kind: type[StitchworkError]
) -> None:
    peer.script((status, code))
    with pytest.raises(kind) as refused:
        perform_sync(peer.url, lambda c: c.info())
    assert isinstance(refused.value, ServiceError)
    assert (refused.value.status, refused.value.code) == (status, code)


def test_environment_sets_url_and_key(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHWORK_URL", peer.url)
    monkeypatch.setenv("STITCHWORK_KEY", "from-env")
    peer.script(200, 200)
    with Stitchwork() as client:
        client.info()
    with Stitchwork(key="argument") as client:
        client.info()
    keys = [headers["Authorization"] for _, headers in peer.requests]
    assert keys == ["Bearer from-env", "Bearer argument"]


@pytest.mark.parametrize("status", [200, 301, 502])
def test_response_of_another_program_raises(peer: Peer, status: int) -> None:
    peer.script(status)
    peer.answers = [(status, "<html>", {})]
    with pytest.raises(StitchworkError, match=rf"expected a JSON object from|answered {status}"):
        perform_sync(peer.url, lambda c: c.info())


def test_ids_are_quoted_in_paths(peer: Peer) -> None:
    peer.script(200)
    perform_sync(peer.url, lambda c: c.get("spaces", "../a b?"))
    assert peer.requests[0][0] == "GET /spaces/..%2Fa%20b%3F"


@pytest.mark.parametrize("url", ["localhost:8765", "ftp://there", "there", "http://a:b"])
def test_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="expected a URL such as"):
        Stitchwork(url)
