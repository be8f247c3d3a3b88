"""State of the API, and how routes get it: typed `Annotated` dependencies."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Path, Query, Request, params
from fastapi.dependencies.utils import get_flat_params

from stitchwork.api.content.body_parser import BodyParser
from stitchwork.api.content.queries import check_known, check_unique
from stitchwork.api.encoder_names import EncoderNames
from stitchwork.api.executors import MAX_SELECTIONS, BoundedExecutor, Load
from stitchwork.api.image_urls import ImageFetcher
from stitchwork.api.kserve.statistics import InferenceStatistics
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import request_headers
from stitchwork.api.problem_details import has_own_format
from stitchwork.api.reports.anchor_reports import AnchorReports
from stitchwork.api.reports.report_jobs import ReportJobs
from stitchwork.api.reports.space_comparison import SpaceComparisons
from stitchwork.api.request_lifetime import header_timeout
from stitchwork.api.server_metrics import ServerMetricsCollector
from stitchwork.background import BackgroundTask
from stitchwork.errors import InvalidInputError
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
        body_parser: Parses bodies.
        executor: Runs array arithmetic.
        selection_executor: Chooses anchors.
        report_jobs: Computes reports.
        space_checks: Compares new spaces with the others on their sets.
        encoder_names: Names encoders.
        load: The load of this process.
        model_statistics: Requests of each model of the Open Inference Protocol.
        draining: Set once this process is about to exit.
    """

    registry: Registry
    inverses: InverseCache
    pipeline: Pipeline
    producer: Producer
    limits: RequestLimits
    body_parser: BodyParser
    service_limits: Mapping[str, Any]
    version: str
    comparisons: SpaceComparisons
    anchor_reports: AnchorReports
    report_jobs: ReportJobs
    server_metrics: ServerMetricsCollector
    server_reporter: ServerReporter
    api_keys: ApiKeyCache
    rate_limiter: RateLimiter
    image_fetcher: ImageFetcher
    space_checks: SpaceCheckThread
    encoder_names: EncoderNames
    hub_models: Sequence[str] = ()
    model_aliases: Mapping[str, str] = field(default_factory=dict)
    metrics_public: bool = False
    executor: BoundedExecutor = field(default_factory=BoundedExecutor)
    selection_executor: BoundedExecutor = field(
        default_factory=lambda: BoundedExecutor(
            MAX_SELECTIONS, threads=1, name="choices of anchors"
        )
    )
    load: Load = field(default_factory=Load)
    model_statistics: InferenceStatistics = field(default_factory=InferenceStatistics)
    draining: threading.Event = field(default_factory=threading.Event)
    grpc_tasks: list[BackgroundTask] = field(default_factory=list)
    telemetry: Telemetry = field(default_factory=Telemetry)

    @property
    def background_tasks(self) -> Sequence[BackgroundTask]:
        """The tasks that this process depends on, which readiness shows."""
        return (
            self.api_keys.task,
            self.registry.lease_keeper.task,
            self.space_checks.task,
            *self.report_jobs.tasks,
            self.telemetry.metrics.buffer.task,
            *self.producer.tasks,
            *self.grpc_tasks,
        )


def app_state(request: Request) -> AppState:
    """The state of the API, for routes without dependencies."""
    state: AppState = request.app.state.stitchwork
    return state


LIST_PARAMETERS: Final = ("spaces",)
"""Parameters of queries that may be repeated."""


WITHOUT_BODY: Final = ("GET", "DELETE")
"""Methods of requests whose parameters are all declared by the route; with a body, it has them."""


async def _state(request: Request) -> AppState:
    check_unique(request, LIST_PARAMETERS)
    if request.scope["query_string"] and request.method in WITHOUT_BODY:
        _check_declared(request)
    return app_state(request)


def _check_declared(request: Request) -> None:
    """Refuse a query parameter that a route of the service's own API does not declare.

    Raises:
        InvalidInputError: If there is one.
    """
    if has_own_format(request.scope["path"]):
        parameters = get_flat_params(request.scope["route"].dependant)
        names = [part.alias for part in parameters if isinstance(part.field_info, params.Query)]
        check_known(request, names)


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


def request_timeout(request: Request) -> float:
    """Seconds that a request may take: its `X-Request-Timeout`, within the service's limit.

    Raises:
        InvalidInputError: If the header is not a positive number.
    """
    limit = app_state(request).limits.request_timeout_seconds
    return header_timeout(request_headers(request.scope), limit)
