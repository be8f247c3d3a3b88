"""Undocumented attributes of libraries that the API relies on, each read by one function."""

import asyncio

from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from stitchwork.api.server_protocol import is_responding


def test_uvicorn_protocol_has_no_cycle_before_its_first_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """Never called."""

    async def check() -> None:
        protocol = HttpToolsProtocol(Config(app), ServerState(), {})
        assert protocol.cycle is None
        assert is_responding(protocol) is False
        # Set on each request, read by `LimitedProtocol`.
        assert protocol.connections == set()
        assert protocol.app is not None
        assert "response_complete" in RequestResponseCycle.__init__.__code__.co_names

    asyncio.run(check())
