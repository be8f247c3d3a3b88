"""Composition root of an API process."""

from dataclasses import fields

from stitchwork import __version__
from stitchwork.api.dependencies import AppState
from stitchwork.api.image_urls import ImageFetcher
from stitchwork.api.limits import RequestLimits
from stitchwork.api.reports.anchor_reports import AnchorReports
from stitchwork.api.reports.space_comparison import SpaceComparisons
from stitchwork.api.server_metrics import ServerMetricsCollector
from stitchwork.bootstrap.shared import registry_on, servers, telemetry
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.pipeline import Pipeline
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
    producer = Producer(
        queue_server,
        max_jobs=settings.max_queue_jobs,
        max_bytes=settings.max_queue_bytes,
        max_wait_seconds=settings.max_queue_wait_seconds,
        worker_ttl_seconds=settings.worker_ttl_seconds,
        metrics=seen.metrics,
    )
    return AppState(
        registry=registry,
        inverses=inverses,
        pipeline=Pipeline(
            registry=registry,
            translator=Translator(
                registry, inverses, settings.map_cache_bytes, metrics=seen.metrics
            ),
            classifiers=ClassifierCache(registry, metrics=seen.metrics),
            producer=producer,
            telemetry=seen,
            items_per_job=settings.items_per_job,
        ),
        producer=producer,
        limits=_request_limits(settings),
        service_limits=settings.limits(),
        version=__version__,
        comparisons=SpaceComparisons(registry),
        anchor_reports=AnchorReports(registry),
        api_keys=ApiKeyCache(
            registry.keys,
            settings.key_file,
            stale_seconds=settings.stale_seconds,
            must=settings.must_have_keys,
        ),
        rate_limiter=RateLimiter(queue_server, settings.rate_limits, seen.metrics),
        image_fetcher=ImageFetcher(
            () if settings.offline else settings.image_url_hosts,
            max_urls=settings.max_items,
            max_bytes=settings.max_image_url_bytes,
            max_inflight_bytes=settings.max_inflight_body_bytes,
            timeout_seconds=settings.image_url_timeout_seconds,
        ),
        metrics_public=settings.metrics_public,
        server_metrics=ServerMetricsCollector(registry, producer),
        telemetry=seen,
    )


def _request_limits(settings: Settings) -> RequestLimits:
    names = [field.name for field in fields(RequestLimits)]
    return RequestLimits(**{name: getattr(settings, name) for name in names})
