"""Routes that are called without the framework's dispatch, dependencies and middleware.

FastAPI documents them as any other route. Each is called with its request and path parameters, and
reads and validates its own body.
"""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from stitchwork.api.message_state import BodyBytes, message_state, request_headers
from stitchwork.api.middleware.request_body import RequestBody


class DirectRequest(Request):
    """A request whose body is received at once.

    Args:
        scope: The request's.
        body: Its body.
    """

    def __init__(self, scope: Scope, body: RequestBody) -> None:
        super().__init__(scope, body.receive)
        self._request_body = body

    def reserve(self, count: int) -> None:
        """Count bytes that the request is about to need; see `RequestBody.reserve`."""
        self._request_body.reserve(count)

    async def receive_body(self) -> BodyBytes:
        """The whole body, once."""
        length = request_headers(self.scope).get(b"content-length", b"")
        size = int(length) if length.isdigit() else 0
        return await self._request_body.read(message_state(self.scope), size)


def reserve(request: Request, count: int) -> None:
    """Count bytes that a request is about to need, if it is a direct one.

    Raises:
        InputTooLargeError: If one request may never hold that much.
        QueueFullError: If all requests together would hold too much.
    """
    if isinstance(request, DirectRequest):
        request.reserve(count)


@contextmanager
def reserved(request: Request, count: int) -> Iterator[None]:
    """A context that needs so many bytes; raises what `reserve` raises."""
    reserve(request, count)
    try:
        yield
    finally:
        reserve(request, -count)


class DirectRoute(APIRoute):
    """A route whose endpoint gets only the request and the path parameters."""

    async def call(self, request: Request) -> Response:
        """The endpoint's response."""
        response: Response = await self.endpoint(request=request, **request.scope["path_params"])
        return response

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The same for the framework, if a request reaches the route through it."""
        return self.call


class DirectRoutes:
    """The direct routes of an app, found by one look at the path.

    Args:
        routes: All routes of the app, in order.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._by_path: dict[tuple[str, str], DirectRoute] = {}
        self._by_segment: dict[tuple[str, str], list[DirectRoute]] = {}
        for route in routes:
            if isinstance(route, DirectRoute):
                for method in route.methods or ():
                    if route.param_convertors:
                        key = (method, _first_segment(route.path))
                        self._by_segment.setdefault(key, []).append(route)
                    else:
                        self._by_path[method, route.path] = route

    def find(self, scope: Scope) -> DirectRoute | None:
        """The direct route of a request, with its parameters in the scope; None for others."""
        method, path = scope["method"], scope["path"]
        route = self._by_path.get((method, path))
        if route is not None:
            scope["route"], scope["path_params"] = route, {}
            return route
        for route in self._by_segment.get((method, _first_segment(path)), ()):
            match = route.path_regex.match(path)
            if match:
                scope["route"], scope["path_params"] = route, match.groupdict()
                return route
        return None


def _first_segment(path: str) -> str:
    return path[: path.find("/", 1)]
