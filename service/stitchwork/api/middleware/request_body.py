"""Limits on the size and the duration of request bodies, whichever route reads them.

A compressed body is refused rather than decompressed, except where clients of another protocol send
one: embeddings and images hardly shrink. `content.compression` bounds what it expands to.
"""

import asyncio
import mmap
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from starlette.types import Message, Receive

from stitchwork.api.limits import COMPRESSED_PATHS, RequestLimits
from stitchwork.api.message_state import BodyBytes, MessageState
from stitchwork.api.middleware.body_turns import BodyTurns
from stitchwork.errors import (
    ClientDisconnectedError,
    InputTooLargeError,
    QueueFullError,
    SlowRequestError,
    StitchworkError,
    UnsupportedFormatError,
)

MAPPED_BYTES: Final = 256 * 1024
"""Declared length above which a body gets a mapping of its own, which is returned at its end; the
heap keeps what many bodies at once took. The kernel adds its pages one by one, each of which takes
a microsecond."""
HUGE_PAGE: Final = 2 * 1024 * 1024
HUGE_PAGES_BYTES: Final = 4 * 1024 * 1024
"""Bytes that have arrived from which the rest gets pages of two megabytes: at most half as much
more memory than was counted."""


class BodyLimits:
    """Limits the size and the duration of each body, and the bytes of all bodies in the process.

    Args:
        limits: Limits of one request.

    Attributes:
        limits: The same.
        turns: Turns in which the parts of bodies are read.
    """

    def __init__(self, limits: RequestLimits) -> None:
        self.limits = limits
        self.turns = BodyTurns()
        self._inflight_bytes = 0

    def check_headers(self, headers: Mapping[bytes, bytes], path: str) -> None:
        """Check what the headers of a request declare about its body.

        Raises:
            UnsupportedFormatError: If it is compressed, and its path does not accept that.
            InputTooLargeError: If it is larger than `max_body_bytes`.
            QueueFullError: If there is no room for it.
        """
        coding = headers.get(b"content-encoding")
        is_compressed = coding is not None and coding.strip().lower() != b"identity"
        if coding is not None and is_compressed and not COMPRESSED_PATHS.fullmatch(path):
            name = coding.decode("latin-1")
            raise UnsupportedFormatError(
                f"expected an uncompressed body, got content-encoding {name[:40]}"
            )
        length = headers.get(b"content-length", b"")
        if length.isdigit():
            if int(length) > self.limits.max_body_bytes:
                raise _too_large(self.limits)
            if self._inflight_bytes + int(length) > self.limits.max_inflight_body_bytes:
                raise self._full()

    def add_inflight(self, count: int) -> None:
        """Count bytes that arrived or will be computed; negative, once their request has ended.

        Raises:
            QueueFullError: If all requests together hold too much.
        """
        self._inflight_bytes += count
        if count > 0 and self._inflight_bytes > self.limits.max_inflight_body_bytes:
            raise self._full()

    def _full(self) -> QueueFullError:
        return QueueFullError(
            f"expected bodies and results of at most {self.limits.max_inflight_body_bytes} bytes "
            "(max_inflight_body_bytes) at a time in this process, got more"
        )


class _Content:
    """Parts of a body in one piece of memory.

    Memory of a long body's declared length is mapped at once, since to make it longer with each
    part copies what is there again and again. Of a mapping, only pages that are written to take
    memory; they are small ones at first, or a few bytes would take two megabytes, uncounted.
    """

    __slots__ = ("_data", "_mapping", "_size")

    def __init__(self, length: int) -> None:
        self._data: bytearray | memoryview = bytearray()
        self._mapping: mmap.mmap | None = None
        if length > MAPPED_BYTES:
            # The kernel places a mapping of whole large pages where one of them may begin.
            size = -(-length // HUGE_PAGE) * HUGE_PAGE
            self._mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            _advise(self._mapping, "MADV_NOHUGEPAGE", size)
            self._data = memoryview(self._mapping)[:length]
        self._size = 0

    def append(self, part: bytes) -> None:
        """Add a part."""
        start, self._size = self._size, self._size + len(part)
        data = self._data
        if isinstance(data, memoryview) and self._size <= len(data):
            data[start : self._size] = part
            if self._mapping is not None and self._size >= HUGE_PAGES_BYTES:
                _advise(self._mapping, "MADV_HUGEPAGE", len(data) // HUGE_PAGE * HUGE_PAGE)
                self._mapping = None
            return
        # Without a declared length, or a server that lets a body be longer.
        if isinstance(data, memoryview):
            self._data = data = bytearray(data[:start])
        data += part

    @property
    def data(self) -> bytearray | memoryview:
        """All parts."""
        return self._data[: self._size] if self._size < len(self._data) else self._data


def _advise(mapping: mmap.mmap, advice: str, size: int) -> None:
    """Advise the kernel on the first bytes of a mapping, unless it has no large pages."""
    if hasattr(mmap, advice):
        with suppress(OSError):
            mapping.madvise(getattr(mmap, advice), 0, size)


class RequestBody:
    """The body of one request while it is received.

    Args:
        body_limits: The limits.
        receive: The server's.
        in_parts: Whether it is received in parts; the rate of a whole one cannot be measured.

    Attributes:
        size: The bytes that have arrived.
        error: Why it was refused, if it was.
    """

    __slots__ = (
        "_complete",
        "_in_parts",
        "_limits",
        "_receive",
        "_reserved",
        "_waited_seconds",
        "error",
        "size",
    )

    def __init__(self, body_limits: BodyLimits, receive: Receive, *, in_parts: bool = True) -> None:
        self._limits = body_limits
        self._receive = receive
        self._in_parts = in_parts
        self._complete = False
        self._waited_seconds = 0.0
        self.size = 0
        self._reserved = 0
        self.error: StitchworkError | None = None

    async def read(self, state: MessageState | None, length: int = 0) -> BodyBytes:
        """The whole body.

        Args:
            state: The state of the request; None if it is not known.
            length: The number of bytes that its headers declare, 0 for none.

        Raises:
            ClientDisconnectedError: If the client disconnects first.
            StitchworkError: What `receive` raises.
        """
        if state is not None and state.is_complete:
            # Nothing is waited for, so nothing needs a time limit.
            message = self._count(await self._receive())
        else:
            message = await self.receive()
        if self._complete and message["type"] == "http.request":
            data: bytes = message["body"]
            return data
        content = _Content(length)
        while message["type"] == "http.request":
            content.append(message.get("body", b""))
            if self._complete:
                return content.data
            message = await self.receive()
        raise ClientDisconnectedError("the client disconnected")

    async def receive(self) -> Message:
        """The next part of the body; after the last one, any other message of the connection.

        Raises:
            InputTooLargeError: If the body is larger than `max_body_bytes`.
            QueueFullError: If the bodies of all requests together are too large.
            SlowRequestError: If the body arrives below `min_bytes_per_second` or takes too long.
        """
        if self._complete:
            return await self._receive()
        try:
            return self._count(await self._receive_part())
        except (InputTooLargeError, QueueFullError, SlowRequestError) as error:
            self._complete, self.error = True, error
            raise

    def reserve(self, count: int) -> None:
        """Count bytes that the request is about to need besides its body; negative, once gone.

        Raises:
            InputTooLargeError: If one request may never hold that much.
            QueueFullError: If all requests together would hold too much.
        """
        limit = self._limits.limits.max_inflight_body_bytes
        total = self.size + self._reserved + count
        if count > 0 and total > limit:
            raise InputTooLargeError(
                f"expected a request that takes at most {limit} bytes with its body "
                f"(max_inflight_body_bytes), got one that takes {total}; send less in a request"
            )
        self._reserved += count
        self._limits.add_inflight(count)

    def release(self) -> None:
        """The request has ended."""
        self._limits.add_inflight(-self.size - self._reserved)

    async def _receive_part(self) -> Message:
        limits = self._limits.limits
        if self.size:
            await self._limits.turns.wait()
        # Only the time spent waiting for the client counts, not the service's own between parts.
        allowed = limits.request_timeout_seconds
        if self._in_parts:
            allowed = limits.header_timeout_seconds + self.size / limits.min_bytes_per_second
        remaining = min(allowed, limits.request_timeout_seconds) - self._waited_seconds
        clock = asyncio.get_running_loop().time
        start = clock()
        try:
            async with asyncio.timeout(max(0.0, remaining)):
                message = await self._receive()
        except TimeoutError as error:
            if allowed < limits.request_timeout_seconds:
                raise SlowRequestError(
                    f"expected at least {limits.min_bytes_per_second} bytes a second "
                    f"(min_bytes_per_second) after {limits.header_timeout_seconds:g} seconds "
                    f"(header_timeout_seconds), got {self.size} bytes"
                ) from error
            raise SlowRequestError(
                f"expected the body within {limits.request_timeout_seconds:g} seconds "
                f"(request_timeout_seconds), got {self.size} bytes"
            ) from error
        self._waited_seconds += clock() - start
        return message

    def _count(self, message: Message) -> Message:
        if message["type"] != "http.request":
            self._complete = True
            return message
        self._complete = not message.get("more_body", False)
        count = len(message.get("body", b""))
        self.size += count
        self._limits.add_inflight(count)
        if self.size > self._limits.limits.max_body_bytes:
            raise _too_large(self._limits.limits)
        return message


def _too_large(limits: RequestLimits) -> InputTooLargeError:
    return InputTooLargeError(
        f"expected a body of at most {limits.max_body_bytes} bytes (max_body_bytes), got more"
    )
