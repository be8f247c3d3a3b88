"""What a method does, without its I/O: one definition for the sync and the async client.

A flow is a generator. It yields steps, receives the result of each (or its error), and returns the
result of the method. A client performs flows: one waits, the other awaits.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce, update_wrapper, wraps
from operator import or_
from types import GenericAlias, MethodType, UnionType
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
    get_args,
    get_origin,
    overload,
)
from urllib.parse import quote

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import save

from stitchwork.client.service_errors import read_json


class LabelArray(Protocol):
    """An array of labels, such as numpy's or a torch tensor."""

    def tolist(self) -> Any:
        """The labels as a list."""


Labels: TypeAlias = Sequence[str] | Sequence[int] | Sequence[bool] | LabelArray
"""Labels of one type, as a list, an array or a torch tensor."""
Targets: TypeAlias = Labels | Sequence[Sequence[Any]] | Sequence[float]
"""What is true of each row: a label, its labels, a number or its numbers."""

P = ParamSpec("P")
T = TypeVar("T")

JSON: Final = "application/json"
SAFETENSORS: Final = "application/vnd.safetensors"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; its result is an `httpx.Response` that is a success.

    Attributes:
        method: The HTTP method.
        path: The path, its parts quoted.
        query: Parameters of the query.
        headers: Headers.
        content: The body.
        is_part: Whether other parts of the same call may be in progress: it may have to wait for
            these.
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

        All but DELETE: registering the same again changes nothing, and the rest only computes. A
        second DELETE would report that there is no such resource.
        """
        return self.method != "DELETE"

    def arguments(self) -> dict[str, Any]:
        """It as arguments of httpx."""
        return {
            "method": self.method,
            "url": self.path,
            "params": self.query,
            "headers": self.headers,
            "content": self.content,
        }


class Pause(NamedTuple):
    """Seconds to wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Parallel:
    """Flows to perform concurrently.

    After an error of one, no other begins or is repeated; those in progress end, and their results
    are handled before the error is raised.

    Attributes:
        flows: The flows; the next one starts once there is room for it.
        max_concurrency: How many may be in progress.
        on_result: Called with the result of each, in the order of their completion, never
            concurrently.
    """

    flows: Iterator["Flow[Any]"]
    max_concurrency: int
    on_result: Callable[[Any], None]


Step: TypeAlias = Request | Pause | Parallel
Flow: TypeAlias = Generator[Step, Any, T]


class SyncClient(Protocol):
    """A client whose methods return their results."""

    def perform(self, flow: Flow[T]) -> T:
        """Perform a flow."""


class AsyncClient(Protocol):
    """A client whose methods return awaitables."""

    def perform(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        """Perform a flow."""


class Operation(Generic[P, T]):
    """Turns a flow into a method of both clients.

    Args:
        function: Makes the flow; its annotation is `Flow[T]`.
    """

    def __init__(self, function: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self._function = function
        self._methods: dict[type, Callable[..., Any]] = {}
        update_wrapper(self, function)  # type: ignore[arg-type]

    @overload
    def __get__(self, client: None, owner: type) -> Callable[Concatenate[Any, P], Any]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: SyncClient, owner: type) -> Callable[P, T]: ...
    def __get__(self, client: Any, owner: type) -> Callable[..., Any]:
        """The method of a client or, of a class, its function."""
        if owner not in self._methods:
            self._methods[owner] = self._method(owner)
        method = self._methods[owner]
        return method if client is None else MethodType(method, client)

    def _method(self, owner: type) -> Callable[..., Any]:
        @wraps(self._function)
        def method(client: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            return client.perform(self._function(client, *args, **kwargs))

        is_async = inspect.iscoroutinefunction(getattr(owner, "perform", None))
        signature = _public_signature(self._function, is_async)
        method.__signature__ = signature  # type: ignore[attr-defined]
        return method


def _public_signature(function: Callable[..., Any], is_async: bool) -> inspect.Signature:
    """The signature of a method for `help()`: the flow's result in place of the flow."""
    signature = inspect.signature(function, eval_str=True)
    parameters = [
        parameter.replace(annotation=_plain(parameter.annotation))
        for parameter in signature.parameters.values()
    ]
    _, _, result = get_args(signature.return_annotation)
    result = _plain(result)
    if is_async:
        result = GenericAlias(Awaitable, (result,))
    return signature.replace(parameters=parameters, return_annotation=result)


def _plain(annotation: Any) -> Any:
    """An annotation with `numpy.ndarray` in place of its generic form."""
    if get_origin(annotation) is np.ndarray:
        return np.ndarray
    if isinstance(annotation, UnionType):
        return reduce(or_, map(_plain, get_args(annotation)))
    return annotation


def send(
    method: str,
    path: str,
    *,
    query: Mapping[str, Any] | None = None,
    body: Any = None,
) -> Flow[httpx.Response]:
    """Send a request with a JSON body, or without one."""
    content, headers = None, {}
    if body is not None:
        content, headers = orjson.dumps(body), {"Content-Type": JSON}
    response: httpx.Response = yield Request(
        method, path, query_texts(query or {}), headers, content
    )
    return response


def send_json(
    method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None
) -> Flow[dict[str, Any]]:
    """Send a request with a JSON body, or without one, and read JSON."""
    response = yield from send(method, path, query=query, body=body)
    return read_json(response)


def send_arrays(
    method: str, path: str, fields: dict[str, Any], arrays: Mapping[str, Any]
) -> Flow[dict[str, Any]]:
    """Send JSON or, if there are arrays, safetensors with the fields as metadata; read JSON."""
    if not arrays:
        return (yield from send_json(method, path, body=fields))
    tensors = {name: float32_array(array) for name, array in arrays.items()}
    metadata = {key: orjson.dumps(value).decode() for key, value in fields.items()}
    headers = {"Content-Type": SAFETENSORS}
    response: httpx.Response = yield Request(method, path, {}, headers, save(tensors, metadata))
    return read_json(response)


def float32_array(array: Any) -> NDArray[np.float32]:
    """An array, or a torch tensor on any device, as contiguous float32."""
    if hasattr(array, "detach"):
        # In float32 first: numpy has no bfloat16.
        array = array.detach().float().cpu().numpy()
    return np.ascontiguousarray(array, np.float32)


def label_list(labels: Any) -> list[Any]:
    """Labels of a list, an array or a torch tensor as values of JSON, which keep their types.

    Those of several labels, or of several values, of each row are lists in the list.
    """
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    return [_plain_label(value) for value in values]


def _plain_label(value: Any) -> Any:
    if hasattr(value, "tolist"):
        # A number of an array, or a row of it.
        return value.tolist()
    return label_list(value) if isinstance(value, list | tuple | set) else value


def url_path(*parts: str) -> str:
    """A path of a URL, its parts quoted."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def query_texts(query: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a query that have a value, as texts."""
    return {key: str(value) for key, value in query.items() if value is not None}


def without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a body that have a value."""
    return {key: value for key, value in fields.items() if value is not None}
