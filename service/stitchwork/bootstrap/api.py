"""Composition root of an API process."""

from stitchwork import __version__
from stitchwork.api.dependencies import AppState, Limits
from stitchwork.api.image_urls import ImageFetcher
from stitchwork.api.reports.anchor_reports import AnchorReports
from stitchwork.api.reports.space_comparison import Comparisons
from stitchwork.api.server_metrics import ServerMetricsCollector
from stitchwork.bootstrap.shared import registry_on, servers, telemetry
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.queue.producer import Producer
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.registry.api_keys import ApiKeyCache
from stitchwork.settings import Settings


def api_parts(settings: Settings) -> AppState:
    """What the API is made of.

    Raises:
        RegistryUnavailableError: If the registry server cannot be reached.
    """
    registry_server, queue_server = servers(settings)
    registry = registry_on(registry_server, settings)
    seen = telemetry(settings, "api")
    inverses = InverseCache(queue_server, settings.fit_threads, seen.metrics)
    dispatcher = Producer(
        queue_server,
        most_jobs=settings.max_queue_jobs,
        most_bytes=settings.max_queue_bytes,
        most_waited=settings.max_queue_wait_seconds,
        worker_ttl_seconds=settings.worker_ttl_seconds,
        metrics=seen.metrics,
    )
    return AppState(
        registry=registry,
        inverses=inverses,
        translator=Translator(registry, inverses, settings.map_cache_bytes, metrics=seen.metrics),
        heads=ClassifierCache(registry, metrics=seen.metrics),
        dispatcher=dispatcher,
        limits=Limits(
            body_bytes=settings.max_body_bytes,
            rows=settings.max_rows,
            items=settings.max_items,
            anchors=settings.max_anchors,
            width=settings.max_width,
            items_per_job=settings.items_per_job,
            json_values=settings.max_json_values,
            json_depth=settings.max_json_depth,
            head_layers=settings.max_head_layers,
            held_bytes=settings.max_inflight_body_bytes,
            head_bytes=settings.max_header_bytes,
            connections=settings.max_connections,
            seconds=settings.request_timeout_seconds,
            header_timeout_seconds=settings.header_timeout_seconds,
            min_bytes_per_second=settings.min_bytes_per_second,
        ),
        told_limits=settings.limits(),
        version=__version__,
        comparisons=Comparisons(registry),
        reports=AnchorReports(registry),
        keys=ApiKeyCache(
            registry.keys,
            settings.key_file,
            stale_seconds=settings.stale_seconds,
            must=settings.must_have_keys,
        ),
        rates=RateLimiter(queue_server, settings.rate_limits, seen.metrics),
        fetcher=ImageFetcher(
            () if settings.offline else settings.image_url_hosts,
            most=settings.max_items,
            most_bytes=settings.max_image_url_bytes,
            most_held=settings.max_inflight_body_bytes,
            seconds=settings.image_url_timeout_seconds,
        ),
        metrics_public=settings.metrics_public,
        standing=ServerMetricsCollector(registry, dispatcher),
        telemetry=seen,
    )
