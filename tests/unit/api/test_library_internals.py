"""Undocumented attributes of libraries that the API relies on, each read by one function."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from stitchwork.api.content.multipart import InMemoryParser, close_parts
from stitchwork.api.server_protocol import is_responding


def test_starlette_multipart_parser_lists_the_files_of_parts_without_end() -> None:
    async def body() -> AsyncGenerator[bytes, None]:
        yield b'--b\r\nContent-Disposition: form-data; name="items"; filename="a"\r\n\r\nabc'

    parser = InMemoryParser(Headers({"content-type": "multipart/form-data; boundary=b"}), body())
    form = asyncio.run(parser.parse())
    assert form.multi_items() == []
    (file,) = parser._files_to_close_on_error
    assert not file.closed
    close_parts(parser)
    assert file.closed


def test_starlette_multipart_parser_spools_to_memory_only() -> None:
    async def body() -> AsyncGenerator[bytes, None]:
        yield b'--b\r\nContent-Disposition: form-data; name="items"; filename="a"\r\n\r\n'
        yield b"x" * (2 << 20)
        yield b"\r\n--b--\r\n"

    parser = InMemoryParser(Headers({"content-type": "multipart/form-data; boundary=b"}), body())
    form = asyncio.run(parser.parse())
    (upload,) = (value for _, value in form.multi_items() if not isinstance(value, str))
    assert vars(upload.file)["_rolled"] is False
    close_parts(parser)


def test_starlette_multipart_parser_says_too_many_in_its_message() -> None:
    async def body() -> AsyncGenerator[bytes, None]:
        part = b'--b\r\nContent-Disposition: form-data; name="a"%s\r\n\r\nx\r\n'
        yield part % b"" * 2
        yield part % b'; filename="f"' * 2
        yield b"--b--\r\n"

    headers = Headers({"content-type": "multipart/form-data; boundary=b"})
    for limits in ({"max_fields": 1}, {"max_files": 1}):
        parser = InMemoryParser(headers, body(), **limits)
        with pytest.raises(MultiPartException, match="Too many"):
            asyncio.run(parser.parse())


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
