"""Bodies: refused as soon as they prove too large or too slow, whichever route reads them.

It stands before every route, so that none can forget it. Nothing is inflated here: a compressed
body is refused, for embeddings and images hardly shrink, and what unpacks to a thousand times its
size would have to be bounded twice.
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
    """Bounds the bytes and the time of each body, and the bytes of all that this process holds.

    Args:
        app: What reads the bodies.
        limits: What one request may hold.
    """

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self._app = app
        self._limits = limits
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check(headers)
        except StitchworkError as error:
            await send_error(error, scope, receive, send)
            return
        body = _Body(self, receive, self._limits)
        begun = refused = False

        async def sending(message: Message) -> None:
            nonlocal begun, refused
            if body.fault is None or begun:
                begun = True
                await send(message)
            elif not refused:
                # Whatever the route made of it, the client hears what was wrong.
                refused = True
                await send_error(body.fault, scope, receive, send)

        try:
            await self._app(scope, body.receive, sending)
        finally:
            self._held -= body.size

    def hold(self, count: int) -> None:
        """Count bytes that arrived.

        Raises:
            QueueFullError: If the bodies of all requests together are too many.
        """
        self._held += count
        if self._held > self._limits.max_inflight_body_bytes:
            raise QueueFullError(
                f"requests under way hold {self._limits.max_inflight_body_bytes} bytes "
                "(max_inflight_body_bytes) in this "
                "process already"
            )

    def _check(self, headers: dict[bytes, bytes]) -> None:
        """What the head of a request says of its body.

        Raises:
            UnsupportedFormatError: If it is compressed.
            InputTooLargeError: If it is larger than a body may be.
        """
        coding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        if coding.strip().lower() != "identity":
            raise UnsupportedFormatError(
                f"expected an uncompressed body, got content-encoding {coding[:40]}"
            )
        claimed = headers.get(b"content-length", b"")
        if claimed.isdigit() and int(claimed) > self._limits.max_body_bytes:
            raise _too_large(self._limits)


class _Body:
    """The body of one request as it comes in."""

    def __init__(
        self, intake: BodyLimitMiddleware, receive: Receive, limits: RequestLimits
    ) -> None:
        self._intake = intake
        self._receive = receive
        self._limits = limits
        self._ended = False
        self._waited = 0.0
        self.size = 0
        self.fault: StitchworkError | None = None

    async def receive(self) -> Message:
        """The next piece; after the last one, whatever else the connection has to say.

        Raises:
            InputTooLargeError: If there are more bytes than a body may have.
            QueueFullError: If all bodies together are too many.
            SlowRequestError: If the client lags behind the least rate, or the body takes too long.
        """
        if self._ended:
            return await self._receive()
        try:
            return await self._next()
        except (InputTooLargeError, QueueFullError, SlowRequestError) as error:
            self._ended, self.fault = True, error
            raise

    async def _next(self) -> Message:
        limits = self._limits
        # Only time spent waiting for the client counts, not what the service takes between pieces.
        owed = limits.header_timeout_seconds + self.size / limits.min_bytes_per_second
        left = min(owed, limits.request_timeout_seconds) - self._waited
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(max(0.0, left)):
                message = await self._receive()
        except TimeoutError as error:
            if owed < limits.request_timeout_seconds:
                raise SlowRequestError(
                    f"the body came slower than {limits.min_bytes_per_second} bytes a second "
                    "(min_bytes_per_second) "
                    f"after {limits.header_timeout_seconds:g} seconds (header_timeout_seconds)"
                ) from error
            raise SlowRequestError(
                f"the body did not arrive within {limits.request_timeout_seconds:g} seconds "
                "(request_timeout_seconds)"
            ) from error
        self._waited += clock() - began
        if message["type"] != "http.request":
            self._ended = True
            return message
        self._ended = not message.get("more_body", False)
        count = len(message.get("body", b""))
        self.size += count
        self._intake.hold(count)
        if self.size > limits.max_body_bytes:
            raise _too_large(limits)
        return message


def _too_large(limits: RequestLimits) -> InputTooLargeError:
    return InputTooLargeError(
        f"a body may have {limits.max_body_bytes} bytes at most (max_body_bytes)"
    )
