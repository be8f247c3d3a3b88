"""What a method does, without saying how it is sent: one definition for two kinds of client.

A flow is a generator. It yields steps, is given what came of each (or has its error thrown in), and
returns the method's answer. A sender carries flows out: by waiting, or by awaiting.
"""

from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import update_wrapper, wraps
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
)

import httpx
import orjson

from stitchwork.client.service_errors import json_of

P = ParamSpec("P")
T = TypeVar("T")

JSON: Final = "application/json"
SAFETENSORS: Final = "application/vnd.safetensors"


@dataclass(frozen=True, slots=True)
class Request:
    """One request; what comes of it is its answer, an `httpx.Response` without an error.

    Attributes:
        method: The HTTP method.
        path: The path, its parts quoted.
        query: Parameters of the query.
        headers: Headers.
        content: The body.
        is_part: Whether others of the same call are under way: it may be those that it has to
            wait for.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    is_part: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again although it may have been served already.

        All but DELETE: to register the same again changes nothing, and the rest only computes. A
        second DELETE would say that there is no such record.
        """
        return self.method != "DELETE"


class Pause(NamedTuple):
    """Seconds to let pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Many:
    """Flows to carry out side by side.

    Attributes:
        flows: The flows; the next one is begun once there is room for it.
        at_once: How many may be under way.
        each: Called with what each returns, in the order in which they end, never two at a time.
    """

    flows: Iterator["Flow[Any]"]
    at_once: int
    each: Callable[[Any], None]


Step: TypeAlias = Request | Pause | Many
Flow: TypeAlias = Generator[Step, Any, T]


class Waiting(Protocol):
    """A client whose methods return their answers."""

    def perform(self, flow: Flow[T]) -> T:
        """Carry out a flow."""


class Awaiting(Protocol):
    """A client whose methods return awaitables."""

    def perform(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        """Carry out a flow."""


class Operation(Generic[P, T]):
    """Makes a method of a flow; what calling it returns is for the client's sender to say."""

    def __init__(self, function: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self._function = function
        update_wrapper(self, function)  # type: ignore[arg-type]

    @overload
    def __get__(self, client: None, owner: type) -> Callable[Concatenate[Any, P], Flow[T]]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: Waiting, owner: type) -> Callable[P, T]: ...
    def __get__(self, client: Any, owner: type) -> Callable[..., Any]:
        """The method of one client; of the class, the flow's own function."""
        if client is None:
            return self._function

        @wraps(self._function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.perform(self._function(client, *args, **kwargs))

        return call


def ask(
    method: str,
    path: str,
    *,
    query: Mapping[str, Any] | None = None,
    told: Any = None,
) -> Flow[httpx.Response]:
    """Send JSON, or nothing."""
    content, headers = None, {}
    if told is not None:
        content, headers = orjson.dumps(told), {"Content-Type": JSON}
    answer: httpx.Response = yield Request(method, path, texts(query or {}), headers, content)
    return answer


def ask_json(
    method: str, path: str, *, query: Mapping[str, Any] | None = None, told: Any = None
) -> Flow[dict[str, Any]]:
    """Send JSON, or nothing, and read JSON."""
    answer = yield from ask(method, path, query=query, told=told)
    return json_of(answer)


def texts(query: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of a query; those without a value are left out."""
    return {key: str(value) for key, value in query.items() if value is not None}


def without_none(told: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a body that have a value."""
    return {key: value for key, value in told.items() if value is not None}
