"""What the server knows of a request beside ASGI: whether its body and its client are there.

ASGI can only be asked by receiving, which waits. The server's protocol puts this into the scope;
under another server, such as a test's, it is missing and requests wait as ASGI does.
"""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

BodyBytes: TypeAlias = bytes | bytearray | memoryview
"""The bytes of a body; only those of a short one are `bytes`, which to join would take too long."""

MESSAGE: Final = "stitchwork.message"
HEADERS: Final = "stitchwork.headers"


class MessageState:
    """The state of one request.

    Attributes:
        is_complete: Whether the whole body has arrived.
        is_disconnected: Whether the client has disconnected.
        on_disconnect: Called once when it does.
    """

    __slots__ = ("is_complete", "is_disconnected", "on_disconnect")

    def __init__(self) -> None:
        self.is_complete = False
        self.is_disconnected = False
        self.on_disconnect: Callable[[], object] | None = None


# Scopes are typed as dictionaries of ASGI's own keys, hence Any.
def begin(scope: Any) -> None:
    """A request has begun."""
    scope[MESSAGE] = MessageState()


def complete(scope: Any) -> None:
    """The whole body of a request has arrived."""
    scope[MESSAGE].is_complete = True


def disconnect(scope: Any) -> None:
    """The client of a request has disconnected."""
    state: MessageState = scope[MESSAGE]
    state.is_disconnected = True
    callback, state.on_disconnect = state.on_disconnect, None
    if callback is not None:
        callback()


def message_state(scope: Mapping[str, Any]) -> MessageState | None:
    """The state of a request; None under a server that does not report it."""
    return scope.get(MESSAGE)


def request_headers(scope: MutableMapping[str, Any]) -> dict[bytes, bytes]:
    """The headers of a request by their names in lower case; of equal ones the last."""
    headers: dict[bytes, bytes] | None = scope.get(HEADERS)
    if headers is None:
        headers = scope[HEADERS] = dict(scope["headers"])
    return headers
