"""How long a request's work goes on: until its deadline, while its client is connected."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

from starlette.requests import Request

from stitchwork.api.message_state import message_state
from stitchwork.errors import ClientDisconnectedError, InvalidInputError

T = TypeVar("T")

TIMEOUT_HEADER: Final = b"x-request-timeout"
TIMEOUT_PARAMETER: Final[dict[str, Any]] = {
    "name": TIMEOUT_HEADER.decode(),
    "in": "header",
    "required": False,
    "description": "Deadline of the request, in seconds from now.",
    "schema": {"type": "string", "pattern": r"^[1-9][0-9]{0,8}(\.[0-9]{1,9})?$"},
}
"""OpenAPI's description of the header that `header_timeout` reads."""


def header_timeout(headers: Mapping[bytes, bytes], limit: float) -> float:
    """Seconds that a request may take: its `X-Request-Timeout`, within the service's limit.

    Raises:
        InvalidInputError: If the header is not a positive number.
    """
    header = headers.get(TIMEOUT_HEADER)
    if header is None:
        return limit
    value = header.decode("latin-1")
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidInputError(
            f"X-Request-Timeout: expected seconds, more than 0, got {value[:40]!r}"
        )
    return min(seconds, limit)


async def run_while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for work, and cancel it if the client disconnects; the body must have been read.

    Raises:
        ClientDisconnectedError: If the client disconnects first.
    """
    state, current = message_state(request.scope), asyncio.current_task()
    if state is None or current is None:
        return await _run_beside_receive(request, work)
    if state.is_disconnected:
        work.close()
        raise ClientDisconnectedError("the client disconnected")
    state.on_disconnect = current.cancel
    try:
        return await work
    except asyncio.CancelledError:
        # Cancelled by the disconnect alone, not by the server as well.
        if state.is_disconnected and not current.uncancel():
            raise ClientDisconnectedError("the client disconnected") from None
        raise
    finally:
        state.on_disconnect = None


async def _run_beside_receive(request: Request, work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnectedError("the client disconnected")
    finally:
        task.cancel()
        disconnect.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
