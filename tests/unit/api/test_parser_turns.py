"""Connections whose reads hold thousands of chunks or requests, over real sockets."""

import asyncio
import json
import re
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from stitchwork.api import server_protocol
from stitchwork.api.parser_turns import EVENTS_PER_TURN, REQUEST_EVENTS, SLICE_BYTES
from tests.support import machine
from tests.support.connections import run, serve
from tests.support.request_limits import LIMITS

CHUNKED = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n"
CLIENTS: Final = 4
SLICE_EVENTS: Final = SLICE_BYTES // len(b"1\r\na\r\n") + REQUEST_EVENTS
MAX_EVENTS: Final = 2 * (EVENTS_PER_TURN + SLICE_EVENTS) + CLIENTS * SLICE_EVENTS
"""Between two counts the parsers may have two turns, and each connection a read of one slice."""


async def respond(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the path and the size of the body; refuse a body without reading it."""
    request = Request(scope, receive)
    if request.url.path == "/refused":
        await Response(status_code=401)(scope, receive, send)
        return
    size = len(await request.body())
    await JSONResponse([request.url.path, size])(scope, receive, send)


async def exchange(address: tuple[str, int], parts: list[bytes], responses: int = 1) -> list[Any]:
    """The bodies of the responses to what a client sends, part by part."""
    reader, writer = await asyncio.open_connection(*address)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0)
    bodies = []
    try:
        for _ in range(responses):
            headers = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", headers)
            assert length, headers
            body = await reader.readexactly(int(length[1]))
            bodies.append(json.loads(body) if body else headers.split(b" ")[1])
        return bodies
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("path", [b"/body", b"/refused"])
def test_turn_of_the_event_loop_parses_few_of_the_tiny_chunks_of_all_clients(
    path: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_protocol, "LINGER_SECONDS", machine.deadline(60))
    chunks = 40_000
    body = CHUNKED.replace(b"/body", path) + b"1\r\na\r\n" * chunks + b"0\r\n\r\n"
    # The rest of a refused body is read, and the next request served.
    data = body + b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
    expected = [["/body", chunks] if path == b"/body" else b"401", ["/next", 0]]

    async def check() -> None:
        async with serve(respond) as server:
            bodies = await asyncio.gather(
                *[exchange(server.address, [data], 2) for _ in range(CLIENTS)]
            )
            assert bodies == [expected] * CLIENTS
            assert max(server.parts) <= MAX_EVENTS

    run(check)


def test_lines_that_are_sent_in_chunks_of_their_own_arrive_whole() -> None:
    line = b'{"embedding": [0.5]}\n'
    lines = LIMITS.max_body_bytes // len(line)
    body = CHUNKED + b"%x\r\n%s\r\n" % (len(line), line) * lines + b"0\r\n\r\n"

    async def check() -> None:
        async with serve(respond) as server:
            assert await exchange(server.address, [body]) == [["/body", lines * len(line)]]
            assert max(server.parts) <= MAX_EVENTS

    run(check)


def test_pipelined_requests_are_all_answered_in_order_and_few_of_them_queued() -> None:
    number = 5000
    data = b"".join(GET % i + b"\r\n" for i in range(number))

    async def check() -> None:
        async with serve(respond) as server:
            bodies = await exchange(server.address, [data], number)
            assert bodies == [[f"/{i}", 0] for i in range(number)]
            assert server.pipeline <= SLICE_BYTES // len(GET)

    run(check)


@pytest.mark.parametrize("seed", range(4))
def test_requests_of_every_kind_on_one_connection_are_answered_in_order(seed: int) -> None:
    """Bodies below and above a slice, and above what is buffered, however reads divide them."""
    generator = np.random.default_rng(seed)
    sizes = [0, 1, 100, SLICE_BYTES - 90, SLICE_BYTES, 70_000, 300_000]
    data, expected = bytearray(), []
    for i in range(60):
        size = int(generator.choice(sizes))
        match generator.integers(3):
            case 0:
                data += b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (i, size)
                data += b"a" * size
                expected.append([f"/{i}", size])
            case 1:
                data += CHUNKED.replace(b"/body", b"/%d" % i)
                expected.append([f"/{i}", size])
                while size:
                    part = min(size, int(generator.choice([1, 20, 9000, 100_000])))
                    data += b"%x\r\n%s\r\n" % (part, b"a" * part)
                    size -= part
                data += b"0\r\n\r\n"
            case 2:
                data += GET % i + b"Upgrade: a\r\nConnection: Upgrade\r\n\r\n"
                expected.append([f"/{i}", 0])
    ends = [0, *sorted(generator.integers(len(data), size=200 * (seed % 2))), len(data)]
    parts = [bytes(data[start:end]) for start, end in pairwise(ends)]

    async def check() -> None:
        async with serve(respond) as server:
            assert await exchange(server.address, parts, len(expected)) == expected

    run(check)
