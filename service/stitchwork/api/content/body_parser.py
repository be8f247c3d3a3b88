"""Where a body is parsed: on the event loop, on a thread, or in another process.

A parser holds the interpreter's lock until it is done. A short body takes less time than to hand it
to a thread and back. A large one of JSON would hold up all requests for seconds, and take many
times its size in memory, so another process parses it; its result is compact.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from starlette.requests import Request

from stitchwork.api.direct_routes import DirectRequest, reserved
from stitchwork.api.executors import BoundedExecutor, ProcessExecutor
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import BodyBytes, request_headers
from stitchwork.api.request_lifetime import header_timeout, run_while_connected
from stitchwork.errors import InputTooLargeError
from stitchwork.processes.pool import ProcessDiedError

T = TypeVar("T")

SHORT_TEXT: Final = 32 * 1024
"""Bytes up to which JSON, NDJSON and multipart are parsed on the event loop."""
SHORT_ARRAY: Final = 1024 * 1024
"""The same for a body that is an array already; longer ones are parsed on a thread."""
LONG_TEXT: Final = 192 * 1024
"""Bytes above which JSON, NDJSON and multipart are parsed in another process."""
LONG_ROWS: Final = 1024 * 1024
"""The same for JSON that has rows of numbers and little else; shorter ones take a thread less time
than it takes to send them to another process."""
ROW_BYTES: Final = 2
"""Bytes of rows of numbers for each byte of their text, where they have one digit. To parse them
takes four times that, but on two threads at most."""


class BodyParser:
    """Parses bodies of requests within their deadlines, while their clients are connected.

    Args:
        limits: Limits of one request.
        processes: Parses large bodies.
        threads: Parses rows of numbers in slices.
    """

    def __init__(
        self, limits: RequestLimits, processes: ProcessExecutor, threads: BoundedExecutor
    ) -> None:
        self.limits = limits
        self._processes = processes
        self._threads = threads

    async def receive(
        self, request: Request, *, is_array: bool = False, may_have_rows: bool = False
    ) -> BodyBytes:
        """Receive the body of a request.

        Args:
            request: The request.
            is_array: Whether it is an array already.
            may_have_rows: Whether it is JSON that may have rows of numbers.

        Raises:
            QueueFullError: If it is so large that another process must parse it, and too many wait.
            StitchworkError: What the middleware's limits raise.
        """
        length = request_headers(request.scope).get(b"content-length", b"")
        size = int(length) if length.isdigit() else 0
        if not is_array and size > LONG_TEXT:
            in_thread = may_have_rows and size <= LONG_ROWS
            (self._threads if in_thread else self._processes).check_capacity()
        # Limits of its size and duration are those of `middleware.request_body`.
        data: BodyBytes
        if isinstance(request, DirectRequest):
            data = await request.receive_body()
        else:
            data = joined = bytearray()
            async for part in request.stream():
                joined += part
        return bytes(data) if len(data) <= LONG_TEXT else data

    async def parse(
        self,
        request: Request,
        function: Callable[..., T],
        *arguments: Any,
        text_bytes: int,
        array_bytes: int = 0,
    ) -> T:
        """Parse the body of a request.

        Args:
            request: The request.
            function: Parses it; a function of a module, whose result can be pickled.
            arguments: Its arguments; the body is one of them.
            text_bytes: Size of what must be parsed byte for byte, such as JSON.
            array_bytes: Size of the arrays in it, which become arrays as they are.

        Raises:
            InputTooLargeError: If it takes more memory than another process or a request may have.
            QueueFullError: If too many large bodies wait, or there is no room for what is parsed.
            DeadlineExceededError: If another process takes too long.
            ClientDisconnectedError: If the client disconnects first.
            StitchworkError: What the function raises.
        """
        if text_bytes <= SHORT_TEXT and array_bytes <= SHORT_ARRAY:
            return function(*arguments)
        if text_bytes <= LONG_TEXT:
            return await run_while_connected(request, asyncio.to_thread(function, *arguments))
        headers = request_headers(request.scope)
        seconds = header_timeout(headers, self.limits.request_timeout_seconds)
        try:
            # The result comes back while the body is still there.
            with reserved(request, max(text_bytes, array_bytes)):
                work = self._processes.run(function, *arguments, seconds=seconds)
                return await run_while_connected(request, work)
        except ProcessDiedError as error:
            raise InputTooLargeError(
                f"expected a body that takes at most {self._processes.max_bytes} bytes of memory "
                "to parse; send arrays as safetensors or .npy"
            ) from error

    async def parse_rows(
        self, request: Request, function: Callable[[int], T | None], text_bytes: int
    ) -> T | None:
        """Parse JSON that may have rows of numbers on a thread, where `parse` would not.

        Args:
            request: The request.
            function: Parses it without holding the interpreter's lock for long; takes the maximum
                number of bytes beside the rows, and returns None if there are more, or no rows.
            text_bytes: Size of the body.

        Returns:
            The result; None if `parse` must parse it.

        Raises:
            QueueFullError: If too many bodies wait for a thread, or there is no room for the rows.
            DeadlineExceededError: If it takes too long.
            ClientDisconnectedError: If the client disconnects first.
            StitchworkError: What the function raises.
        """
        if not LONG_TEXT < text_bytes <= LONG_ROWS:
            return None
        headers = request_headers(request.scope)
        seconds = header_timeout(headers, self.limits.request_timeout_seconds)
        with reserved(request, ROW_BYTES * text_bytes):
            work = self._threads.run(partial(function, LONG_TEXT), seconds)
            return await run_while_connected(request, work)

    def close(self) -> None:
        """End the processes and threads."""
        self._processes.close()
        self._threads.close()
