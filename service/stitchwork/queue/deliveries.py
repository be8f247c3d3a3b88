"""Jobs that the queue has delivered to a worker."""

from dataclasses import dataclass

from stitchwork.queue.messages import Job
from stitchwork.resources import Item

StreamEntry = tuple[bytes, dict[bytes, bytes] | None]
"""Id and fields of an entry; no fields if it was deleted while it was pending."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One job that was delivered to this worker.

    Attributes:
        stream: The stream it was in.
        entry: Its entry there.
        job: The job.
        items: Its inputs.
    """

    stream: str
    entry: str
    job: Job
    items: list[Item]


def stream_entry(entry: bytes, fields: list[bytes] | None) -> StreamEntry:
    """An entry of a stream as it is in the reply of a command that redis-py does not parse."""
    return entry, None if fields is None else dict(zip(fields[::2], fields[1::2], strict=True))
