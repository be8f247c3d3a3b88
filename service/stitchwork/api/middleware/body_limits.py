"""Limits on the size and the duration of request bodies, whichever route reads them.

A compressed body is refused rather than decompressed: embeddings and images hardly shrink, and a
body that expands to a thousand times its size would need further limits.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stitchwork.api.limits import RequestLimits
from stitchwork.api.problem_details import send_error
from stitchwork.errors import (
    InputTooLargeError,
    QueueFullError,
    SlowRequestError,
    StitchworkError,
    UnsupportedFormatError,
)


class BodyLimitMiddleware:
    """Limits the size and the duration of each body, and the bytes of all bodies in the process.

    Args:
        app: The next app.
        limits: Limits of one request.
    """

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self._app = app
        self._limits = limits
        self._inflight_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check_headers(headers)
        except StitchworkError as error:
            await send_error(error, scope, receive, send)
            return
        body = _Body(self, receive, self._limits)
        started = refused = False

        async def send_or_refuse(message: Message) -> None:
            nonlocal started, refused
            if body.error is None or started:
                started = True
                await send(message)
            elif not refused:
                # The error of the body takes precedence over whatever the route made of it.
                refused = True
                await send_error(body.error, scope, receive, send)

        try:
            await self._app(scope, body.receive, send_or_refuse)
        finally:
            self._inflight_bytes -= body.size

    def add_inflight(self, count: int) -> None:
        """Count bytes that arrived.

        Raises:
            QueueFullError: If the bodies of all requests together are too large.
        """
        self._inflight_bytes += count
        if self._inflight_bytes > self._limits.max_inflight_body_bytes:
            raise QueueFullError(
                f"expected bodies of at most {self._limits.max_inflight_body_bytes} bytes "
                "(max_inflight_body_bytes) at a time in this process, got more"
            )

    def _check_headers(self, headers: dict[bytes, bytes]) -> None:
        """Check what the headers declare about the body.

        Raises:
            UnsupportedFormatError: If it is compressed.
            InputTooLargeError: If it is larger than `max_body_bytes`.
        """
        coding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        if coding.strip().lower() != "identity":
            raise UnsupportedFormatError(
                f"expected an uncompressed body, got content-encoding {coding[:40]}"
            )
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._limits.max_body_bytes:
            raise _too_large(self._limits)


class _Body:
    """The body of one request while it is received."""

    def __init__(
        self, middleware: BodyLimitMiddleware, receive: Receive, limits: RequestLimits
    ) -> None:
        self._middleware = middleware
        self._receive = receive
        self._limits = limits
        self._complete = False
        self._waited_seconds = 0.0
        self.size = 0
        self.error: StitchworkError | None = None

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
            return await self._receive_part()
        except (InputTooLargeError, QueueFullError, SlowRequestError) as error:
            self._complete, self.error = True, error
            raise

    async def _receive_part(self) -> Message:
        limits = self._limits
        # Only the time spent waiting for the client counts, not the service's own between parts.
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
        if message["type"] != "http.request":
            self._complete = True
            return message
        self._complete = not message.get("more_body", False)
        count = len(message.get("body", b""))
        self.size += count
        self._middleware.add_inflight(count)
        if self.size > limits.max_body_bytes:
            raise _too_large(limits)
        return message


def _too_large(limits: RequestLimits) -> InputTooLargeError:
    return InputTooLargeError(
        f"expected a body of at most {limits.max_body_bytes} bytes (max_body_bytes), got more"
    )
