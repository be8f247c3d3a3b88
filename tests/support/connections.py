"""A server of the API's connections in the event loop of a test, which counts what they do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import uvloop
from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.server import ServerState

from stitchwork.api.server_protocol import limited_protocol
from tests.support import machine
from tests.support.request_limits import LIMITS


class ConnectionServer:
    """A server that is listening.

    Attributes:
        address: Its host and port.
        state: Its connections and tasks.
        parts: Parts of bodies that the parsers reported in each turn of the event loop.
        pipeline: The largest number of requests that waited for an earlier response.
        lost: Set when a connection is lost.
    """

    def __init__(self) -> None:
        self.address = ("", 0)
        self.state = ServerState()
        self.parts = [0]
        self.pipeline = 0
        self.lost = asyncio.Event()

    async def disconnect(self) -> None:
        """Close all connections, as when their clients leave."""
        for protocol in self.state.connections:
            protocol.transport.abort()
        while self.state.connections:
            self.lost.clear()
            await self.lost.wait()
        # Their handles are closed after that.
        await asyncio.sleep(0)

    async def count_turns(self) -> None:
        """Begin a count in each turn of the event loop."""
        while True:
            self.parts.append(0)
            await asyncio.sleep(0)


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[ConnectionServer]:
    """Serve an app in this event loop.

    Its time limits are longer than a test takes on a slow machine. At the end it closes all
    connections: uvloop does not close a loop that has open ones.
    """
    server, loop = ConnectionServer(), asyncio.get_running_loop()

    limits = replace(LIMITS, header_timeout_seconds=machine.deadline(60))

    class Protocol(limited_protocol(limits)):  # type: ignore[misc]
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            server.lost.set()

        def on_body(self, body: bytes) -> None:
            server.parts[-1] += 1
            super().on_body(body)

        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            server.pipeline = max(server.pipeline, len(self.pipeline))

    config = Config(app, log_config=None, access_log=False, ws="none", timeout_keep_alive=600)
    listener = await loop.create_server(lambda: Protocol(config, server.state, {}), "127.0.0.1", 0)
    server.address = listener.sockets[0].getsockname()
    turns = asyncio.ensure_future(server.count_turns())
    try:
        yield server
    finally:
        listener.close()
        await server.disconnect()
        await asyncio.gather(*server.state.tasks)
        turns.cancel()
        await listener.wait_closed()


def run(check: Callable[[], Awaitable[None]]) -> None:
    """Run a check in an event loop of the server's kind."""

    async def run_in_time() -> None:
        async with asyncio.timeout(machine.deadline(60)):
            await check()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_in_time())
