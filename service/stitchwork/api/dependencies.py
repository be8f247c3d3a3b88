"""State of the API, and how routes get it: typed `Annotated` dependencies."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Header, Path, Query, Request

from stitchwork.api.executors import MAX_COMPARISONS, BoundedExecutor, Load
from stitchwork.api.image_urls import ImageFetcher
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import message_state, request_headers
from stitchwork.api.reports.anchor_reports import AnchorReports
from stitchwork.api.reports.space_comparison import SpaceComparisons
from stitchwork.api.server_metrics import ServerMetricsCollector
from stitchwork.background import BackgroundTask
from stitchwork.errors import ClientDisconnectedError, InvalidInputError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.ids import ID_PATTERN, check_id
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.pipeline import Pipeline
from stitchwork.queue.producer import Producer
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.registry.api_key_cache import ApiKeyCache
from stitchwork.registry.entries import Condition
from stitchwork.registry.registry import Registry
from stitchwork.registry.server_report import ServerReporter
from stitchwork.registry.space_checks import SpaceCheckThread
from stitchwork.telemetry import Telemetry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AppState:
    """What the routes of one API process share.

    Attributes:
        pipeline: Inference, from ids to predictions.
        limits: Limits of one request.
        service_limits: Limits of the whole service by the names of their settings, as
            `/info` lists them.
        hub_models: Patterns of the models that may be loaded from a hub.
        model_aliases: Names of models of OpenAI's API for other models.
        executor: Runs array arithmetic.
        comparison_executor: Runs comparisons of spaces and reports on anchors.
        space_checks: Compares new spaces with the others on their sets.
        load: The load of this process.
        draining: Set once this process is about to exit.
    """

    registry: Registry
    inverses: InverseCache
    pipeline: Pipeline
    producer: Producer
    limits: RequestLimits
    service_limits: Mapping[str, Any]
    version: str
    comparisons: SpaceComparisons
    anchor_reports: AnchorReports
    server_metrics: ServerMetricsCollector
    server_reporter: ServerReporter
    api_keys: ApiKeyCache
    rate_limiter: RateLimiter
    image_fetcher: ImageFetcher
    space_checks: SpaceCheckThread
    hub_models: Sequence[str] = ()
    model_aliases: Mapping[str, str] = field(default_factory=dict)
    metrics_public: bool = False
    executor: BoundedExecutor = field(default_factory=BoundedExecutor)
    comparison_executor: BoundedExecutor = field(
        default_factory=lambda: BoundedExecutor(MAX_COMPARISONS, threads=1, name="comparisons")
    )
    load: Load = field(default_factory=Load)
    draining: threading.Event = field(default_factory=threading.Event)
    telemetry: Telemetry = field(default_factory=Telemetry)

    @property
    def background_tasks(self) -> Sequence[BackgroundTask]:
        """The tasks that this process depends on, which readiness shows."""
        return (
            self.api_keys.task,
            self.registry.lease_keeper.task,
            self.space_checks.task,
            self.telemetry.metrics.buffer.task,
            *self.producer.tasks,
        )


def app_state(request: Request) -> AppState:
    """The state of the API, for routes without dependencies."""
    state: AppState = request.app.state.stitchwork
    return state


async def _state(request: Request) -> AppState:
    return app_state(request)


StateDep = Annotated[AppState, Depends(_state)]

ID_SCHEMA: Final[dict[str, Any]] = {"type": "string", "pattern": ID_PATTERN}
"""For OpenAPI only: `check_id` validates, with a better message."""
BridgeQuery = Annotated[BridgeName, Query(description="Bridge between the two spaces.")]
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
    if_match: Annotated[
        str | None, Header(description="Version that must be the current one.")
    ] = None,
    if_none_match: Annotated[
        str | None,
        Header(
            description="`*`: the resource must not exist.",
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


TIMEOUT_HEADER: Final = b"x-request-timeout"
TIMEOUT_PARAMETER: Final[dict[str, Any]] = {
    "name": TIMEOUT_HEADER.decode(),
    "in": "header",
    "required": False,
    "description": "Deadline of the request, in seconds from now.",
    "schema": {"type": "string", "pattern": r"^[1-9][0-9]{0,8}(\.[0-9]{1,9})?$"},
}
"""OpenAPI's description of the header that `request_timeout` reads."""


def request_timeout(request: Request) -> float:
    """Seconds that a request may take: its `X-Request-Timeout`, within the service's limit.

    Raises:
        InvalidInputError: If the header is not a positive number.
    """
    limit = app_state(request).limits.request_timeout_seconds
    header = request_headers(request.scope).get(TIMEOUT_HEADER)
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
