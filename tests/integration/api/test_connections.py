"""Connections: trailers, upgrades, hosts, and who goes first if there are too many."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from stitchwork.supervisor import ServiceProcess
from tests.conftest import Pair
from tests.integration.api.test_refusals import GOOD, TO_Y
from tests.support import machine
from tests.support.running_service import running

ADMIN_KEY = "an-admin-key-of-32-characters-or-more"
MAX_CONNECTIONS = 16


def dial(url: str) -> socket.socket:
    where = urlsplit(url)
    return socket.create_connection(
        (where.hostname or "", where.port or 0), timeout=machine.deadline(20)
    )


def exchange(connection: socket.socket, data: bytes) -> tuple[int, Any]:
    """The status and the JSON of the response to a raw request."""
    connection.sendall(data)
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = response.read()
    return response.status, json.loads(body) if body.startswith(b"{") else body


def translate(extra: bytes, *, chunked: bool = False, trailer: bytes = b"") -> bytes:
    """A raw request to /translate."""
    body = json.dumps({**TO_Y, "embeddings": [GOOD]}).encode()
    head = b"POST /translate HTTP/1.1\r\nContent-Type: application/json\r\n" + extra
    if chunked:
        chunks = b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(body), body, trailer)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n",
        b"Connection: keep-alive, Upgrade\r\nUpgrade: TLS/1.2\r\n",
    ],
)
def test_upgrade_is_ignored_and_the_body_read(url: str, spaces: Pair, upgrade: bytes) -> None:
    with closing(dial(url)) as connection:
        for chunked in (False, True):
            request = translate(b"Host: x\r\n" + upgrade, chunked=chunked)
            for _ in range(2):
                status, body = exchange(connection, request)
                assert (status, len(body["embeddings"])) == (200, 1), body
    with closing(dial(url)) as connection:
        request = translate(b"Host: x\r\n" + upgrade)
        for i in range(0, len(request) - 40, 7):
            connection.sendall(request[i : i + 7])
        connection.sendall(request[i + 7 : -1])
        assert exchange(connection, request[-1:])[0] == 200


def test_connect_is_refused(url: str) -> None:
    with closing(dial(url)) as connection:
        status, _ = exchange(connection, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
        assert status == 405


def test_trailers_never_become_headers(keyed: ServiceProcess) -> None:
    key = b"Authorization: Bearer %s\r\n" % ADMIN_KEY.encode()
    with closing(dial(keyed.url)) as connection:
        request = translate(b"Host: x\r\n", chunked=True, trailer=key)
        assert exchange(connection, request)[0] == 401
    with closing(dial(keyed.url)) as connection:
        tail = b"X-Request-Id: of-a-trailer\r\nContent-Type: text/html\r\n"
        request = translate(b"Host: x\r\n" + key, chunked=True, trailer=tail)
        status, body = exchange(connection, request)
        assert status == 404, body
        assert body["request_id"] != "of-a-trailer"


@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [
        (b"", b"1.1", 400),
        (b"Host: a\r\nHost: b\r\n", b"1.1", 400),
        (b"Host: a\r\nHOST: a\r\n", b"1.0", 400),
        (b"Host: a\r\n", b"1.1", 200),
        (b"", b"1.0", 200),
    ],
)
def test_request_needs_one_host(url: str, hosts: bytes, version: bytes, status: int) -> None:
    with closing(dial(url)) as connection:
        request = b"GET /health/live HTTP/%s\r\n%s\r\n" % (version, hosts)
        code, body = exchange(connection, request)
        assert code == status
        if status == 400:
            assert "expected one Host header" in body["detail"]


@pytest.fixture(scope="module")
def keyed() -> Iterator[ServiceProcess]:
    """A service with few connections that requires keys."""
    with running(
        workers=0,
        STITCHWORK_MAX_CONNECTIONS=str(MAX_CONNECTIONS),
        STITCHWORK_REQUIRE_KEYS="true",
        STITCHWORK_ADMIN_KEY=ADMIN_KEY,
    ) as process:
        yield process


def test_clients_without_a_key_cannot_hold_all_connections(keyed: ServiceProcess) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    timeout = machine.deadline(30)
    with ExitStack() as stack:
        known = stack.enter_context(
            httpx.Client(base_url=keyed.url, headers=headers, timeout=timeout)
        )
        assert known.get("/spaces").status_code == 200
        for i in range(4 * MAX_CONNECTIONS):
            attacker = stack.enter_context(closing(dial(keyed.url)))
            match i % 4:
                case 0:
                    attacker.sendall(b"GET /spaces HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                case 1:
                    assert exchange(attacker, b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 401
                case 2:
                    attacker.sendall(translate(b"Host: x\r\n")[:-5])
            assert known.get("/spaces").status_code == 200, "its connection stays"
        with httpx.Client(base_url=keyed.url, headers=headers, timeout=timeout) as new:
            assert new.get("/spaces").status_code == 200, "a new one is served too"
