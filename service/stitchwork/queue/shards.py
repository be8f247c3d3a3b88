"""The shards of the queue: each has its own keys, and a server or a node of a cluster to itself.

An encoder's jobs are in one shard, with those of all classes of callers, so that they are batched
and shared fairly there.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar
from zlib import crc32

from stitchwork.errors import QueueUnavailableError
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.outages import log_outage
from stitchwork.redis.client import RedisClient
from stitchwork.redis.connections import QUEUE_TAGS

T = TypeVar("T")


class QueueShard(RedisClient):
    """A client of the server of one shard.

    Args:
        url: The server's URL, see `stitchwork.redis.urls`.
        timeout: Seconds that one call may take.
        number: Number of the shard.
        is_only: Whether there is no other; messages then call it the queue server.
        failure_pause: Seconds after a failed call in which further calls fail at once.

    Attributes:
        number: Number of the shard.
        keys: The names of its keys.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        number: int = 0,
        *,
        is_only: bool = True,
        failure_pause: float = 0.5,
    ) -> None:
        tag = QUEUE_TAGS[number]
        super().__init__(
            url,
            timeout,
            QueueUnavailableError,
            failure_pause=failure_pause,
            tag=tag,
            name="" if is_only else f"queue server of shard {tag}",
        )
        self.number = number
        self.keys = ShardKeys(number)

    def task_name(self, name: str) -> str:
        """The name of a task of this shard."""
        return f"{name}-{self.tag}" if self.number else name


def answering(shards: Sequence[QueueShard]) -> Sequence[QueueShard]:
    """The shards that answered, and were not left alone since, or all of them if none is such."""
    return [shard for shard in shards if shard.is_answering] or shards


def leave_shard(
    shards: Sequence[QueueShard], shard: QueueShard, error: QueueUnavailableError
) -> None:
    """Leave a shard alone that failed or refused a call, until a heartbeat has reached it again.

    Args:
        shards: All shards.
        shard: The one that cannot be used.
        error: Why.

    Raises:
        QueueUnavailableError: The same error, if no other shard answers.
    """
    shard.is_answering = False
    if not any(other.is_answering for other in shards):
        raise error
    log_outage(error, "the other shards are served")


def shard_of(shards: Sequence[QueueShard], encoder: str) -> QueueShard:
    """The shard of an encoder's jobs, which is the same in all processes.

    Args:
        shards: All shards.
        encoder: Key of the encoder.
    """
    return shards[crc32(encoder.encode()) % len(shards)]


def read_shards(
    shards: Sequence[QueueShard], read: Callable[[QueueShard], T]
) -> tuple[list[T], list[str]]:
    """What is read from the shards that answer, and the tags of the others.

    Args:
        shards: All shards.
        read: Reads something from one of them.

    Raises:
        QueueUnavailableError: If none of them answers.
    """
    results: list[T] = []
    failures: dict[str, QueueUnavailableError] = {}
    for shard in shards:
        try:
            results.append(read(shard))
        except QueueUnavailableError as error:
            failures[shard.tag] = error
    if not results:
        raise next(iter(failures.values()))
    return results, list(failures)
