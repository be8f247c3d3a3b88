"""Composition root of an API process."""

import logging
from dataclasses import fields

from stitchwork import __version__
from stitchwork.api.content.body_parser import BodyParser
from stitchwork.api.dependencies import AppState
from stitchwork.api.encoder_names import EncoderNames
from stitchwork.api.executors import ProcessExecutor, row_threads
from stitchwork.api.grpc_address import GrpcAddress
from stitchwork.api.image_urls import ImageFetcher
from stitchwork.api.limits import RequestLimits
from stitchwork.api.reports.anchor_reports import AnchorReports
from stitchwork.api.reports.report_jobs import ReportJobs
from stitchwork.api.reports.space_comparison import SpaceComparisons
from stitchwork.api.server import ServerOptions
from stitchwork.api.server_metrics import ServerMetricsCollector
from stitchwork.bootstrap.shared import connect_servers, make_telemetry, open_registry
from stitchwork.errors import RegistryUnavailableError
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.pipeline import Pipeline
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.queue.producer import Producer
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.registry.api_key_cache import ApiKeyCache
from stitchwork.registry.server_report import ServerReporter
from stitchwork.registry.space_checks import SpaceCheckThread
from stitchwork.settings import Settings

log = logging.getLogger(__name__)


def make_app_state(settings: Settings) -> AppState:
    """The state of the API, connected to its servers.

    Raises:
        RegistryUnavailableError: If the registry server cannot be reached.
    """
    registry_server, shards = connect_servers(settings)
    registry = open_registry(registry_server, settings)
    telemetry = make_telemetry(settings, "api")
    inverses = InverseCache(shards[0], settings.fit_threads, telemetry.metrics)
    producer = Producer(
        shards,
        max_jobs=settings.max_queue_jobs,
        max_bytes=settings.max_queue_bytes,
        max_wait_seconds=settings.max_queue_wait_seconds,
        worker_ttl_seconds=settings.worker_ttl_seconds,
        worker_restart_seconds=settings.worker_restart_seconds,
        caller_classes=settings.caller_classes,
        metrics=telemetry.metrics,
    )
    limits = _request_limits(settings)
    return AppState(
        registry=registry,
        inverses=inverses,
        pipeline=Pipeline(
            registry=registry,
            translator=Translator(
                registry, inverses, settings.map_cache_bytes, metrics=telemetry.metrics
            ),
            classifiers=ClassifierCache(
                registry, settings.head_cache_bytes, metrics=telemetry.metrics
            ),
            producer=producer,
            telemetry=telemetry,
            items_per_job=settings.items_per_job,
        ),
        producer=producer,
        limits=limits,
        body_parser=BodyParser(limits, ProcessExecutor(), row_threads()),
        service_limits=settings.limits(),
        version=__version__,
        comparisons=SpaceComparisons(registry, registry.reports),
        anchor_reports=AnchorReports(registry, registry.reports),
        report_jobs=ReportJobs(registry.reports),
        api_keys=ApiKeyCache(
            registry.keys,
            settings.key_file,
            admin_key=settings.admin_key.get_secret_value() if settings.admin_key else None,
            stale_seconds=settings.stale_seconds,
            required=settings.keys_required,
        ),
        rate_limiter=RateLimiter(shards[0], settings.rate_limits, telemetry.metrics),
        image_fetcher=ImageFetcher(
            () if settings.offline else settings.image_url_hosts,
            max_urls=settings.max_items,
            max_bytes=settings.max_image_url_bytes,
            max_inflight_bytes=settings.max_inflight_body_bytes,
            timeout_seconds=settings.image_url_timeout_seconds,
        ),
        space_checks=SpaceCheckThread(registry.space_checks),
        encoder_names=EncoderNames(registry.spaces),
        hub_models=settings.hub_models,
        model_aliases=settings.model_aliases,
        metrics_public=settings.metrics_public,
        server_metrics=ServerMetricsCollector(registry, producer),
        server_reporter=ServerReporter(registry, shards),
        telemetry=telemetry,
    )


def grpc_address(settings: Settings, *, is_shared: bool) -> GrpcAddress | None:
    """Where the gRPC API listens; None if it is off.

    Args:
        settings: The settings.
        is_shared: Whether other processes of the service listen there as well.
    """
    if settings.grpc_port is None:
        return None
    return GrpcAddress(
        settings.host,
        settings.grpc_port,
        is_shared,
        tls_cert_file=settings.tls_cert_file,
        tls_key_file=settings.tls_key_file,
    )


def check_keys(keys: ApiKeyCache, host: str) -> None:
    """Read the keys before the service listens, and warn if there are none.

    Args:
        keys: The API keys.
        host: Address that the service will listen on.
    """
    try:
        keys.reload()
        if not keys.is_empty:
            return
    except RegistryUnavailableError as error:
        extra = {"reason": error.message, "effect": "only keys of the settings are accepted"}
        log.warning("API keys unavailable", extra=extra)
        return
    hint = (
        "`stitchwork api-keys add NAME --scope admin` creates a key; admin_key "
        "(STITCHWORK_ADMIN_KEY) sets one"
    )
    extra = {"host": host, "hint": hint}
    if keys.required:
        extra["effect"] = "every request that needs a key is refused"
        log.warning("no API key exists", extra=extra)
    else:
        extra["reason"] = "no API key exists"
        extra["effect"] = "any client may read, change and delete everything"
        log.warning("authentication disabled", extra=extra)


def server_options(settings: Settings) -> ServerOptions:
    """How the API is served."""
    names = [field.name for field in fields(ServerOptions)]
    return ServerOptions(**{name: getattr(settings, name) for name in names})


def _request_limits(settings: Settings) -> RequestLimits:
    names = [field.name for field in fields(RequestLimits)]
    return RequestLimits(**{name: getattr(settings, name) for name in names})
