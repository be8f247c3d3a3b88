"""The heartbeats of a worker: on every shard of the queue it says that it lives, or is starting."""

from collections.abc import Callable, Sequence
from functools import partial

from stitchwork.background import PeriodicTask
from stitchwork.errors import UnavailableError
from stitchwork.queue import upkeep_scripts
from stitchwork.queue.outages import log_outage
from stitchwork.queue.shards import QueueShard
from stitchwork.queue.worker_registry import (
    WorkerStatus,
    live_workers_arguments,
    parse_statuses,
)
from stitchwork.redis.commands import Command, script_command


class StartAnnouncement:
    """Announces, from threads, that a worker is starting: what waits for one waits for it.

    Args:
        shards: The shards of the queue.
        ttl: Seconds without a heartbeat after which a worker counts as dead.
        status: What the worker will take work for, as far as it is known.
    """

    def __init__(self, shards: Sequence[QueueShard], ttl: float, status: WorkerStatus) -> None:
        self._shards = shards
        self._status = status
        self._tasks = _shard_tasks("start-announcement", shards, self._announce, ttl / 4)

    def start(self) -> None:
        """Begin; it is announced once before this returns, where the server is available."""
        for shard, task in zip(self._shards, self._tasks, strict=True):
            self._announce(shard)
            task.start()

    def stop(self) -> None:
        """Announce it no more: what was announced holds until it expires, or is withdrawn."""
        for task in self._tasks:
            task.stop()

    def withdraw(self) -> None:
        """Remove what was announced: the worker is live."""
        for shard in self._shards:
            try:
                shard.execute(("ZREM", shard.keys.starting, self._status.worker))
            except UnavailableError as error:
                log_outage(error, "the announcement of this worker expires")

    def _announce(self, shard: QueueShard) -> None:
        try:
            shard.execute(_heartbeat(shard, shard.keys.starting, self._status))
        except UnavailableError as error:
            log_outage(error)


class Heartbeat:
    """Publishes the status of a worker again and again, from a thread for each shard.

    So a shard whose server hangs delays no heartbeat elsewhere. A worker leaves such a shard alone
    until a heartbeat has found that the server answers again.

    Args:
        shards: The shards of the queue.
        ttl: Seconds without a heartbeat after which a worker counts as dead.
        describe: Returns the current status.

    Attributes:
        tasks: Its background tasks.
    """

    def __init__(
        self, shards: Sequence[QueueShard], ttl: float, describe: Callable[[], WorkerStatus]
    ) -> None:
        self._shards = shards
        self._ttl = ttl
        self._describe = describe
        self._loaded_elsewhere: dict[int, frozenset[str]] = {}
        self.tasks = _shard_tasks("heartbeat", shards, self._beat, ttl / 4)

    def start(self) -> None:
        """Begin; the first heartbeat is sent before this returns, where the server is available."""
        for shard, task in zip(self._shards, self.tasks, strict=True):
            self._beat(shard)
            task.start()

    def is_loaded_elsewhere(self, encoder: str) -> bool:
        """Whether another live worker had this encoder loaded at the last heartbeat."""
        return any(encoder in keys for keys in self._loaded_elsewhere.values())

    def stop(self) -> None:
        """End the heartbeats and remove the worker from the live ones."""
        for task in self.tasks:
            task.stop()
        self.deregister()

    def deregister(self) -> None:
        """Remove the worker from the live ones."""
        name = self._describe().worker
        for shard in self._shards:
            keys = shard.keys
            try:
                shard.execute(("ZREM", keys.workers, name), ("HDEL", keys.announced, name))
            except UnavailableError as error:
                log_outage(error, "the entry of this worker is removed when it expires")

    def _beat(self, shard: QueueShard) -> None:
        status = self._describe()
        keys, arguments = live_workers_arguments(shard.keys, self._ttl)
        try:
            _, reply = shard.execute(
                _heartbeat(shard, shard.keys.workers, status),
                script_command(upkeep_scripts.LIVE_WORKERS, keys, *arguments),
            )
        except UnavailableError as error:
            log_outage(error)
            return
        others = [other for other in parse_statuses(reply) if other.worker != status.worker]
        loaded = frozenset(key for other in others for key in other.loaded)
        self._loaded_elsewhere[shard.number] = loaded


def _heartbeat(shard: QueueShard, key: str, status: WorkerStatus) -> Command:
    """The command that adds a worker to a set of live processes."""
    keys = key, shard.keys.announced
    words = status.worker, status.model_dump_json()
    return script_command(upkeep_scripts.HEARTBEAT, keys, *words)


def _shard_tasks(
    name: str, shards: Sequence[QueueShard], function: Callable[[QueueShard], None], seconds: float
) -> tuple[PeriodicTask, ...]:
    return tuple(
        PeriodicTask(shard.task_name(name), partial(function, shard), seconds) for shard in shards
    )
