"""Builds the parts of a process from its settings; the one place that constructs things."""

import os
import socket
from functools import partial
from typing import Any, Final

from prometheus_client import start_http_server

from stitchwork import __version__
from stitchwork.api.dependencies import AppState, Limits
from stitchwork.api.image_urls import ImageFetcher
from stitchwork.api.reports.anchor_reports import AnchorReports
from stitchwork.api.reports.space_comparison import Comparisons
from stitchwork.api.server_metrics import ServerMetricsCollector
from stitchwork.errors import QueueUnavailableError, RegistryUnavailableError
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.queue.messages import UPKEEP
from stitchwork.queue.producer import Producer
from stitchwork.queue.streams import new_id
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.redis.client import RedisServer
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.registry.api_keys import ApiKeyCache
from stitchwork.registry.registry import Registry
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics, Telemetry

HUNG: Final = 70
"""Exit code of a worker that a call never came back to."""


def servers(settings: Settings) -> tuple[RedisServer, RedisServer]:
    """The registry server and the queue server; the second is the first where only one is named."""
    if settings.redis_url is None:
        raise ValueError("redis_url (STITCHWORK_REDIS_URL) must name the registry server")
    queue_url = settings.queue_url or settings.redis_url
    return (
        RedisServer(
            settings.redis_url,
            settings.redis_timeout_seconds,
            RegistryUnavailableError,
            replicas=settings.durable_replicas,
        ),
        RedisServer(queue_url, settings.redis_timeout_seconds, QueueUnavailableError),
    )


def registry_on(server: RedisServer, settings: Settings) -> Registry:
    """The registry; it promises durability only where the server can keep that promise.

    Raises:
        RegistryUnavailableError: If the server is away, or replicas are to write and it cannot say
        so.
    """
    durable = settings.durable and server.promises()
    if settings.durable_replicas and not durable:
        raise RegistryUnavailableError(
            "durable_replicas (STITCHWORK_DURABLE_REPLICAS) needs a registry server that keeps an "
            "append-only "
            "file and knows WAITAOF: Valkey, or Redis from 7.2 on"
        )
    return Registry(server, durable=durable, stale_seconds=settings.stale_seconds)


def telemetry(settings: Settings, process: str) -> Telemetry:
    """How a process of this kind is seen.

    Raises:
        ValueError: If spans are to be sent and what sends them is not installed.
    """
    metrics = Metrics(__version__, settings.metrics_file)
    if not settings.tracing:
        return Telemetry(metrics)
    try:
        from stitchwork.telemetry.tracing import Tracing
    except ModuleNotFoundError as error:
        raise ValueError(
            f"tracing (STITCHWORK_TRACING) needs {error.name}, which stitchwork[otel] installs"
        ) from error
    return Telemetry(metrics, Tracing(f"stitchwork-{process}", __version__))


def show_metrics(settings: Settings, metrics: Metrics) -> None:
    """Show a worker's metrics on a port of its own, if it has one, until the process ends.

    Raises:
        ValueError: If the port is taken.
    """
    if not settings.worker_metrics_port:
        return
    port = settings.worker_metrics_port + settings.worker_index
    try:
        start_http_server(port, settings.host, metrics.registry)
    except OSError as error:
        raise ValueError(f"worker_metrics_port {port}: {error.strerror}") from error


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


def worker(settings: Settings) -> Any:
    """A worker; what it needs is imported here, since only workers have torch.

    Raises:
        RegistryUnavailableError: If the registry server cannot be reached.
    """
    seen = telemetry(settings, "worker")
    show_metrics(settings, seen.metrics)
    if settings.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    # All read once, on import. Without them the hub's libraries ask for more than the files that we
    # name: who runs them, and, of a model of pickles, somebody to convert it.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    import torch

    from stitchwork.models.encoder_cache import EncoderCache
    from stitchwork.queue.consumer import Consumer
    from stitchwork.queue.worker_registry import Heartbeat
    from stitchwork.worker.encoder_check import EncoderChecker
    from stitchwork.worker.loop import Worker, describe, load, patience
    from stitchwork.worker.registration import FIT_SECONDS, RegistrationRunner

    registry_server, queue_server = servers(settings)
    registry = registry_on(registry_server, settings)
    inverses = InverseCache(queue_server, settings.fit_threads, seen.metrics)
    catalog = EncoderCache(
        settings.device,
        settings.model_roots,
        settings.offline,
        hub_models=settings.hub_models,
        memory_bytes=settings.model_memory_bytes,
        number=settings.worker_index,
        most_pixels=settings.max_image_pixels,
        most_tokens=settings.max_text_tokens,
        compiling=settings.compile_models,
        graphs=settings.cuda_graphs,
        metrics=seen.metrics,
    )
    limit_blas(settings)
    if settings.blas_threads:
        torch.set_num_threads(settings.blas_threads)
    items_per_batch = settings.items_per_batch or (32 if catalog.device.type == "cpu" else 64)
    name = f"{socket.gethostname()}-{os.getpid()}-{new_id()[:8]}"
    translator = Translator(
        registry, inverses, settings.map_cache_bytes, catalog.place, seen.metrics
    )
    verifier = EncoderChecker(registry, catalog)
    presence = Heartbeat(
        queue_server,
        settings.worker_ttl_seconds,
        lambda: describe(name, settings.worker_models, catalog, verifier),
    )
    announced = WorkerStatus(worker=name, serves=settings.worker_models)

    def end() -> None:
        """A call that hangs cannot be interrupted; who watches this process starts another."""
        presence.leave()
        os._exit(HUNG)

    def for_fits(stream: str, model: str) -> bool:
        return stream == UPKEEP

    def for_models(stream: str, model: str) -> bool:
        return stream != UPKEEP and announced.takes(model)

    fits = Consumer(
        queue_server,
        f"{name}-fits",
        items_per_batch=1,
        lease=settings.lease_seconds,
        hang=FIT_SECONDS,
        takes=for_fits,
        on_buried=lambda job: upkeep.give_up(job),
        on_hang=end,
        telemetry=seen,
    )
    consumer = Consumer(
        queue_server,
        name,
        # Two batches at once: enough to sort by length, and others queue up meanwhile.
        items_per_batch=2 * items_per_batch,
        lease=settings.lease_seconds,
        hang=settings.forward_timeout_seconds,
        takes=for_models,
        patience=partial(patience, catalog, presence),
        on_buried=lambda job: upkeep.give_up(job),
        on_hang=end,
        telemetry=seen,
    )
    upkeep = RegistrationRunner(
        registry,
        fits,
        translator,
        catalog,
        partial(load, catalog, consumer.leases),
        items_per_batch=items_per_batch,
        chunk_items=settings.items_per_job,
    )
    heads = ClassifierCache(registry, place=catalog.place, metrics=seen.metrics)
    return Worker(
        consumer,
        presence,
        upkeep,
        translator,
        heads,
        catalog,
        verifier,
        items_per_batch=items_per_batch,
        telemetry=seen,
    )


def limit_blas(settings: Settings) -> None:
    """Cap the threads of one matrix product in this process, so that processes share the cores."""
    if settings.blas_threads:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        threadpool_limits(settings.blas_threads)
