"""One HTTP connection with limits; uvicorn's own protocol waits forever for a slow client.

Limited are the bytes of a request's headers, the time until they are complete, the time in which
the rest of a refused body is read, the rate at which a client reads its response, and the number of
connections. Bodies that a route waits for are limited in `middleware.request_body`.

Trailers are dropped, requests to upgrade the protocol are served without upgrading, and a request
without exactly one host is refused.
"""

import asyncio
import logging
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, ClassVar, Final

import httptools
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stitchwork.addresses import without_mapping
from stitchwork.api.limits import HEALTH_PATHS, RequestLimits
from stitchwork.api.message_state import begin, complete, disconnect
from stitchwork.api.parser_turns import ParserTurns, SlicedProtocol
from stitchwork.api.problem_details import problem_response
from stitchwork.api.response_transport import write_at_once
from stitchwork.errors import ErrorCode
from stitchwork.queue.streams import new_id

log = logging.getLogger(__name__)

LINGER_SECONDS: Final = 3.0
"""Time in which a client may go on sending its body after the response.

If the connection were closed at once, the client would not receive the response.
"""
UNIX_CLIENT: Final = "unix"
"""The address of clients on a Unix socket, which have none."""
SPARE_CONNECTIONS: Final = 64
"""Connections above the limit that still receive an error; further ones are aborted."""


class LimitedProtocol(SlicedProtocol):
    """A connection with these limits; `limited_protocol` makes a subclass for given limits."""

    limits: ClassVar[RequestLimits]
    prefix: ClassVar[bytes]
    """Path under which a proxy publishes the API, which is removed from URLs."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        address, port = self.client or (UNIX_CLIENT, 0)
        self.client = (without_mapping(address), port)
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._message_complete = True
        self._in_headers = True
        self._progressed = False
        self._bytes_without_progress = 0
        self._active_at = self.loop.time()
        limit = self.limits.max_connections
        number = len(self.connections)
        if number > limit:
            self._close_idle()
            number = sum(1 for other in self.connections if not other.transport.is_closing())
        if number > limit + SPARE_CONNECTIONS:
            transport.abort()
            return
        if number > limit:
            detail = f"expected at most {limit} connections (max_connections), got more"
            self.app = _health_only(self.app, 503, ErrorCode.TOO_MANY_CONNECTIONS, detail)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._cancel_read_timer()
        self.resume_writing()
        super().connection_lost(exc)
        if self.cycle is not None:
            disconnect(self.cycle.scope)

    def parse_slice(self, part: memoryview) -> None:
        """Parse bytes of the client; a message that they begin must have its headers soon."""
        if self._message_complete and self._read_timer is None:
            self._start_header_timer()
        self._progressed = False
        self._active_at = self.loop.time()
        self._unset_keepalive_if_required()
        try:
            self._feed(part)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self.transport.is_closing():
            return
        # Headers or chunk extensions without an end: the parser has reported nothing about them.
        self._bytes_without_progress += len(part)
        if self._progressed:
            self._bytes_without_progress = 0
        if self._bytes_without_progress > self.limits.max_header_bytes:
            self._refuse(431, ErrorCode.HEADERS_TOO_LARGE, self._headers_too_large)
        elif self._in_headers and not self._message_complete and self._read_timer is None:
            self._start_header_timer()

    def on_message_begin(self) -> None:
        """A request has begun."""
        super().on_message_begin()
        begin(self.scope)
        self._message_complete, self._in_headers = False, True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of a request, or a trailer after its body, which is dropped."""
        if self._in_headers:
            super().on_header(name, value)
        else:
            self.turns.events += 1

    def on_headers_complete(self) -> None:
        """The headers of a request are complete; start to serve it."""
        self._in_headers, self._progressed = False, True
        if self.parser.should_upgrade():
            # The parser stops here; `_feed` begins anew without these headers.
            return
        self._cancel_read_timer()
        self.url = _without_prefix(self.url, self.prefix)
        app = self.app
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        hosts = sum(name == b"host" for name, _ in self.headers)
        if size > self.limits.max_header_bytes:
            self.app = _error_app(431, ErrorCode.HEADERS_TOO_LARGE, self._headers_too_large)
        elif hosts > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            detail = f"expected one Host header, got {hosts or 'none'}"
            self.app = _error_app(400, ErrorCode.BAD_REQUEST, detail)
        elif self.prefix and self.url.partition(b"?")[0] == self.prefix:
            self.app = _folder_redirect(self.url)
        super().on_headers_complete()
        self.app = app
        write_at_once(self)

    def on_body(self, body: bytes) -> None:
        """A part of the body has arrived."""
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request has arrived."""
        if self.parser.should_upgrade():
            return
        self._message_complete, self._progressed = True, True
        self._cancel_read_timer()
        super().on_message_complete()
        complete(self.scope)

    def on_response_complete(self) -> None:
        """The response is sent; a client that still sends its body has `LINGER_SECONDS` left."""
        super().on_response_complete()
        self._active_at = self.loop.time()
        is_last = self.cycle is not None and self.cycle.response_complete
        sending = not (self._message_complete or self._in_headers)
        if is_last and sending and not self.transport.is_closing():
            self._cancel_read_timer()
            self._read_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """The client reads its response more slowly than it is written."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """The client has read most of what was written."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse bytes; a request to upgrade the protocol is parsed again without its upgrade.

        Raises:
            HttpParserError: If they are not HTTP.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self.parser.get_method() == b"CONNECT":
                detail = "expected another method than CONNECT: this is no proxy"
                self._refuse(405, ErrorCode.METHOD_NOT_ALLOWED, detail)
                return
            lines = [
                b"%s %s HTTP/%s"
                % (self.parser.get_method(), self.url, self.parser.get_http_version().encode()),
                *(b"%s: %s" % pair for pair in _without_upgrade(self.headers)),
            ]
            self.parser = httptools.HttpRequestParser(self)
            self._feed(b"\r\n".join([*lines, b"", rest]))

    def _close_idle(self) -> None:
        """Close the connection that has been idle longest, those without a key first."""
        idle = [
            other
            for other in self.connections
            if isinstance(other, LimitedProtocol)
            and other is not self
            and not other.transport.is_closing()
            and not is_responding(other)
        ]
        if idle:
            oldest = min(idle, key=lambda other: (other.has_key, other._active_at))
            log.info("connection closed", extra={"code": ErrorCode.TOO_MANY_CONNECTIONS})
            oldest.transport.close()

    @property
    def has_key(self) -> bool:
        """Whether the last request of this connection had a valid API key."""
        return self.cycle is not None and self.cycle.scope["state"].get("key") is not None

    def _start_header_timer(self) -> None:
        self._read_timer = self.loop.call_later(
            self.limits.header_timeout_seconds, self._check_headers
        )

    def _check_headers(self) -> None:
        self._read_timer = None
        if is_responding(self):
            # Reading may be paused until the earlier request has its response.
            self._start_header_timer()
            return
        seconds = self.limits.header_timeout_seconds
        detail = f"expected the headers within {seconds:g} seconds (header_timeout_seconds)"
        self._refuse(408, ErrorCode.SLOW_REQUEST, detail)

    def _start_write_timer(self) -> None:
        size = self.transport.get_write_buffer_size()
        seconds = self.limits.header_timeout_seconds
        self._write_timer = self.loop.call_later(seconds, self._check_reader, size)

    def _check_reader(self, previous_size: int) -> None:
        self._write_timer = None
        read = previous_size - self.transport.get_write_buffer_size()
        if read < self.limits.min_bytes_per_second * self.limits.header_timeout_seconds:
            log.info("connection closed", extra={"reason": "the client did not read the response"})
            self.transport.abort()
            return
        self._start_write_timer()

    def _refuse(self, status: int, code: ErrorCode, detail: str) -> None:
        """Send an error, unless another response is being sent, and close the connection."""
        log.info("connection closed", extra={"code": code})
        if is_responding(self):
            self.transport.abort()
            return
        response = _error_response(status, code, detail)
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        lines += [b"%s: %s" % pair for pair in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()

    def _cancel_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    @property
    def _headers_too_large(self) -> str:
        limit = self.limits.max_header_bytes
        return f"expected headers of at most {limit} bytes (max_header_bytes), got more"


def is_responding(protocol: HttpToolsProtocol) -> bool:
    """Whether a request of this connection is waiting for its response or for the end of it.

    Reads the undocumented `cycle` of uvicorn's protocol, which is None before the first request.
    """
    return protocol.cycle is not None and not protocol.cycle.response_complete


def _without_upgrade(headers: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The headers of a request without those that ask for another protocol."""
    for name, value in headers:
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            other = [t for t in tokens if t.lower() not in (b"upgrade", b"http2-settings")]
            if other:
                yield name, b", ".join(other)
        elif name not in (b"upgrade", b"http2-settings"):
            yield name, value


def _without_prefix(url: bytes, prefix: bytes) -> bytes:
    """The URL of a request without a prefix of its path, whether a proxy has removed it or not."""
    rest = url[len(prefix) :]
    return rest if url.startswith(prefix) and rest.startswith(b"/") else url


def _folder_redirect(url: bytes) -> ASGIApp:
    """A redirect from a path to the folder of that name, to which the page's URLs are relative."""
    path, mark, query = url.decode("latin-1").partition("?")
    return RedirectResponse(f"{path.rpartition('/')[2]}/{mark}{query}")


def limited_protocol(limits: RequestLimits, root_path: str = "") -> type[LimitedProtocol]:
    """The protocol of connections with these limits.

    Args:
        limits: The limits.
        root_path: Path under which a proxy publishes the API.
    """
    attributes = {"limits": limits, "prefix": root_path.encode("ascii"), "turns": ParserTurns()}
    return type("Limited", (LimitedProtocol,), attributes)


def _error_response(status: int, code: ErrorCode, detail: str) -> Response:
    headers = {"Connection": "close"} | ({"Retry-After": "1"} if status == 503 else {})
    return problem_response(status, code, detail, new_id(), headers=headers)


def _error_app(status: int, code: ErrorCode, detail: str) -> ASGIApp:
    async def send_response(scope: Scope, receive: Receive, send: Send) -> None:
        await _error_response(status, code, detail)(scope, receive, send)

    return send_response


def _health_only(app: Any, status: int, code: ErrorCode, detail: str) -> Any:
    """An app that serves health checks and refuses everything else."""
    refuse = _error_app(status, code, detail)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope["path"] in HEALTH_PATHS else refuse)(scope, receive, send)

    return serve
