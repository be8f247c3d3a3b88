"""What API processes and workers have in common: servers, registry, telemetry, threads."""

from stitchwork import __version__
from stitchwork.errors import QueueUnavailableError, RegistryUnavailableError
from stitchwork.redis.client import RedisClient
from stitchwork.registry.registry import Registry
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics, Telemetry


def servers(settings: Settings) -> tuple[RedisClient, RedisClient]:
    """The registry server and the queue server; the second is the first where only one is named."""
    if settings.redis_url is None:
        raise ValueError("redis_url (STITCHWORK_REDIS_URL) must name the registry server")
    queue_url = settings.queue_url or settings.redis_url
    return (
        RedisClient(
            settings.redis_url,
            settings.redis_timeout_seconds,
            RegistryUnavailableError,
            replicas=settings.durable_replicas,
        ),
        RedisClient(queue_url, settings.redis_timeout_seconds, QueueUnavailableError),
    )


def registry_on(server: RedisClient, settings: Settings) -> Registry:
    """The registry; it promises durability only where the server can keep that promise.

    Raises:
        RegistryUnavailableError: If the server is away, or replicas are to write and it cannot say
        so.
    """
    durable = settings.durable and server.confirms_writes()
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


def limit_blas(settings: Settings) -> None:
    """Cap the threads of one matrix product in this process, so that processes share the cores."""
    if settings.blas_threads:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        threadpool_limits(settings.blas_threads)
