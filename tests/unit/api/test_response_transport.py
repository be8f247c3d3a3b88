"""Responses to clients that have left."""

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from tests.support.connections import ConnectionServer, run, serve


@pytest.mark.parametrize("parts_before", [0, 1, 2])
def test_response_to_a_client_that_has_left_is_dropped(parts_before: int) -> None:
    """It has sent a second request, which is the one that uvicorn marks as disconnected."""
    errors, servers = list[Any](), list[ConnectionServer]()
    parts: list[dict[str, Any]] = [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b", "more_body": True},
        {"type": "http.response.body", "body": b"c"},
    ]

    async def check() -> None:
        ended = asyncio.Event()

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            for part in parts[:parts_before]:
                await send(part)
            await servers[0].disconnect()
            try:
                for part in parts[parts_before:]:
                    await send(part)
                    # Headers that are held are written in the next turn.
                    await asyncio.sleep(0)
            except RuntimeError as error:
                errors.append(error)
            ended.set()

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        async with serve(respond) as server:
            servers.append(server)
            _, writer = await asyncio.open_connection(*server.address)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            await ended.wait()
            assert server.pipeline == 1
            writer.close()
            await writer.wait_closed()

    run(check)
    assert not errors
