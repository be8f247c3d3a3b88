"""Hands the parts of the service to routes, as typed Annotated aliases."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Header, Path, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from stitchwork.api.image_urls import ImageFetcher
from stitchwork.api.reports.anchor_reports import AnchorReports
from stitchwork.api.reports.space_comparison import Comparisons
from stitchwork.api.server_metrics import ServerMetricsCollector
from stitchwork.errors import (
    ClientDisconnectedError,
    DeadlineExceededError,
    InvalidInputError,
    QueueFullError,
)
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.queue.producer import Producer
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.registry.api_keys import ApiKeyCache
from stitchwork.registry.entries import Condition
from stitchwork.registry.registry import Registry
from stitchwork.resources import ID_PATTERN, check_id
from stitchwork.telemetry import Telemetry

T = TypeVar("T")

COMPUTE_THREADS: Final = 8
MOST_UNDER_WAY: Final = 128
MOST_COMPARISONS: Final = 16
"""Comparisons of spaces that may wait; they are made one after another, beside translations."""


class BoundedExecutor:
    """Threads for matrix products, apart from those that wait for a server.

    Args:
        most: Pieces of work that may be under way or wait for a thread.
        threads: How many threads.
        what: What the work is called.
    """

    def __init__(
        self, most: int, threads: int = COMPUTE_THREADS, what: str = "translations"
    ) -> None:
        self._most = most
        self._what = what
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compute")
        self._guard = threading.Lock()
        self._under_way = 0

    def check_room(self) -> None:
        """Refuse at once, before its body is read, what would only wait.

        Raises:
            QueueFullError: If as many as may be are under way.
        """
        if self._under_way >= self._most:
            raise QueueFullError(f"{self._most} {self._what} are under way in this process already")

    async def run(self, work: Callable[[], T], seconds: float) -> T:
        """Run blocking work away from the event loop, and wait for it only so long.

        Raises:
            QueueFullError: If as many as may be are under way.
            DeadlineExceededError: If it takes longer; what it computes is kept for whoever asks
            next.
        """
        self.check_room()
        with self._guard:
            self._under_way += 1
        # In the context of the request, so that what is done is seen as part of it.
        running = self._pool.submit(copy_context().run, work)
        running.add_done_callback(self._end)
        try:
            # Cancels what no thread has begun with; what one has is counted until it is through.
            return await asyncio.wait_for(asyncio.wrap_future(running), seconds)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"no answer within {seconds:g} seconds (request_timeout_seconds, or less as asked)"
            ) from error

    def close(self) -> None:
        """Start nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _end(self, _: Future[Any]) -> None:
        with self._guard:
            self._under_way -= 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold, and how long it may take."""

    body_bytes: int
    rows: int
    items: int
    anchors: int
    width: int
    items_per_job: int
    json_values: int
    json_depth: int
    head_layers: int
    held_bytes: int
    head_bytes: int
    connections: int
    seconds: float
    header_timeout_seconds: float
    min_bytes_per_second: int


@dataclass(frozen=True, slots=True)
class AppState:
    """What the API is made of; `drain` is set once this process is about to end.

    `told_limits` are those of the whole service by the names of their settings, to be shown.
    """

    registry: Registry
    inverses: InverseCache
    translator: Translator
    heads: ClassifierCache
    dispatcher: Producer
    limits: Limits
    told_limits: Mapping[str, Any]
    version: str
    comparisons: Comparisons
    reports: AnchorReports
    standing: ServerMetricsCollector
    keys: ApiKeyCache
    rates: RateLimiter
    fetcher: ImageFetcher
    metrics_public: bool = False
    threads: BoundedExecutor = field(default_factory=lambda: BoundedExecutor(MOST_UNDER_WAY))
    comparing: BoundedExecutor = field(
        default_factory=lambda: BoundedExecutor(MOST_COMPARISONS, 1, "comparisons")
    )
    drain: threading.Event = field(default_factory=threading.Event)
    telemetry: Telemetry = field(default_factory=Telemetry)


class DirectRoute(APIRoute):
    """A route of inference: it gets the request and its path's parameters, and asks for the rest.

    Looking for dependencies, which FastAPI does in each request, costs more than what they do.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint, called as it is; it reads and checks its own body."""
        endpoint: Callable[..., Coroutine[Any, Any, Response]] = self.endpoint

        async def handle(request: Request) -> Response:
            return await endpoint(request=request, **request.path_params)

        return handle


def app_state(request: Request) -> AppState:
    """The parts, for routes that look for no dependencies."""
    parts: AppState = request.app.state.parts
    return parts


async def _parts(request: Request) -> AppState:
    return app_state(request)


StateDep = Annotated[AppState, Depends(_parts)]


ID_SCHEMA: Final[dict[str, Any]] = {"type": "string", "pattern": ID_PATTERN}
"""Shown, not checked: `check_id` says better what is wrong."""
PathId = Annotated[
    str, Path(description="Letters, digits, `.`, `_`, `-`.", json_schema_extra=ID_SCHEMA)
]


async def _resource_id(
    id_: Annotated[
        str,
        Path(
            alias="id", description="Letters, digits, `.`, `_`, `-`.", json_schema_extra=ID_SCHEMA
        ),
    ],
) -> str:
    return check_id(id_)


ResourceId = Annotated[str, Depends(_resource_id)]


async def _condition(
    if_match: Annotated[str | None, Header(description="Version that must stand.")] = None,
    if_none_match: Annotated[
        str | None,
        Header(
            description="`*`: nothing may stand.",
            json_schema_extra={"type": "string", "enum": ["*"]},
        ),
    ] = None,
) -> Condition:
    if if_none_match is not None and if_none_match.strip() != "*":
        raise InvalidInputError(f"If-None-Match: expected *, got {if_none_match[:80]!r}")
    match = None
    if if_match is not None:
        # Weak tags never match: a version is compared byte for byte.
        tags = [tag.strip() for tag in if_match.split(",")]
        match = frozenset(tag.strip('"') for tag in tags if tag and not tag.startswith("W/"))
    return Condition(match, absent=if_none_match is not None)


ConditionDep = Annotated[Condition, Depends(_condition)]


TIMEOUT: Final[dict[str, Any]] = {
    "name": "x-request-timeout",
    "in": "header",
    "required": False,
    "description": "Seconds after which the answer is of no use.",
    "schema": {"type": "string", "pattern": r"^[1-9][0-9]{0,8}(\.[0-9]{1,9})?$"},
}
"""What `seconds_of` reads, as OpenAPI has it."""


def seconds_of(request: Request) -> float:
    """Seconds that a request may take: as its `X-Request-Timeout` says, within the limit.

    Raises:
        InvalidInputError: If that is no number of seconds.
    """
    most = app_state(request).limits.seconds
    told = request.headers.get(TIMEOUT["name"])
    if told is None:
        return most
    try:
        seconds = float(told)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidInputError(
            f"X-Request-Timeout: expected seconds, more than 0, got {told[:40]!r}"
        )
    return min(seconds, most)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for work as long as the client does; its body must have been read.

    Raises:
        ClientDisconnectedError: If the client hangs up; the work is cancelled.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnectedError("the client hung up")
    finally:
        working.cancel()
        leaving.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
