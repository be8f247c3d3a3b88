"""What API processes and workers share: servers, registry, telemetry, threads."""

import logging
import os
from collections.abc import Sequence

from stitchwork import __version__
from stitchwork.container_limits import thread_limit
from stitchwork.errors import RegistryUnavailableError
from stitchwork.queue.shards import QueueShard
from stitchwork.redis.client import RedisClient
from stitchwork.redis.urls import shard_urls
from stitchwork.registry.registry import Registry
from stitchwork.registry.server_report import ServerReporter
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics, Telemetry

log = logging.getLogger(__name__)


def connect_servers(settings: Settings) -> tuple[RedisClient, tuple[QueueShard, ...]]:
    """The registry server and the shards of the queue.

    Raises:
        ValueError: If `redis_url` is unset.
    """
    if settings.redis_url is None:
        raise ValueError("redis_url (STITCHWORK_REDIS_URL) must name the registry server")
    timeout = settings.redis_timeout_seconds
    urls = shard_urls(settings.queue_url or settings.redis_url, settings.queue_shards)
    registry = RedisClient(
        settings.redis_url, timeout, RegistryUnavailableError, replicas=settings.durable_replicas
    )
    is_only = len(urls) == 1
    shards = [QueueShard(url, timeout, number, is_only=is_only) for number, url in enumerate(urls)]
    return registry, tuple(shards)


def open_registry(server: RedisClient, settings: Settings) -> Registry:
    """The registry; it confirms writes to disk only if the server supports that.

    Raises:
        RegistryUnavailableError: If the server is unavailable, or cannot confirm the writes of
            replicas that `durable_replicas` requires.
    """
    durable = settings.durable and server.confirms_writes()
    if settings.durable_replicas and not durable:
        raise RegistryUnavailableError(
            "durable_replicas (STITCHWORK_DURABLE_REPLICAS) needs a registry server with an "
            "append-only file and WAITAOF: Valkey, or Redis 7.2 or later"
        )
    return Registry(server, durable=durable, stale_seconds=settings.stale_seconds)


def check_servers(registry: Registry, shards: Sequence[QueueShard]) -> None:
    """Warn about settings of the servers that lose or expose data."""
    for warning in ServerReporter(registry, shards).report().warnings:
        log.warning("server misconfigured", extra={"reason": warning})


def make_telemetry(settings: Settings, process: str) -> Telemetry:
    """The metrics and spans of a process.

    Args:
        settings: Its settings.
        process: `api` or `worker`.

    Raises:
        ValueError: If tracing is on and OpenTelemetry is not installed.
    """
    metrics = Metrics(__version__, settings.metrics_file)
    if not settings.tracing:
        return Telemetry(metrics)
    try:
        from stitchwork.telemetry.tracing import Tracing
    except ModuleNotFoundError as error:
        raise ValueError(
            f"tracing (STITCHWORK_TRACING) needs {error.name}: pip install 'stitchwork[otel]'"
        ) from error
    return Telemetry(metrics, Tracing(f"stitchwork-{process}", __version__))


def limit_blas(settings: Settings) -> int | None:
    """Limit the threads of one matrix product, so that processes share the cores.

    Returns:
        Their number; None for the libraries' default.
    """
    threads = settings.blas_threads or thread_limit(os.cpu_count() or 1)
    if threads:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        threadpool_limits(threads)
        # For scipy's BLAS, which is loaded with the first fit.
        os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    return threads
