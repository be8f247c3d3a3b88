"""Parses what a client sends in slices, so that no turn of the event loop is long.

One read holds up to 256 KB: tens of thousands of chunks of a byte, or thousands of requests, and
for each of them the parser calls back. uvicorn's protocol parses all of it at once, for each
connection that has something, and queues each request.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SLICE_BYTES: Final = 4096
"""Bytes that are parsed at once; of a body of declared length, all that were read."""
EVENTS_PER_TURN: Final = 2000
"""Callbacks of the parsers of all connections in a turn of the event loop, before others wait."""
REQUEST_EVENTS: Final = 20
"""Callbacks that take as long as a new request does."""


class ParserTurns:
    """Lets the parsers of a process call back so often in each turn of the event loop, in order.

    Attributes:
        events: Callbacks in this turn.
    """

    def __init__(self) -> None:
        self.events = 0
        self._waiting: deque[Callable[[], object]] = deque()
        self._is_scheduled = False

    def has_time(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a parser may go on in this turn."""
        self._schedule(loop)
        return self.events < EVENTS_PER_TURN

    def add(self, parse: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        """Call a function in a turn that has time for it."""
        self._waiting.append(parse)
        self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._begin_turn, loop)

    def _begin_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled, self.events = False, 0
        # Those that are added meanwhile wait for the next turn.
        for _ in range(len(self._waiting)):
            if self.events >= EVENTS_PER_TURN:
                break
            self._waiting.popleft()()
        if self._waiting:
            self._schedule(loop)


class _SliceFlow(FlowControl):
    """Flow control of a connection whose last read may not be parsed yet."""

    def __init__(self, protocol: "SlicedProtocol") -> None:
        super().__init__(protocol.transport)
        self._protocol = protocol
        self._is_waiting = False

    def resume_reading(self) -> None:
        """Parse the rest of the last read before more is read.

        Nothing is parsed while requests wait for their turn. A request resumes reading for its body
        and at its end, when it is the last one.
        """
        protocol = self._protocol
        if not self.read_paused or protocol.pipeline:
            return
        if protocol.unparsed:
            self.wait()
        else:
            super().resume_reading()

    def wait(self) -> None:
        """Pause reading, and parse on in another turn."""
        self.pause_reading()
        if not self._is_waiting:
            self._is_waiting = True
            self._protocol.turns.add(self._parse_on, self._protocol.loop)

    def _parse_on(self) -> None:
        self._is_waiting = False
        if not self._protocol.transport.is_closing():
            super().resume_reading()
            self._protocol.parse_unparsed()


class SlicedProtocol(HttpToolsProtocol):
    """A connection that parses a slice at a time while reading is not paused.

    Attributes:
        unparsed: The rest of the last read.
    """

    flow: _SliceFlow
    turns: ClassVar[ParserTurns]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.flow = _SliceFlow(self)
        self.unparsed = memoryview(b"")
        self._body_bytes = 0

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self.unparsed = memoryview(b"")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the client."""
        # TLS may decrypt more after reading was paused.
        self.unparsed = memoryview(b"".join((self.unparsed, data)) if self.unparsed else data)
        self.parse_unparsed()

    def parse_unparsed(self) -> None:
        """Parse what was read, until reading is paused or this turn has no time left."""
        while self.unparsed and not self.flow.read_paused:
            if len(self.unparsed) > SLICE_BYTES and not self.turns.has_time(self.loop):
                self.flow.wait()
                return
            size = max(SLICE_BYTES, self._body_bytes)
            part, self.unparsed = self.unparsed[:size], self.unparsed[size:]
            self.parse_slice(part)
            if self.transport.is_closing():
                self.unparsed = memoryview(b"")

    def parse_slice(self, part: memoryview) -> None:
        """Parse a part of what was read."""
        raise NotImplementedError

    def on_message_begin(self) -> None:
        """A request has begun."""
        self.turns.events += REQUEST_EVENTS
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of a request."""
        self.turns.events += 1
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers of a request are complete."""
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"")
        is_declared = length.isdigit() and b"transfer-encoding" not in headers
        self._body_bytes = int(length) if is_declared else 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body has arrived."""
        self.turns.events += 1
        self._body_bytes -= len(body)
        super().on_body(body)
