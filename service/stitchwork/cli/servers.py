"""The registry and queue servers of a command: those of the settings, or those of `serve`."""

from stitchwork.bootstrap.shared import connect_servers
from stitchwork.queue.shards import QueueShard
from stitchwork.redis.client import RedisClient
from stitchwork.settings import Settings


def connect(settings: Settings) -> tuple[RedisClient, tuple[QueueShard, ...]]:
    """The registry server and the shards of the queue.

    Without `redis_url` they are those that `stitchwork serve` runs on `data_dir`.

    Raises:
        UnavailableError: If there are none.
    """
    if settings.redis_url is None:
        from stitchwork.supervisor.embedded_servers import embedded_urls

        settings = settings.model_copy(update=embedded_urls(settings.data_dir))
    return connect_servers(settings)
