"""What the client makes of refusals, broken connections and time, on a peer that plays them."""

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
"""In the place of a status: the connection is closed without an answer."""
SILENT = -1
"""In the place of a status: no answer for as long as the client may wait."""


class Peer(ThreadingHTTPServer):
    """Answers one request after the other with what it was told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers: list[tuple[int, Any, dict[str, str]]] = []
        self.asked: list[tuple[str, dict[str, str]]] = []

    def plays(self, *answers: int | tuple[int, str], later: str | None = None) -> None:
        """Statuses, each with the code of its problem, and when to come again."""
        self.asked.clear()
        self.answers.clear()
        for answer in answers:
            status, code = answer if isinstance(answer, tuple) else (answer, "some-code")
            told = {"code": code, "detail": "said why"} if status >= 400 else {"id": "s"}
            headers = {} if later is None or status < 400 else {"Retry-After": later}
            self.answers.append((status, told, headers))


class Handler(BaseHTTPRequestHandler):
    server: Peer
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((f"{self.command} {self.path}", dict(self.headers)))
        status, told, headers = self.server.answers.pop(0)
        if status in (CUT, SILENT):
            if status == SILENT:
                self.rfile.read(1)
            self.close_connection = True
            return
        body = json.dumps(told).encode()
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
    with Peer() as found:
        thread = Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


Call = Callable[[Any], Any]
Do = Callable[..., Any]


def waited(url: str, call: Call, **setup: Any) -> Any:
    with Stitchwork(url, **setup) as client:
        return call(client)


def awaited(url: str, call: Callable[[Any], Awaitable[Any]], **setup: Any) -> Any:
    async def run() -> Any:
        async with AsyncStitchwork(url, **setup) as client:
            return await call(client)

    return asyncio.run(run())


both = pytest.mark.parametrize("do", [waited, awaited])


@both
@pytest.mark.parametrize("refusal", [429, 503, CUT, (503, "no-worker")])
def test_what_passes_is_sent_again(peer: Peer, do: Do, refusal: Any) -> None:
    peer.plays(refusal, refusal, 200, later="0")
    assert do(peer.url, lambda c: c.get("spaces", "s"))["id"] == "s"
    assert [asked for asked, _ in peer.asked] == ["GET /spaces/s"] * 3


@both
def test_it_waits_as_long_as_it_was_asked_to(peer: Peer, do: Do) -> None:
    peer.plays((429, "queue-full"), 200, later="1")
    began = time.monotonic()
    do(peer.url, lambda c: c.put_space("s", "S", anchors=np.ones((2, 2), np.float32)))
    assert time.monotonic() - began >= 1.0


@both
@pytest.mark.parametrize(
    "refusal", [400, 404, 409, 422, 500, 504, (503, "job-failed"), (503, "encoder-mismatch")]
)
def test_what_does_not_pass_is_sent_once(peer: Peer, do: Do, refusal: Any) -> None:
    peer.plays(refusal, later="0")
    with pytest.raises(ServiceError, match="said why"):
        do(peer.url, lambda c: c.embed("s", ["a text"]))
    assert len(peer.asked) == 1


@both
def test_a_removal_is_not_sent_again_once_it_may_have_been_done(peer: Peer, do: Do) -> None:
    peer.plays(CUT)
    with pytest.raises(UnavailableError, match="was cut"):
        do(peer.url, lambda c: c.delete("spaces", "s"))
    assert len(peer.asked) == 1
    peer.plays((503, "registry-unavailable"), later="0")
    with pytest.raises(UnavailableError, match="said why"):
        do(peer.url, lambda c: c.delete("spaces", "s"))
    peer.plays(429, 204, later="0")
    do(peer.url, lambda c: c.delete("spaces", "s"))
    assert len(peer.asked) == 2


@both
def test_it_gives_up_in_the_end(peer: Peer, do: Do) -> None:
    peer.plays(*[(429, "queue-full")] * 3, later="0")
    with pytest.raises(errors.QueueFullError) as refused:
        do(peer.url, lambda c: c.info(), retries=2)
    assert len(peer.asked) == 3
    assert isinstance(refused.value, ServiceError)
    assert refused.value.status == 429


@both
def test_a_part_of_a_large_call_waits_until_there_is_room(peer: Peer, do: Do) -> None:
    limits = {"max_rows": 1000, "max_items": 100, "max_body_bytes": 10**6}
    rows, told = np.ones((65, 4), np.float32), [{"label": "a"}] * 65
    peer.plays(200, *[(429, "queue-full")] * 3, 200, later="0")
    peer.answers[0] = (200, {"limits": limits}, {})
    peer.answers[-1] = (200, {"predictions": told}, {})
    assert do(peer.url, lambda c: c.classify("h", rows, "s"), retries=1) == told
    peer.plays(200, *[(429, "queue-full")] * 9, later="0")
    peer.answers[0] = (200, {"limits": limits}, {})
    with pytest.raises(errors.QueueFullError):
        do(peer.url, lambda c: c.classify("h", rows, "s"), retries=1, timeout=0.2)
    # As long as the client would have waited for an answer, and at least as often as it was told.
    assert 1 + 2 <= len(peer.asked) < 1 + 9


@both
def test_a_long_wait_is_left_to_the_caller(peer: Peer, do: Do) -> None:
    peer.plays((429, "quota-exceeded"), later="3600")
    with pytest.raises(ServiceError) as refused:
        do(peer.url, lambda c: c.info())
    assert refused.value.retry_after == 3600
    assert len(peer.asked) == 1


@both
def test_silence_ends_in_time(peer: Peer, do: Do) -> None:
    peer.plays(SILENT)
    with pytest.raises(DeadlineExceededError, match=r"within 0.2 seconds"):
        do(peer.url, lambda c: c.info(), timeout=0.2)
    assert peer.asked[0][1]["X-Request-Timeout"] == "0.2"


@both
def test_nobody_there(do: Do) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UnavailableError, match="cannot be reached"):
        do(f"http://127.0.0.1:{port}", lambda c: c.info(), retries=1)


@both
def test_the_first_refusal_of_a_part_ends_the_call(peer: Peer, do: Do) -> None:
    peer.plays(*[422] * 9)
    rows = np.ones((9, 4), np.float32)
    with pytest.raises(InvalidInputError, match="said why"):
        do(peer.url, lambda c: c.classify("h", rows, "s"))


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
def test_a_problem_is_of_its_class_in_the_tree(
    peer: Peer, status: int, code: str, kind: type[StitchworkError]
) -> None:
    peer.plays((status, code))
    with pytest.raises(kind) as refused:
        waited(peer.url, lambda c: c.info())
    assert isinstance(refused.value, ServiceError)
    assert (refused.value.status, refused.value.code) == (status, code)


def test_where_and_with_which_key_the_environment_may_say(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHWORK_URL", peer.url)
    monkeypatch.setenv("STITCHWORK_KEY", "from-env")
    peer.plays(200, 200)
    with Stitchwork() as client:
        client.info()
    with Stitchwork(key="given") as client:
        client.info()
    told = [headers["Authorization"] for _, headers in peer.asked]
    assert told == ["Bearer from-env", "Bearer given"]


@pytest.mark.parametrize("status", [200, 301, 502])
def test_somebody_else_answers(peer: Peer, status: int) -> None:
    peer.plays(status)
    peer.answers = [(status, "<html>", {})]
    with pytest.raises(StitchworkError, match=rf"expected a JSON object from|answered {status}"):
        waited(peer.url, lambda c: c.info())


def test_ids_are_quoted(peer: Peer) -> None:
    peer.plays(200)
    waited(peer.url, lambda c: c.get("spaces", "../a b?"))
    assert peer.asked[0][0] == "GET /spaces/..%2Fa%20b%3F"


@pytest.mark.parametrize("url", ["localhost:8765", "ftp://there", "there", "http://a:b"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="expected a URL such as"):
        Stitchwork(url)
