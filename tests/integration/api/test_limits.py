"""What one request may hold, and how slowly it may come: refused before any work is done for it."""

import gzip
import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from stitchwork.api.schemas.items import decode_items
from stitchwork.errors import InputTooLargeError
from stitchwork.settings import Settings
from stitchwork.supervisor import ServiceProcess
from tests.support.memory import MB, resident
from tests.support.running_service import running
from tests.support.waiting import wait_until

BODY = 400_000
HELD = 1_000_000
SETTINGS = {
    "max_body_bytes": BODY,
    "max_inflight_body_bytes": HELD,
    "max_rows": 20,
    "max_width": 30,
    "max_items": 3,
    "max_anchors": 40,
    "max_json_values": 20_000,
    "max_json_depth": 8,
    "max_head_layers": 3,
    "max_header_bytes": 4096,
    "max_connections": 24,
    "header_timeout_seconds": 1,
    "min_bytes_per_second": 20_000,
    "request_timeout_seconds": 6,
}
POST = b"POST /translate HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def bounded() -> Iterator[ServiceProcess]:
    env: Any = {f"STITCHWORK_{name.upper()}": str(value) for name, value in SETTINGS.items()}
    with running(workers=0, **env) as found:
        yield found


@pytest.fixture
def http(bounded: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=bounded.url, timeout=30) as client:
        yield client


def dial(service: ServiceProcess) -> socket.socket:
    found = urlsplit(service.url)
    assert found.hostname
    return socket.create_connection((found.hostname, found.port or 80), timeout=30)


def problem(connection: socket.socket) -> dict[str, Any]:
    """The problem that the service answers with."""
    connection.settimeout(30)
    with closing(HTTPResponse(connection)) as answer:
        answer.begin()
        assert answer.headers["content-type"] == "application/problem+json"
        told: dict[str, Any] = json.loads(answer.read())
    assert answer.status == told["status"]
    assert told["request_id"]
    return told


def seconds_until_cut(connection: socket.socket) -> float:
    """How long the service waits until it hangs up; it says nothing more."""
    began = time.monotonic()
    connection.settimeout(30)
    with suppress(ConnectionResetError):
        assert connection.recv(65_536) == b""
    return time.monotonic() - began


def trickle(connection: socket.socket, piece: bytes, seconds: float) -> None:
    """Send a piece ten times a second until there is an answer."""
    deadline = time.monotonic() + seconds
    while not select.select([connection], [], [], 0.1)[0]:
        assert time.monotonic() < deadline
        connection.sendall(piece)


def test_every_limit_is_told(http: httpx.Client) -> None:
    told = http.get("/info").json()["limits"]
    assert told.keys() == Settings().limits().keys()
    for name, value in SETTINGS.items():
        assert told[name] == value, name


ROW = [0.5] * 8
LAYER = {"weight": [ROW]}
TO = {"source": "x", "target": "y"}


@pytest.mark.parametrize(
    ("method", "path", "body", "setting"),
    [
        ("POST", "/translate", {**TO, "embeddings": [ROW] * 21}, "max_rows"),
        ("POST", "/translate", {**TO, "embeddings": [[0.5] * 31]}, "max_width"),
        ("PUT", "/spaces/s", {"anchor_set": "S", "anchors": [ROW] * 41}, "max_anchors"),
        ("PUT", "/anchor-sets/s", {"size": 41}, "max_anchors"),
        ("PUT", "/anchor-sets/s", {"modality": "text", "items": ["a"] * 41}, "max_anchors"),
        ("PUT", "/heads/h", {"space": "y", "weight": [ROW] * 21, "labels": ["a"]}, "max_rows"),
        ("PUT", "/heads/h", {"space": "y", "weight": [[1.0] * 31], "labels": ["a"]}, "max_width"),
        (
            "PUT",
            "/heads/h",
            {"space": "y", "fit": {"embeddings": [ROW] * 21, "labels": ["a", "b"]}},
            "max_rows",
        ),
        (
            "PUT",
            "/heads/h",
            {"space": "y", "weight": [ROW], "bias": [0.0] * 21, "labels": ["a"]},
            "max_rows",
        ),
        (
            "PUT",
            "/heads/h",
            {"space": "y", "weight": [ROW], "labels": ["a"] * 21},
            "max_rows",
        ),
        ("PUT", "/heads/h", {"space": "y", "layers": [LAYER] * 4}, "max_head_layers"),
        ("PUT", "/anchor-sets/s", {"ids": ["a"] * 41}, "max_anchors"),
        ("PUT", "/spaces/s", {"anchor_set": "S", "ids": ["a"] * 41}, "max_anchors"),
        ("POST", "/translate", {"source": [[]] * 20_001}, "max_json_values"),
        ("POST", "/translate", {"source": [{}] * 20_001}, "max_json_values"),
        ("POST", "/translate", {"source": "x" * BODY}, "max_body_bytes"),
    ],
)
def test_what_is_too_much_names_the_setting(
    http: httpx.Client, method: str, path: str, body: Any, setting: str
) -> None:
    answer = http.request(method, path, json=body)
    told = answer.json()
    assert (answer.status_code, told["code"]) == (413, "input-too-large"), told
    assert setting in told["detail"]
    assert str(SETTINGS[setting]) in told["detail"]


@pytest.mark.parametrize(("rows", "width", "setting"), [(21, 8, "max_rows"), (2, 31, "max_width")])
def test_binary_arrays_are_bounded_too(
    http: httpx.Client, rows: int, width: int, setting: str
) -> None:
    content = save({"embeddings": np.ones((rows, width), np.float32)})
    headers = {"Content-Type": "application/vnd.safetensors"}
    answer = http.post("/translate", params=TO, content=content, headers=headers)
    assert answer.status_code == 413
    assert setting in answer.json()["detail"]


DEEP = b"[" * 8 + b"1" + b"]" * 8
HEADER = b'{"embeddings":' + DEEP + b"}"
LINES = "application/x-ndjson"
TENSORS = "application/vnd.safetensors"


@pytest.mark.parametrize(
    ("method", "path", "media", "body", "status"),
    [
        ("POST", "/translate", "application/json", b'{"source":' * 9 + b"1" + b"}" * 9, 422),
        ("POST", "/translate", "application/json", b'{"source":' + b"[" * 15_000, 422),
        ("PUT", "/anchor-sets/s?modality=text", LINES, b'{"item":' + DEEP + b"}\n", 422),
        ("POST", "/translate", TENSORS, len(HEADER).to_bytes(8, "little") + HEADER, 422),
        (
            "POST",
            "/translate",
            TENSORS,
            save({"embeddings": np.ones((1, 2), np.float32)}, {"source": (b"[" + DEEP).decode()}),
            422,
        ),
        ("POST", "/v1/embeddings", "application/json", b'{"input":' + DEEP + b"}", 400),
        (
            "POST",
            "/v2/models/translate:x:y/infer",
            "application/json",
            b'{"inputs":' + DEEP + b"}",
            422,
        ),
    ],
)
def test_nesting_is_bounded_in_all_that_is_json(
    http: httpx.Client, method: str, path: str, media: str, body: bytes, status: int
) -> None:
    answer = http.request(method, path, content=body, headers={"Content-Type": media})
    assert answer.status_code == status
    assert "at most 8 levels (max_json_depth), got" in answer.text


def test_what_is_as_deep_as_it_may_be_is_read(http: httpx.Client) -> None:
    body = b'{"source":' + b"[" * 7 + b'"[[[[{{{{\\"[[[["' + b"]" * 7 + b"}"
    answer = http.post("/translate", content=body)
    assert answer.status_code == 422, answer.text


def test_lists_beside_a_body_are_bounded_too(http: httpx.Client) -> None:
    query = {"labels": (b"[" + DEEP + b"]").decode()}
    content = save({"embeddings": np.ones((2, 8), np.float32)})
    answer = http.post(
        "/compatibility/x/h", params=query, content=content, headers={"Content-Type": TENSORS}
    )
    assert answer.status_code == 422, answer.text
    assert "(max_json_depth)" in answer.json()["detail"]


def test_parts_of_a_form_are_bounded_while_they_are_read(http: httpx.Client) -> None:
    parts = [("items", (f"{i}.txt", b"a")) for i in range(41)]
    answer = http.put("/anchor-sets/s", params={"modality": "text"}, files=parts)
    assert answer.status_code == 413, answer.text
    assert "at most 40 parts (max_anchors)" in answer.json()["detail"]


def test_commas_in_texts_are_no_values_in_a_short_body(http: httpx.Client) -> None:
    body = {"modality": "text", "items": ["," * 9000, "b"]}
    assert http.put("/anchor-sets/commas", json=body).status_code == 201


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "gzip, identity"])
def test_compressed_bodies_are_refused_unread(http: httpx.Client, coding: str) -> None:
    headers = {"Content-Encoding": coding}
    answer = http.post("/translate", content=b"x" * 1000, headers=headers)
    assert answer.status_code == 415
    assert coding in answer.json()["detail"]


def test_a_claim_is_refused_before_a_byte_of_it_came(bounded: ServiceProcess) -> None:
    with closing(dial(bounded)) as connection:
        connection.sendall(POST + b"Content-Length: 999999999999999\r\n\r\n")
        assert problem(connection)["status"] == 413
        # Nor may it go on sending for ever.
        assert 0.5 < seconds_until_cut(connection) < 25


def test_a_body_without_end_costs_no_memory(bounded: ServiceProcess) -> None:
    http = httpx.Client(base_url=bounded.url, timeout=30)

    def endless() -> Iterator[bytes]:
        for _ in range(1500):
            yield b" " * 65_536

    with http:
        http.get("/health/live")
        before = resident(bounded.pids["api"])
        answer = http.post("/translate", content=endless())
        assert answer.status_code == 413
        assert resident(bounded.pids["api"]) - before < 20 * MB


def test_a_gzip_bomb_costs_no_memory(bounded: ServiceProcess, http: httpx.Client) -> None:
    http.get("/health/live")
    before = resident(bounded.pids["api"])
    bomb = gzip.compress(b" " * 30_000_000, 1)
    answer = http.post("/translate", content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert resident(bounded.pids["api"]) - before < 20 * MB


def test_a_head_without_end_is_refused(bounded: ServiceProcess) -> None:
    for begun in (b"GET /", b"GET / HTTP/1.1\r\nX: ", POST + b"A: b\r\n" * 500):
        with closing(dial(bounded)) as connection:
            connection.sendall(begun)
            connection.sendall(b"a" * 20_000)
            assert problem(connection)["code"] == "headers-too-large"


def test_a_large_head_that_ends_is_refused(http: httpx.Client) -> None:
    answer = http.get("/info", headers={"X-Large": "a" * 5000})
    assert answer.status_code == 431
    assert "4096 bytes (max_header_bytes)" in answer.json()["detail"]
    assert http.get("/info", headers={"X-Large": "a" * 3000}).status_code == 200


def test_a_head_that_does_not_come_is_not_waited_for(bounded: ServiceProcess) -> None:
    for begun in (b"", b"GET /info HTTP/1.1\r\nHost", b"\r\n"):
        began = time.monotonic()
        with closing(dial(bounded)) as connection:
            connection.sendall(begun)
            told = problem(connection)
            # Unless it is set, it would be ten seconds.
            assert 0.9 < time.monotonic() - began < 9
            assert (told["status"], told["code"]) == (408, "slow-request")
            assert "header_timeout_seconds" in told["detail"]


def test_a_head_that_trickles_is_cut_off(bounded: ServiceProcess) -> None:
    """Each piece would begin an ordinary timeout anew."""
    with closing(dial(bounded)) as connection:
        connection.sendall(POST)
        trickle(connection, b"A: b\r\n", 30)
        assert problem(connection)["status"] == 408


@pytest.mark.parametrize(
    ("claim", "piece"),
    [(b"Content-Length: 100000", b"x"), (b"Transfer-Encoding: chunked", b"1\r\nx\r\n")],
)
def test_a_body_that_trickles_is_cut_off(
    bounded: ServiceProcess, claim: bytes, piece: bytes
) -> None:
    with closing(dial(bounded)) as connection:
        connection.sendall(POST + claim + b"\r\n\r\n")
        trickle(connection, piece, 30)
        told = problem(connection)
        assert (told["status"], told["code"]) == (408, "slow-request")
        assert "20000 bytes a second (min_bytes_per_second)" in told["detail"]


def test_a_steady_body_may_take_longer_than_the_grace(bounded: ServiceProcess) -> None:
    with closing(dial(bounded)) as connection:
        connection.sendall(POST + b"Content-Length: 120000\r\n\r\n")
        for _ in range(11):
            connection.sendall(b" " * 10_000)
            assert not select.select([connection], [], [], 0.15)[0]
        connection.sendall(b" " * 10_000)
        assert problem(connection)["status"] == 400


def test_who_does_not_read_is_cut_off(bounded: ServiceProcess) -> None:
    """An answer that nobody takes would be held for ever."""
    with closing(dial(bounded)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Pipelined answers pile up, since none of them is read.
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 300)
        wait_until("it is cut off", partial(is_reset, connection))


def is_reset(connection: socket.socket) -> bool:
    try:
        connection.send(b"\r\n")
    except OSError:
        return True
    return False


def test_all_bodies_together_are_bounded(bounded: ServiceProcess) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(dial(bounded))) for _ in range(3)]
        for connection in connections:
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % BODY + b" " * (BODY - 1))
        answered, _, _ = select.select(connections, [], [], 30)
        told = problem(answered[0])
        assert told["status"] == 429
        assert f"{HELD} bytes (max_inflight_body_bytes)" in told["detail"]
    with httpx.Client(base_url=bounded.url) as http:
        # What is over is held no more.
        full = b" " * BODY
        wait_until("room", lambda: http.post("/translate", content=full).status_code == 400)


def test_connections_are_bounded_and_health_still_answers(bounded: ServiceProcess) -> None:
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(closing(dial(bounded)))
        with closing(dial(bounded)) as last:
            last.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
            told = problem(last)
            assert (told["status"], told["code"]) == (503, "too-many-connections")
            assert "24 connections (max_connections)" in told["detail"]
        with httpx.Client(base_url=bounded.url) as http:
            assert http.get("/health/live").status_code == 200
    with httpx.Client(base_url=bounded.url) as http:
        wait_until("others are served", lambda: http.get("/info").status_code == 200)


def test_raw_inputs_are_counted() -> None:
    with pytest.raises(InputTooLargeError, match=r"at most 3 items \(max_items\), got 4"):
        decode_items(["a"] * 4, "text", 3)
