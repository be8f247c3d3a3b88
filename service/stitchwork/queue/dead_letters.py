"""Dead letters: jobs that no worker could finish, stored for the operators of the service.

`Consumer` decides what comes here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from stitchwork.errors import UnknownResourceError
from stitchwork.queue import upkeep_scripts
from stitchwork.queue.messages import Job, unpack_job
from stitchwork.queue.shards import QueueShard
from stitchwork.resources import Item
from stitchwork.telemetry.metrics import DeadLetterReason

MAX_DEAD_LETTERS: Final = 1000
"""Above this number the oldest ones are deleted."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead-lettered job.

    Attributes:
        id: Its id.
        time_ms: When it was dead-lettered, in milliseconds since the epoch.
        stream: The stream that it was in.
        reason: Why it was dead-lettered.
        size: Size of the job and its inputs, in bytes.
    """

    id: str
    time_ms: int
    stream: str
    reason: str
    size: int


def add(shard: QueueShard, stream: str, entry: str, data: bytes, reason: DeadLetterReason) -> str:
    """Store a dead letter, in place of the oldest one if there are too many.

    Args:
        shard: The shard of the job.
        stream: The stream that the job was in.
        entry: Its entry there.
        data: The packed job.
        reason: Why it is dead-lettered.

    Returns:
        The dead letter's id.
    """
    arguments = (stream, entry, reason, data, MAX_DEAD_LETTERS)
    id_ = shard.run_script(upkeep_scripts.DEAD_LETTER, shard.keys.dead, *arguments)
    return _letter_id(shard, id_)


def list_all(shards: Sequence[QueueShard]) -> list[DeadLetter]:
    """All dead letters, the newest first.

    Raises:
        QueueUnavailableError: If a shard is unavailable.
    """
    letters: list[DeadLetter] = []
    for shard in shards:
        with shard.session() as client:
            entries: Any = client.xrevrange(shard.keys.dead[0])
        letters += (
            DeadLetter(
                _letter_id(shard, id_),
                int(id_.partition(b"-")[0]),
                fields[b"stream"].decode(),
                fields[b"reason"].decode(),
                int(fields[b"size"]),
            )
            for id_, fields in entries
        )
    return sorted(letters, key=lambda letter: -letter.time_ms)


def count(shard: QueueShard) -> int:
    """The number of dead letters of a shard."""
    with shard.session() as client:
        number: Any = client.xlen(shard.keys.dead[0])
    return int(number)


def read(shards: Sequence[QueueShard], id_: str) -> tuple[Job, list[Item]]:
    """The job of a dead letter and its inputs.

    Raises:
        UnknownResourceError: If there is no such dead letter.
        CorruptDataError: If the job fails its checksum.
        IncompatibleFormatError: If another release wrote it.
    """
    shard, entry = _find(shards, id_)
    with shard.session() as client:
        data = cast(bytes | None, client.hget(shard.keys.dead[1], entry))
    if data is None:
        raise UnknownResourceError(f"no dead letter {id_}")
    return unpack_job(data)


def delete(shards: Sequence[QueueShard], id_: str) -> None:
    """Delete a dead letter.

    Raises:
        UnknownResourceError: If there is no such dead letter.
    """
    shard, entry = _find(shards, id_)
    if not shard.run_script(upkeep_scripts.DELETE_DEAD_LETTER, shard.keys.dead, entry):
        raise UnknownResourceError(f"no dead letter {id_}")


def _letter_id(shard: QueueShard, entry: bytes) -> str:
    """The id of a letter: that of its entry, after the tag of any shard but the first."""
    return f"{shard.tag}:{entry.decode()}" if shard.number else entry.decode()


def _find(shards: Sequence[QueueShard], id_: str) -> tuple[QueueShard, str]:
    """The shard of a letter, and its entry there."""
    tag, _, entry = id_.rpartition(":")
    for shard in shards:
        if tag == (shard.tag if shard.number else ""):
            return shard, entry
    raise UnknownResourceError(f"no dead letter {id_} in {len(shards)} shards (queue_shards)")
