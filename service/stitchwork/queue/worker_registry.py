"""Live workers: their heartbeats, and the statuses that they publish."""

import logging
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from stitchwork.background import PeriodicTask
from stitchwork.errors import NoWorkerError, UnavailableError
from stitchwork.queue import upkeep_scripts
from stitchwork.queue.keys import SHARD
from stitchwork.queue.messages import FORMAT
from stitchwork.queue.outages import log_outage
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.redis.client import RedisClient
from stitchwork.redis.commands import script_command
from stitchwork.resources import Record

log = logging.getLogger(__name__)


class WorkerStatus(Record):
    """The status that a worker publishes.

    Attributes:
        worker: Its name, which starts with that of its host.
        message_format: The format of the messages that it reads and writes.
        device: Where its models run.
        serves: Patterns of the models that it takes work for.
        dtypes: Data types that it computes models in.
        loaded: Keys of the encoders that are loaded.
        model_bytes: Memory of the loaded models.
        refused: Spaces that it cannot serve as they are registered, and why.
    """

    worker: str
    message_format: int = FORMAT
    device: str = "cpu"
    serves: tuple[str, ...] = ("*",)
    dtypes: tuple[str, ...] = ("float32",)
    loaded: tuple[str, ...] = ()
    model_bytes: int = 0
    refused: Mapping[str, str] = {}

    def takes(self, requirement: ModelRequirement) -> bool:
        """Whether it takes jobs with a requirement; every worker takes those without a model."""
        return not requirement.model or (
            self.serves_model(requirement.model) and requirement.dtype in ("auto", *self.dtypes)
        )

    def serves_model(self, model: str) -> bool:
        """Whether it takes work for a model, in some data type."""
        return any(fnmatchcase(model, pattern) for pattern in self.serves)


def live_workers(server: RedisClient, seconds: float) -> list[WorkerStatus]:
    """The workers with a heartbeat in the last seconds, by the server's clock.

    Args:
        server: The queue server.
        seconds: Seconds without a heartbeat after which a worker counts as dead.
    """
    keys, arguments = live_workers_arguments(seconds)
    return parse_statuses(server.run_script(upkeep_scripts.LIVE_WORKERS, keys, *arguments))


def live_workers_arguments(seconds: float, api: str = "") -> tuple[Sequence[str], tuple[Any, ...]]:
    """Keys and arguments of `LIVE_WORKERS`.

    Args:
        seconds: Seconds without a heartbeat after which a worker counts as dead.
        api: The API process whose heartbeat this is, if it is one.
    """
    return (SHARD.workers, SHARD.announced, SHARD.apis), (int(seconds * 1000), api)


def starting_workers_arguments(seconds: float) -> tuple[Sequence[str], tuple[Any, ...]]:
    """Keys and arguments of `LIVE_WORKERS`, for the workers that are starting.

    Args:
        seconds: Seconds without a heartbeat after which such a worker counts as dead.
    """
    return (SHARD.starting, SHARD.announced, SHARD.apis), (int(seconds * 1000), "")


def parse_statuses(reply: Sequence[bytes | None]) -> list[WorkerStatus]:
    """The statuses in the reply of `LIVE_WORKERS`; those of other releases are left out."""
    workers = []
    for data in reply:
        status = _parse_status(data)
        if status is None:
            log.warning("worker ignored", extra={"reason": "it belongs to another version"})
        else:
            workers.append(status)
    return workers


def count_accepting(workers: Sequence[WorkerStatus], requirement: ModelRequirement) -> int:
    """How many of the workers take jobs with a requirement."""
    return sum(worker.takes(requirement) for worker in workers)


def check_accepting(
    workers: Sequence[WorkerStatus], requirement: ModelRequirement, space: str = ""
) -> None:
    """Refuse jobs that none of the live workers takes.

    Args:
        workers: The live workers.
        requirement: What the jobs require.
        space: Id of a space; workers that refuse it do not count.

    Raises:
        NoWorkerError: If none takes them, with the reason.
    """
    accepting = [worker for worker in workers if worker.takes(requirement)]
    refusals = [worker.refused[space] for worker in accepting if space in worker.refused]
    if len(refusals) < len(accepting):
        return
    if refusals:
        raise NoWorkerError(f"no live worker serves space {space}: {refusals[0]}")
    model, dtype = requirement
    dtypes = {name for worker in workers if worker.serves_model(model) for name in worker.dtypes}
    if dtypes:
        raise NoWorkerError(
            f"no live worker computes {model} in {dtype}, as it is registered; those that take "
            f"work for it compute in {', '.join(sorted(dtypes))}"
        )
    number = f" ({len(workers)} live)" if workers else ""
    raise NoWorkerError(f"no live worker takes work for {model}{number}")


class StartAnnouncement:
    """Announces, from its own thread, that a worker is starting: what waits for one waits for it.

    Args:
        server: The queue server.
        ttl: Seconds without a heartbeat after which a worker counts as dead.
        status: What the worker will take work for, as far as it is known.
    """

    def __init__(self, server: RedisClient, ttl: float, status: WorkerStatus) -> None:
        self._server = server
        self._status = status
        self._task = PeriodicTask("start-announcement", self._announce, ttl / 4)

    def start(self) -> None:
        """Begin; it is announced once before this returns, if the server is available."""
        self._announce()
        self._task.start()

    def stop(self) -> None:
        """End it: the worker is live, or does not start."""
        self._task.stop()
        try:
            self._server.execute(("ZREM", SHARD.starting, self._status.worker))
        except UnavailableError as error:
            log_outage(error, "the announcement of this worker expires")

    def _announce(self) -> None:
        keys = SHARD.starting, SHARD.announced
        words = self._status.worker, self._status.model_dump_json()
        try:
            self._server.run_script(upkeep_scripts.HEARTBEAT, keys, *words)
        except UnavailableError as error:
            log_outage(error)


class Heartbeat:
    """Publishes the status of a worker again and again, from its own thread.

    Args:
        server: The queue server.
        ttl: Seconds without a heartbeat after which a worker counts as dead.
        describe: Returns the current status.

    Attributes:
        task: Its background task.
    """

    def __init__(
        self, server: RedisClient, ttl: float, describe: Callable[[], WorkerStatus]
    ) -> None:
        self._server = server
        self._ttl = ttl
        self._describe = describe
        self._loaded_elsewhere: frozenset[str] = frozenset()
        self.task = PeriodicTask("heartbeat", self._beat, ttl / 4)

    def start(self) -> None:
        """Begin; the first heartbeat is sent before this returns, if the server is available."""
        self._beat()
        self.task.start()

    def is_loaded_elsewhere(self, encoder: str) -> bool:
        """Whether another live worker had this encoder loaded at the last heartbeat."""
        return encoder in self._loaded_elsewhere

    def stop(self) -> None:
        """End the heartbeats and remove the worker from the live ones."""
        self.task.stop()
        self.deregister()

    def deregister(self) -> None:
        """Remove the worker from the live ones."""
        name = self._describe().worker
        try:
            self._server.execute(("ZREM", SHARD.workers, name), ("HDEL", SHARD.announced, name))
        except UnavailableError as error:
            log_outage(error, "the entry of this worker is removed when it expires")

    def _beat(self) -> None:
        status = self._describe()
        keys, arguments = live_workers_arguments(self._ttl)
        own = (SHARD.workers, SHARD.announced), status.worker, status.model_dump_json()
        try:
            _, reply = self._server.execute(
                script_command(upkeep_scripts.HEARTBEAT, *own),
                script_command(upkeep_scripts.LIVE_WORKERS, keys, *arguments),
            )
            workers = parse_statuses(reply)
            others = [other for other in workers if other.worker != status.worker]
            self._loaded_elsewhere = frozenset(key for other in others for key in other.loaded)
        except UnavailableError as error:
            log_outage(error)


def _parse_status(data: bytes | None) -> WorkerStatus | None:
    """The status of a worker of this release; None for one of another."""
    try:
        status = WorkerStatus.model_validate_json(data or b"")
    except ValidationError:
        return None
    # A worker of 0.1.0 names no format.
    is_same = "message_format" in status.model_fields_set and status.message_format == FORMAT
    return status if is_same else None
