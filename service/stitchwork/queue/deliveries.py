"""Entries of the streams, and the jobs that the queue has delivered to a worker."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stitchwork.queue.messages import Job
from stitchwork.resources import Item


class StreamEntry(NamedTuple):
    """An entry of a stream.

    Attributes:
        stream: Name of the stream.
        id: Its id there.
        deadline_ms: Deadline of its job, by the server's clock.
        items: Number of inputs.
        cost: Cost of the inputs.
        size: Size of the job in bytes.
        data: The packed job; None if it is elsewhere, or the entry was deleted while it was
            pending.
        payload: Name of the job's payload; empty if it has none.
        caller: Name of its caller; empty if nobody waits.
        shard: Number of the shard that the stream is in.
    """

    stream: str
    id: str
    deadline_ms: int = 0
    items: int = 0
    cost: int = 0
    size: int = 0
    data: bytes | None = None
    payload: str = ""
    caller: str = ""
    shard: int = 0

    @property
    def key(self) -> tuple[int, str, str]:
        """What tells it from all other entries."""
        return self.shard, self.stream, self.id


@dataclass(frozen=True, slots=True)
class Delivery:
    """One job that was delivered to this worker.

    Attributes:
        stream: The stream it was in.
        entry: Its entry there.
        job: The job.
        items: Its inputs.
        size: Size of the job in bytes.
        cost: Cost of the inputs.
        payload: Name of its payload; empty if it has none.
        caller: Name of its caller; empty if nobody waits.
        inputs: How many inputs it has, as its entry says.
        shard: Number of the shard that the stream is in.
    """

    stream: str
    entry: str
    job: Job
    items: list[Item]
    size: int = 0
    cost: int = 0
    payload: str = ""
    caller: str = ""
    inputs: int = 0
    shard: int = 0

    @property
    def key(self) -> tuple[int, str, str]:
        """What tells it from all other deliveries."""
        return self.shard, self.stream, self.entry


def parse_entry(stream: str, id_: bytes, fields: Sequence[bytes] | None, shard: int) -> StreamEntry:
    """An entry as it is in a reply; it has no fields if it was deleted while it was pending."""
    if not fields:
        return StreamEntry(stream, id_.decode(), shard=shard)
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return StreamEntry(
        stream,
        id_.decode(),
        int(values[b"d"]),
        int(values[b"n"]),
        int(values[b"c"]),
        int(values[b"s"]),
        values.get(b"m"),
        values.get(b"k", b"").decode(),
        values.get(b"u", b"").decode(),
        shard,
    )
