"""Builds the parts of a process from its settings; the one place that constructs things."""

from typing import Any

from service import __version__
from service.api.depends import Limits, Parts
from service.errors import QueueUnavailable, RegistryUnavailable
from service.queue.dispatcher import Dispatcher
from service.settings import Settings
from service.store.inverses import Inverses
from service.store.registry import Registry
from service.store.server import Server
from service.translator import HeadCache, Translator


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


def api_parts(settings: Settings) -> Parts:
    """What the API is made of.

    Raises:
        RegistryUnavailable: If the registry server cannot be reached.
    """
    registry_server, queue_server = servers(settings)
    registry = registry_on(registry_server, settings)
    inverses = Inverses(queue_server, settings.fit_threads)
    return Parts(
        registry=registry,
        inverses=inverses,
        translator=Translator(registry, inverses, settings.fused_cache_bytes),
        heads=HeadCache(registry),
        dispatcher=Dispatcher(
            queue_server,
            most_jobs=settings.queue_jobs,
            most_bytes=settings.queue_bytes,
            worker_ttl=settings.worker_ttl,
        ),
        limits=Limits(
            body_bytes=settings.max_body_bytes,
            rows=settings.max_rows,
            items=settings.max_items,
            anchors=settings.max_anchors,
            width=settings.max_width,
            job_items=settings.job_items,
            seconds=settings.request_timeout,
        ),
        version=__version__,
    )


def worker(settings: Settings) -> Any:
    """A worker; what it needs is imported here, since only workers have torch.

    Raises:
        RegistryUnavailable: If the registry server cannot be reached.
    """
    import torch

    from service.models.catalog import Catalog
    from service.queue.consumer import Consumer
    from service.worker import Worker

    registry_server, queue_server = servers(settings)
    registry = registry_on(registry_server, settings)
    inverses = Inverses(queue_server, settings.fit_threads)
    catalog = Catalog(settings.device, settings.model_roots, settings.offline)
    limit_blas(settings)
    if settings.blas_threads:
        torch.set_num_threads(settings.blas_threads)

    def place(array: Any) -> torch.Tensor:
        return torch.as_tensor(array).to(catalog.device)

    return Worker(
        registry,
        Consumer(queue_server, batch_items=settings.batch_items, worker_ttl=settings.worker_ttl),
        Translator(registry, inverses, settings.fused_cache_bytes, place),
        HeadCache(registry, place=place),
        catalog,
        batch_items=settings.batch_items,
        chunk_items=settings.job_items,
    )


def limit_blas(settings: Settings) -> None:
    """Cap the threads of one matrix product in this process, so that processes share the cores."""
    if settings.blas_threads:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        threadpool_limits(settings.blas_threads)
