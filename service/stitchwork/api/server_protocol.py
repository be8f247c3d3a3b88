"""One connection, bounded: uvicorn's own waits for ever for a client that is slow enough.

What is bounded: the bytes of a request's head, the time until it is there, the time in which what
is left of a refused body is read, the pace at which an answer is taken, and the number of
connections. Bodies that a route waits for are bounded in `middleware.body_limits`.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, ClassVar, Final

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stitchwork.api.limits import RequestLimits
from stitchwork.api.problem_details import problem_response
from stitchwork.errors import ErrorCode
from stitchwork.queue.streams import new_id

log = logging.getLogger(__name__)

LINGER_SECONDS: Final = 3.0
"""How long an answered client may go on with its body; shut at once it would miss the answer."""
SPARE_CONNECTIONS: Final = 64
"""Connections above the limit that still hear why they are refused."""
HEALTH: Final = ("/health/live", "/health/ready")


class Connection(HttpToolsProtocol):
    """A connection with these bounds; `bounded` gives it its limits."""

    limits: ClassVar[RequestLimits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._whole = True
        self._in_head = True
        self._moved = False
        self._silent = 0
        most = self.limits.max_connections
        if len(self.connections) > most + SPARE_CONNECTIONS:
            transport.abort()
            return
        if len(self.connections) > most:
            told = f"this process has {most} connections (max_connections) already"
            self.app = _unless_health(self.app, 503, ErrorCode.TOO_MANY_CONNECTIONS, told)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._disarm()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes; if they are of no message yet, one is to follow soon."""
        if self._whole and self._reading is None:
            self._expect_head()
        self._moved = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        # A head that does not end, or what follows a chunk: nothing has come of these bytes.
        self._silent = 0 if self._moved else self._silent + len(data)
        if self._silent > self.limits.max_header_bytes:
            self._refuse(431, ErrorCode.HEADERS_TOO_LARGE, self._head_told)
        elif self._in_head and not self._whole and self._reading is None:
            self._expect_head()

    def on_message_begin(self) -> None:
        """A request has begun."""
        super().on_message_begin()
        self._whole, self._in_head = False, True

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._in_head, self._moved = False, True
        self._disarm()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size <= self.limits.max_header_bytes:
            super().on_headers_complete()
            return
        app = self.app
        self.app = _refusal(431, ErrorCode.HEADERS_TOO_LARGE, self._head_told)
        super().on_headers_complete()
        self.app = app

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._whole, self._moved = True, True
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is answered; whoever is still sending may not do so for ever."""
        super().on_response_complete()
        last = self.cycle is not None and self.cycle.response_complete
        if last and not (self._whole or self._in_head or self.transport.is_closing()):
            self._disarm()
            self._reading = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """The client takes its answer slower than it is given."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """It has taken most of it."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    def _expect_head(self) -> None:
        self._reading = self.loop.call_later(self.limits.header_timeout_seconds, self._late)

    def _late(self) -> None:
        self._reading = None
        if self.cycle is not None and not self.cycle.response_complete:
            # While an earlier request is answered, this connection may not even be read.
            self._expect_head()
            return
        seconds = self.limits.header_timeout_seconds
        told = f"the headers did not arrive within {seconds:g} seconds (header_timeout_seconds)"
        self._refuse(408, ErrorCode.SLOW_REQUEST, told)

    def _expect_reading(self) -> None:
        left = self.transport.get_write_buffer_size()
        seconds = self.limits.header_timeout_seconds
        self._writing = self.loop.call_later(seconds, self._check_reading, left)

    def _check_reading(self, before: int) -> None:
        self._writing = None
        taken = before - self.transport.get_write_buffer_size()
        if taken < self.limits.min_bytes_per_second * self.limits.header_timeout_seconds:
            log.info("connection closed", extra={"reason": "the client did not read the response"})
            self.transport.abort()
            return
        self._expect_reading()

    def _refuse(self, status: int, code: ErrorCode, told: str) -> None:
        """Answer, if nothing else is being answered, and hang up."""
        log.info("connection closed", extra={"code": code})
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        answer = _answer(status, code, told)
        head = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        head += [b"%s: %s" % pair for pair in answer.raw_headers]
        self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
        self.transport.close()

    def _disarm(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    @property
    def _head_told(self) -> str:
        size = self.limits.max_header_bytes
        return f"the head of a request may have {size} bytes (max_header_bytes)"


def bounded(limits: RequestLimits) -> type[Connection]:
    """Connections with these limits."""
    return type("Bounded", (Connection,), {"limits": limits})


def _answer(status: int, code: ErrorCode, told: str) -> Response:
    headers = {"Connection": "close"} | ({"Retry-After": "1"} if status == 503 else {})
    return problem_response(status, code, told, new_id(), headers=headers)


def _refusal(status: int, code: ErrorCode, told: str) -> ASGIApp:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await _answer(status, code, told)(scope, receive, send)

    return refuse


def _unless_health(app: Any, status: int, code: ErrorCode, told: str) -> Any:
    """Refuse everything but the question whether this process is well."""
    refuse = _refusal(status, code, told)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope["path"] in HEALTH else refuse)(scope, receive, send)

    return serve
