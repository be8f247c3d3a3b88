"""One HTTP connection with limits; uvicorn's own protocol waits forever for a slow client.

Limited are the bytes of a request's headers, the time until they are complete, the time in which
the rest of a refused body is read, the rate at which a client reads its response, and the number of
connections. Bodies that a route waits for are limited in `middleware.body_limits`.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, ClassVar, Final

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stitchwork.api.limits import HEALTH_PATHS, RequestLimits
from stitchwork.api.problem_details import problem_response
from stitchwork.errors import ErrorCode
from stitchwork.queue.streams import new_id

log = logging.getLogger(__name__)

LINGER_SECONDS: Final = 3.0
"""Time in which a client may go on sending its body after the response.

If the connection were closed at once, the client would not receive the response.
"""
SPARE_CONNECTIONS: Final = 64
"""Connections above the limit that still receive an error; further ones are aborted."""


class LimitedProtocol(HttpToolsProtocol):
    """A connection with these limits; `limited_protocol` makes a subclass for given limits."""

    limits: ClassVar[RequestLimits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._message_complete = True
        self._in_headers = True
        self._progressed = False
        self._unparsed_bytes = 0
        limit = self.limits.max_connections
        if len(self.connections) > limit + SPARE_CONNECTIONS:
            transport.abort()
            return
        if len(self.connections) > limit:
            detail = f"expected at most {limit} connections (max_connections), got more"
            self.app = _health_only(self.app, 503, ErrorCode.TOO_MANY_CONNECTIONS, detail)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._cancel_read_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the client; a message that they begin must have its headers soon."""
        if self._message_complete and self._read_timer is None:
            self._start_header_timer()
        self._progressed = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        # Headers or chunk extensions without an end: the parser has reported nothing about them.
        self._unparsed_bytes = 0 if self._progressed else self._unparsed_bytes + len(data)
        if self._unparsed_bytes > self.limits.max_header_bytes:
            self._refuse(431, ErrorCode.HEADERS_TOO_LARGE, self._headers_too_large)
        elif self._in_headers and not self._message_complete and self._read_timer is None:
            self._start_header_timer()

    def on_message_begin(self) -> None:
        """A request has begun."""
        super().on_message_begin()
        self._message_complete, self._in_headers = False, True

    def on_headers_complete(self) -> None:
        """The headers of a request are complete; start to serve it."""
        self._in_headers, self._progressed = False, True
        self._cancel_read_timer()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size <= self.limits.max_header_bytes:
            super().on_headers_complete()
            return
        app = self.app
        self.app = _error_app(431, ErrorCode.HEADERS_TOO_LARGE, self._headers_too_large)
        super().on_headers_complete()
        self.app = app

    def on_body(self, body: bytes) -> None:
        """A part of the body has arrived."""
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request has arrived."""
        self._message_complete, self._progressed = True, True
        self._cancel_read_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The response is sent; a client that still sends its body has `LINGER_SECONDS` left."""
        super().on_response_complete()
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


def limited_protocol(limits: RequestLimits) -> type[LimitedProtocol]:
    """The protocol of connections with these limits."""
    return type("Limited", (LimitedProtocol,), {"limits": limits})


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
