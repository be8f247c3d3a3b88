"""Live workers: their heartbeats, and the statuses that they publish."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from stitchwork.errors import NoWorkerError
from stitchwork.queue import upkeep_scripts
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.messages import FORMAT
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.queue.shards import QueueShard, read_shards
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


def live_workers(shards: Sequence[QueueShard], seconds: float) -> list[WorkerStatus]:
    """The workers with a heartbeat in the last seconds, by the clocks of the servers.

    Args:
        shards: The shards of the queue; those that do not answer are left out.
        seconds: Seconds without a heartbeat after which a worker counts as dead.

    Raises:
        QueueUnavailableError: If no shard answers.
    """

    def read(shard: QueueShard) -> list[WorkerStatus]:
        keys, arguments = live_workers_arguments(shard.keys, seconds)
        return parse_statuses(shard.run_script(upkeep_scripts.LIVE_WORKERS, keys, *arguments))

    return unite(read_shards(shards, read)[0])


def unite(workers: Iterable[Iterable[WorkerStatus]]) -> list[WorkerStatus]:
    """The workers of several shards, each of which has a heartbeat in each shard."""
    return list({worker.worker: worker for part in workers for worker in part}.values())


def live_workers_arguments(
    shard: ShardKeys, seconds: float, api: str = ""
) -> tuple[Sequence[str], tuple[Any, ...]]:
    """Keys and arguments of `LIVE_WORKERS`.

    Args:
        shard: The keys of the shard.
        seconds: Seconds without a heartbeat after which a worker counts as dead.
        api: The API process whose heartbeat this is, if it is one.
    """
    return (shard.workers, shard.announced, shard.apis), (int(seconds * 1000), api)


def starting_workers_arguments(
    shard: ShardKeys, seconds: float
) -> tuple[Sequence[str], tuple[Any, ...]]:
    """Keys and arguments of `LIVE_WORKERS`, for the workers that are starting.

    Args:
        shard: The keys of the shard.
        seconds: Seconds without a heartbeat after which such a worker counts as dead.
    """
    return (shard.starting, shard.announced, shard.apis), (int(seconds * 1000), "")


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


def _parse_status(data: bytes | None) -> WorkerStatus | None:
    """The status of a worker of this release; None for one of another."""
    try:
        status = WorkerStatus.model_validate_json(data or b"")
    except ValidationError:
        return None
    # A worker of 0.1.0 names no format.
    is_same = "message_format" in status.model_fields_set and status.message_format == FORMAT
    return status if is_same else None
