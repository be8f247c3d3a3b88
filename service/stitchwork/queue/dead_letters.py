"""Dead letters: jobs that were given up, kept for whoever looks after the service."""

from dataclasses import dataclass
from typing import Any, Final, cast

from stitchwork.errors import UnknownResourceError
from stitchwork.queue.messages import Job, unpack_job
from stitchwork.queue.streams import DEAD
from stitchwork.redis.client import RedisClient
from stitchwork.resources import Item

MOST_LETTERS: Final = 1000

# KEYS dead · ARGV stream, entry, reason, job, most letters
BURY: Final = """
local letter = redis.call('XADD', KEYS[1], '*', 'stream', ARGV[1], 'entry', ARGV[2],
                          'reason', ARGV[3], 'size', #ARGV[4])
redis.call('SET', KEYS[1] .. ':' .. letter, ARGV[4])
while redis.call('XLEN', KEYS[1]) > tonumber(ARGV[5]) do
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
  redis.call('XDEL', KEYS[1], oldest)
  redis.call('DEL', KEYS[1] .. ':' .. oldest)
end
return letter
"""

# KEYS dead · ARGV letter
DROP: Final = """
redis.call('DEL', KEYS[1] .. ':' .. ARGV[1])
return redis.call('XDEL', KEYS[1], ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One job that was given up.

    Attributes:
        id: Its id, which begins with the milliseconds since the epoch.
        stream: The stream it stood in.
        reason: Why it was given up.
        size: Bytes of the job and its inputs.
    """

    id: str
    stream: str
    reason: str
    size: int


def add(server: RedisClient, stream: str, entry: str, data: bytes, reason: str) -> str:
    """Keep a job that is given up; the oldest letters make room.

    Args:
        server: The queue server.
        stream: The stream it stood in.
        entry: Its id there.
        data: The packed job.
        reason: Why it is given up.

    Returns:
        The letter's id.
    """
    id_ = server.run_script(BURY, (DEAD,), stream, entry, reason, data, MOST_LETTERS)
    return str(id_.decode())


def list_all(server: RedisClient) -> list[DeadLetter]:
    """All dead letters, the newest first."""
    with server.session() as client:
        found: Any = client.xrevrange(DEAD)
    return [
        DeadLetter(
            id_.decode(),
            fields[b"stream"].decode(),
            fields[b"reason"].decode(),
            int(fields[b"size"]),
        )
        for id_, fields in found
    ]


def count(server: RedisClient) -> int:
    """How many dead letters are kept."""
    with server.session() as client:
        found: Any = client.xlen(DEAD)
    return int(found)


def read(server: RedisClient, id_: str) -> tuple[Job, list[Item]]:
    """The job of a letter and its inputs.

    Raises:
        UnknownResourceError: If there is no such letter.
        CorruptDataError: If the job was buried because it fails its checksum.
    """
    with server.session() as client:
        data = cast(bytes | None, client.get(f"{DEAD}:{id_}"))
    if data is None:
        raise UnknownResourceError(f"no dead letter {id_}")
    return unpack_job(data)


def delete(server: RedisClient, id_: str) -> None:
    """Forget a letter.

    Raises:
        UnknownResourceError: If there is no such letter.
    """
    if not server.run_script(DROP, (DEAD,), id_):
        raise UnknownResourceError(f"no dead letter {id_}")
