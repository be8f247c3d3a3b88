"""Dead letters: jobs that no worker could finish, stored for the operators of the service.

`Consumer` decides what comes here.
"""

from dataclasses import dataclass
from typing import Any, Final, cast

from stitchwork.errors import UnknownResourceError
from stitchwork.queue import upkeep_scripts
from stitchwork.queue.keys import SHARD
from stitchwork.queue.messages import Job, unpack_job
from stitchwork.redis.client import RedisClient
from stitchwork.resources import Item
from stitchwork.telemetry.metrics import DeadLetterReason

MAX_DEAD_LETTERS: Final = 1000
"""Above this number the oldest ones are deleted."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead-lettered job.

    Attributes:
        id: Its id, which begins with milliseconds since the epoch.
        stream: The stream that it was in.
        reason: Why it was dead-lettered.
        size: Size of the job and its inputs, in bytes.
    """

    id: str
    stream: str
    reason: str
    size: int


def add(server: RedisClient, stream: str, entry: str, data: bytes, reason: DeadLetterReason) -> str:
    """Store a dead letter, in place of the oldest one if there are too many.

    Args:
        server: The queue server.
        stream: The stream that the job was in.
        entry: Its entry there.
        data: The packed job.
        reason: Why it is dead-lettered.

    Returns:
        The dead letter's id.
    """
    arguments = (stream, entry, reason, data, MAX_DEAD_LETTERS)
    id_ = server.run_script(upkeep_scripts.DEAD_LETTER, SHARD.dead, *arguments)
    return str(id_.decode())


def list_all(server: RedisClient) -> list[DeadLetter]:
    """All dead letters, the newest first."""
    with server.session() as client:
        entries: Any = client.xrevrange(SHARD.dead[0])
    return [
        DeadLetter(
            id_.decode(),
            fields[b"stream"].decode(),
            fields[b"reason"].decode(),
            int(fields[b"size"]),
        )
        for id_, fields in entries
    ]


def count(server: RedisClient) -> int:
    """The number of dead letters."""
    with server.session() as client:
        number: Any = client.xlen(SHARD.dead[0])
    return int(number)


def read(server: RedisClient, id_: str) -> tuple[Job, list[Item]]:
    """The job of a dead letter and its inputs.

    Raises:
        UnknownResourceError: If there is no such dead letter.
        CorruptDataError: If the job fails its checksum.
        IncompatibleFormatError: If another release wrote it.
    """
    with server.session() as client:
        data = cast(bytes | None, client.hget(SHARD.dead[1], id_))
    if data is None:
        raise UnknownResourceError(f"no dead letter {id_}")
    return unpack_job(data)


def delete(server: RedisClient, id_: str) -> None:
    """Delete a dead letter.

    Raises:
        UnknownResourceError: If there is no such dead letter.
    """
    if not server.run_script(upkeep_scripts.DELETE_DEAD_LETTER, SHARD.dead, id_):
        raise UnknownResourceError(f"no dead letter {id_}")
