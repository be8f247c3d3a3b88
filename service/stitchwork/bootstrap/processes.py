"""Builds the parts of a process from its settings; the one place that constructs things."""

import os
import socket
from functools import partial
from typing import Any, Final

from prometheus_client import start_http_server

from stitchwork import __version__
from stitchwork.api.dependencies import Limits, Parts
from stitchwork.api.image_urls import Fetcher
from stitchwork.api.reports.anchor_reports import AnchorReports
from stitchwork.api.reports.space_comparison import Comparisons
from stitchwork.api.server_metrics import Standing
from stitchwork.errors import QueueUnavailable, RegistryUnavailable
from stitchwork.inference.inverse_cache import Inverses
from stitchwork.inference.translator import HeadCache, Translator
from stitchwork.queue.messages import UPKEEP
from stitchwork.queue.producer import Dispatcher
from stitchwork.queue.streams import new_id
from stitchwork.queue.worker_registry import Announcement
from stitchwork.redis.client import Server
from stitchwork.redis.rate_limiter import Rates
from stitchwork.registry.api_keys import KeyRing
from stitchwork.registry.registry import Registry
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics, Telemetry

HUNG: Final = 70
"""Exit code of a worker that a call never came back to."""


def servers(settings: Settings) -> tuple[Server, Server]:
    """The registry server and the queue server; the second is the first where only one is named."""
    if settings.redis_url is None:
        raise ValueError("redis_url (STITCHWORK_REDIS_URL) must name the registry server")
    queue_url = settings.queue_url or settings.redis_url
    return (
        Server(
            settings.redis_url,
            settings.redis_timeout,
            RegistryUnavailable,
            replicas=settings.replicas,
        ),
        Server(queue_url, settings.redis_timeout, QueueUnavailable),
    )


def registry_on(server: Server, settings: Settings) -> Registry:
    """The registry; it promises durability only where the server can keep that promise.

    Raises:
        RegistryUnavailable: If the server is away, or replicas are to write and it cannot say so.
    """
    durable = settings.durable and server.promises()
    if settings.replicas and not durable:
        raise RegistryUnavailable(
            "replicas (STITCHWORK_REPLICAS) needs a registry server that keeps an append-only "
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
    port = settings.worker_metrics_port + settings.worker_number
    try:
        start_http_server(port, settings.host, metrics.registry)
    except OSError as error:
        raise ValueError(f"worker_metrics_port {port}: {error.strerror}") from error


def api_parts(settings: Settings) -> Parts:
    """What the API is made of.

    Raises:
        RegistryUnavailable: If the registry server cannot be reached.
    """
    registry_server, queue_server = servers(settings)
    registry = registry_on(registry_server, settings)
    seen = telemetry(settings, "api")
    inverses = Inverses(queue_server, settings.fit_threads, seen.metrics)
    dispatcher = Dispatcher(
        queue_server,
        most_jobs=settings.queue_jobs,
        most_bytes=settings.queue_bytes,
        most_waited=settings.queue_seconds,
        worker_ttl=settings.worker_ttl,
        metrics=seen.metrics,
    )
    return Parts(
        registry=registry,
        inverses=inverses,
        translator=Translator(registry, inverses, settings.fused_cache_bytes, metrics=seen.metrics),
        heads=HeadCache(registry, metrics=seen.metrics),
        dispatcher=dispatcher,
        limits=Limits(
            body_bytes=settings.max_body_bytes,
            rows=settings.max_rows,
            items=settings.max_items,
            anchors=settings.max_anchors,
            width=settings.max_width,
            job_items=settings.job_items,
            json_values=settings.max_json_values,
            json_depth=settings.max_json_depth,
            head_layers=settings.max_head_layers,
            held_bytes=settings.max_held_bytes,
            head_bytes=settings.max_head_bytes,
            connections=settings.max_connections,
            seconds=settings.request_timeout,
            slow_seconds=settings.slow_seconds,
            least_rate=settings.least_rate,
        ),
        told_limits=settings.limits(),
        version=__version__,
        comparisons=Comparisons(registry),
        reports=AnchorReports(registry),
        keys=KeyRing(
            registry.keys,
            settings.key_file,
            stale_seconds=settings.stale_seconds,
            must=settings.must_have_keys,
        ),
        rates=Rates(queue_server, settings.rate_limits, seen.metrics),
        fetcher=Fetcher(
            () if settings.offline else settings.url_hosts,
            most=settings.max_items,
            most_bytes=settings.max_url_bytes,
            most_held=settings.max_held_bytes,
            seconds=settings.url_seconds,
        ),
        metrics_open=settings.metrics_open,
        standing=Standing(registry, dispatcher),
        telemetry=seen,
    )


def worker(settings: Settings) -> Any:
    """A worker; what it needs is imported here, since only workers have torch.

    Raises:
        RegistryUnavailable: If the registry server cannot be reached.
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

    from stitchwork.models.encoder_cache import Catalog
    from stitchwork.queue.consumer import Consumer
    from stitchwork.queue.worker_registry import Presence
    from stitchwork.worker.encoder_check import Verifier
    from stitchwork.worker.loop import Worker, describe, load, patience
    from stitchwork.worker.registration import FIT_SECONDS, Upkeep

    registry_server, queue_server = servers(settings)
    registry = registry_on(registry_server, settings)
    inverses = Inverses(queue_server, settings.fit_threads, seen.metrics)
    catalog = Catalog(
        settings.device,
        settings.model_roots,
        settings.offline,
        hub_models=settings.hub_models,
        memory_bytes=settings.model_memory_bytes,
        number=settings.worker_number,
        most_pixels=settings.max_image_pixels,
        most_tokens=settings.max_text_tokens,
        compiling=settings.compile,
        graphs=settings.cuda_graphs,
        metrics=seen.metrics,
    )
    limit_blas(settings)
    if settings.blas_threads:
        torch.set_num_threads(settings.blas_threads)
    batch_items = settings.batch_items or (32 if catalog.device.type == "cpu" else 64)
    name = f"{socket.gethostname()}-{os.getpid()}-{new_id()[:8]}"
    translator = Translator(
        registry, inverses, settings.fused_cache_bytes, catalog.place, seen.metrics
    )
    verifier = Verifier(registry, catalog)
    presence = Presence(
        queue_server,
        settings.worker_ttl,
        lambda: describe(name, settings.serves, catalog, verifier),
    )
    announced = Announcement(worker=name, serves=settings.serves)

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
        batch_items=1,
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
        batch_items=2 * batch_items,
        lease=settings.lease_seconds,
        hang=settings.hang_seconds,
        takes=for_models,
        patience=partial(patience, catalog, presence),
        on_buried=lambda job: upkeep.give_up(job),
        on_hang=end,
        telemetry=seen,
    )
    upkeep = Upkeep(
        registry,
        fits,
        translator,
        catalog,
        partial(load, catalog, consumer.leases),
        batch_items=batch_items,
        chunk_items=settings.job_items,
    )
    heads = HeadCache(registry, place=catalog.place, metrics=seen.metrics)
    return Worker(
        consumer,
        presence,
        upkeep,
        translator,
        heads,
        catalog,
        verifier,
        batch_items=batch_items,
        telemetry=seen,
    )


def limit_blas(settings: Settings) -> None:
    """Cap the threads of one matrix product in this process, so that processes share the cores."""
    if settings.blas_threads:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        threadpool_limits(settings.blas_threads)
