"""Limits on the size and the duration of requests, enforced before any work is done for them."""

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
from tests.support import machine
from tests.support.memory import MB, resident
from tests.support.running_service import running
from tests.support.waiting import wait_until

BODY = 400_000
MAX_INFLIGHT = 1_300_000
SETTINGS = {
    "max_body_bytes": BODY,
    "max_inflight_body_bytes": MAX_INFLIGHT,
    "max_rows": 20,
    "max_width": 30,
    "max_items": 3,
    "max_anchors": 40,
    "max_json_values": 20_000,
    "max_json_depth": 8,
    "max_head_layers": 3,
    "max_fit_scores": 30,
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
    with running(workers=0, **env) as service:
        yield service


@pytest.fixture
def http(bounded: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=bounded.url, timeout=machine.deadline(30)) as client:
        yield client


def dial(service: ServiceProcess) -> socket.socket:
    address = urlsplit(service.url)
    assert address.hostname
    return socket.create_connection(
        (address.hostname, address.port or 80), timeout=machine.deadline(30)
    )


def problem(connection: socket.socket) -> dict[str, Any]:
    """The problem that the service responds with."""
    connection.settimeout(30)
    with closing(HTTPResponse(connection)) as response:
        response.begin()
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = json.loads(response.read())
    assert response.status == body["status"]
    assert body["request_id"]
    return body


def seconds_until_cut(connection: socket.socket) -> float:
    """The time until the service closes the connection without sending anything more."""
    start = time.monotonic()
    connection.settimeout(30)
    with suppress(ConnectionResetError):
        assert connection.recv(65_536) == b""
    return time.monotonic() - start


def trickle(connection: socket.socket, piece: bytes, seconds: float) -> None:
    """Send a piece ten times a second until there is a response."""
    deadline = time.monotonic() + seconds
    while not select.select([connection], [], [], 0.1)[0]:
        assert time.monotonic() < deadline
        connection.sendall(piece)


def test_info_lists_every_limit(http: httpx.Client) -> None:
    limits = http.get("/info").json()["limits"]
    assert limits.keys() == Settings().limits().keys()
    for name, value in SETTINGS.items():
        assert limits[name] == value, name


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
        (
            "PUT",
            "/heads/h",
            {"space": "y", "fit": {"embeddings": [ROW] * 6, "labels": [*"abcdef"]}},
            "max_fit_scores",
        ),
        ("PUT", "/anchor-sets/s", {"ids": ["a"] * 41}, "max_anchors"),
        ("PUT", "/spaces/s", {"anchor_set": "S", "ids": ["a"] * 41}, "max_anchors"),
        ("POST", "/translate", {"source": [[]] * 20_001}, "max_json_values"),
        ("POST", "/translate", {"source": [{}] * 20_001}, "max_json_values"),
        ("POST", "/translate", {"source": "x" * BODY}, "max_body_bytes"),
    ],
)
def test_input_above_a_limit_is_refused_with_the_name_of_the_setting(
    http: httpx.Client, method: str, path: str, body: Any, setting: str
) -> None:
    response = http.request(method, path, json=body)
    error = response.json()
    assert (response.status_code, error["code"]) == (413, "input-too-large"), error
    assert setting in error["detail"]
    assert str(SETTINGS[setting]) in error["detail"]


@pytest.mark.parametrize(("rows", "width", "setting"), [(21, 8, "max_rows"), (2, 31, "max_width")])
def test_binary_array_above_a_limit_is_refused(
    http: httpx.Client, rows: int, width: int, setting: str
) -> None:
    content = save({"embeddings": np.ones((rows, width), np.float32)})
    headers = {"Content-Type": "application/vnd.safetensors"}
    response = http.post("/translate", params=TO, content=content, headers=headers)
    assert response.status_code == 413
    assert setting in response.json()["detail"]


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
def test_json_nested_too_deeply_is_refused_in_every_format(
    http: httpx.Client, method: str, path: str, media: str, body: bytes, status: int
) -> None:
    response = http.request(method, path, content=body, headers={"Content-Type": media})
    assert response.status_code == status
    assert "at most 8 levels (max_json_depth), got" in response.text


def test_json_of_the_maximum_depth_is_parsed(http: httpx.Client) -> None:
    body = b'{"source":' + b"[" * 7 + b'"[[[[{{{{\\"[[[["' + b"]" * 7 + b"}"
    response = http.post("/translate", content=body)
    assert response.status_code == 422, response.text


def test_query_list_nested_too_deeply_is_refused(http: httpx.Client) -> None:
    query = {"labels": (b"[" + DEEP + b"]").decode()}
    content = save({"embeddings": np.ones((2, 8), np.float32)})
    response = http.post(
        "/compatibility/x/h", params=query, content=content, headers={"Content-Type": TENSORS}
    )
    assert response.status_code == 422, response.text
    assert "(max_json_depth)" in response.json()["detail"]


def test_form_with_too_many_parts_is_refused(http: httpx.Client) -> None:
    parts = [("items", (f"{i}.txt", b"a")) for i in range(41)]
    response = http.put("/anchor-sets/s", params={"modality": "text"}, files=parts)
    assert response.status_code == 413, response.text
    assert "at most 40 items (max_anchors)" in response.json()["detail"]


def test_commas_in_texts_of_a_short_body_do_not_count_as_values(http: httpx.Client) -> None:
    body = {"modality": "text", "items": ["," * 9000, "b"]}
    assert http.put("/anchor-sets/commas", json=body).status_code == 201


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "gzip, identity"])
def test_compressed_body_is_refused(http: httpx.Client, coding: str) -> None:
    headers = {"Content-Encoding": coding}
    response = http.post("/translate", content=b"x" * 1000, headers=headers)
    assert response.status_code == 415
    assert coding in response.json()["detail"]


def test_content_length_above_the_limit_is_refused_before_the_body(bounded: ServiceProcess) -> None:
    with closing(dial(bounded)) as connection:
        connection.sendall(POST + b"Content-Length: 999999999999999\r\n\r\n")
        assert problem(connection)["status"] == 413
        # Nor may the client go on sending.
        assert 0.5 < seconds_until_cut(connection) < 25


def test_endless_body_is_refused_without_using_memory(bounded: ServiceProcess) -> None:
    http = httpx.Client(base_url=bounded.url, timeout=machine.deadline(30))

    def endless() -> Iterator[bytes]:
        for _ in range(1500):
            yield b" " * 65_536

    with http:
        http.get("/health/live")
        before = resident(bounded.pids["api"])
        response = http.post("/translate", content=endless())
        assert response.status_code == 413
        assert resident(bounded.pids["api"]) - before < 20 * MB


def test_gzip_bomb_is_refused_without_using_memory(
    bounded: ServiceProcess, http: httpx.Client
) -> None:
    http.get("/health/live")
    before = resident(bounded.pids["api"])
    bomb = gzip.compress(b" " * 30_000_000, 1)
    response = http.post("/translate", content=bomb, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 415
    assert resident(bounded.pids["api"]) - before < 20 * MB


def test_endless_headers_are_refused(bounded: ServiceProcess) -> None:
    for start in (b"GET /", b"GET / HTTP/1.1\r\nX: ", POST + b"A: b\r\n" * 500):
        with closing(dial(bounded)) as connection:
            connection.sendall(start)
            connection.sendall(b"a" * 20_000)
            assert problem(connection)["code"] == "headers-too-large"


def test_headers_above_the_limit_are_refused(http: httpx.Client) -> None:
    response = http.get("/info", headers={"X-Large": "a" * 5000})
    assert response.status_code == 431
    assert "4096 bytes (max_header_bytes)" in response.json()["detail"]
    assert http.get("/info", headers={"X-Large": "a" * 3000}).status_code == 200


def test_incomplete_headers_time_out(bounded: ServiceProcess) -> None:
    prefixes = (b"", b"GET /info HTTP/1.1\r\nHost", b"\r\n")
    with ExitStack() as stack:
        start = time.monotonic()
        connections = [stack.enter_context(closing(dial(bounded))) for _ in prefixes]
        for connection, prefix in zip(connections, prefixes, strict=True):
            connection.sendall(prefix)
        for connection in connections:
            error = problem(connection)
            # The default is ten seconds.
            assert 0.9 < time.monotonic() - start < 9
            assert (error["status"], error["code"]) == (408, "slow-request")
            assert "header_timeout_seconds" in error["detail"]


def test_trickling_headers_time_out(bounded: ServiceProcess) -> None:
    """An ordinary timeout would start again with each piece."""
    with closing(dial(bounded)) as connection:
        connection.sendall(POST)
        trickle(connection, b"A: b\r\n", 30)
        assert problem(connection)["status"] == 408


@pytest.mark.parametrize(
    ("header", "piece"),
    [(b"Content-Length: 100000", b"x"), (b"Transfer-Encoding: chunked", b"1\r\nx\r\n")],
)
def test_trickling_body_times_out(bounded: ServiceProcess, header: bytes, piece: bytes) -> None:
    with closing(dial(bounded)) as connection:
        connection.sendall(POST + header + b"\r\n\r\n")
        trickle(connection, piece, 30)
        error = problem(connection)
        assert (error["status"], error["code"]) == (408, "slow-request")
        assert "20000 bytes a second (min_bytes_per_second)" in error["detail"]


def test_steady_body_may_take_longer_than_the_header_timeout(bounded: ServiceProcess) -> None:
    with closing(dial(bounded)) as connection:
        connection.sendall(POST + b"Content-Length: 120000\r\n\r\n")
        for _ in range(11):
            connection.sendall(b" " * 10_000)
            assert not select.select([connection], [], [], 0.15)[0]
        connection.sendall(b" " * 10_000)
        assert problem(connection)["status"] == 400


def test_client_that_does_not_read_is_disconnected(bounded: ServiceProcess) -> None:
    """Otherwise the service would keep its response forever."""
    with closing(dial(bounded)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Pipelined responses pile up, because none of them is read.
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 300)
        wait_until("it is cut off", partial(is_reset, connection))


def is_reset(connection: socket.socket) -> bool:
    try:
        connection.send(b"\r\n")
    except OSError:
        return True
    return False


def test_bodies_of_all_requests_together_are_bounded(bounded: ServiceProcess) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(dial(bounded))) for _ in range(4)]
        for connection in connections:
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % BODY + b" " * (BODY - 1))
        answered, _, _ = select.select(connections, [], [], 30)
        error = problem(answered[0])
        assert error["status"] == 429
        assert f"{MAX_INFLIGHT} bytes (max_inflight_body_bytes)" in error["detail"]
    with httpx.Client(base_url=bounded.url) as http:
        # Bodies of finished requests no longer count.
        full = b" " * BODY
        wait_until("room", lambda: http.post("/translate", content=full).status_code == 400)


def test_idle_connections_above_the_limit_are_replaced(bounded: ServiceProcess) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(dial(bounded))) for _ in range(60)]
        with httpx.Client(base_url=bounded.url) as http:
            for _ in range(3):
                assert http.get("/info").status_code == 200
        # The connection of that client was idle too, and may have been replaced.
        idle += [stack.enter_context(closing(dial(bounded))) for _ in range(60)]
        assert httpx.get(f"{bounded.url}/info").status_code == 200
        assert idle[0].recv(1) == b"", "the oldest went first"


def test_connections_above_the_limit_get_health_checks_only(bounded: ServiceProcess) -> None:
    with ExitStack() as stack:
        for _ in range(24):
            busy = stack.enter_context(closing(dial(bounded)))
            busy.sendall(
                b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 9\r\n\r\n{"
            )
        with closing(dial(bounded)) as extra:
            extra.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
            error = problem(extra)
            assert (error["status"], error["code"]) == (503, "too-many-connections")
            assert "24 connections (max_connections)" in error["detail"]
        with httpx.Client(base_url=bounded.url) as http:
            assert http.get("/health/live").status_code == 200
            assert http.get("/v2/health/live").status_code == 200
    with httpx.Client(base_url=bounded.url) as http:
        wait_until("others are served", lambda: http.get("/info").status_code == 200)


def test_raw_inputs_above_the_limit_are_refused() -> None:
    with pytest.raises(InputTooLargeError, match=r"at most 3 items \(max_items\), got 4"):
        decode_items(["a"] * 4, "text", 3)
