"""Operations on the streams of jobs by blocking calls, which the API and the workers share."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from stitchwork.queue import admission_scripts, scripts
from stitchwork.queue.admission import (
    UNLIMITED,
    AdmissionLimits,
    Part,
    Parts,
    admit_arguments,
    cancel_arguments,
    create_arguments,
    parse_admission,
)
from stitchwork.queue.callers import NOBODY
from stitchwork.queue.costs import item_cost
from stitchwork.queue.keys import stream_name
from stitchwork.queue.messages import Job, registration_job
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.queue.shards import QueueShard, shard_of
from stitchwork.redis.commands import script_command
from stitchwork.resources import EncoderSpec, Item, Registration, encoder_key

ENQUEUED_SECONDS: Final = 5
PACE_SECONDS: Final = 7 * 24 * 3600
"""How long the pace of an encoder is remembered that has no streams."""
REGISTRATION_TIMEOUT_MS: Final = 24 * 3600 * 1000


class EncoderStreams(NamedTuple):
    """The streams of one encoder.

    Attributes:
        encoder: Key of the encoder.
        requirement: What its jobs require of a worker.
        names: The streams, one for each class of callers.
        shard: Number of the shard that they are in.
    """

    encoder: str
    requirement: ModelRequirement
    names: tuple[str, ...]
    shard: int = 0


class StreamBacklog(NamedTuple):
    """The jobs of one encoder.

    Attributes:
        model: Name of the encoder's model; empty for registrations that need none.
        jobs: Jobs that wait or are being worked on.
        running: Jobs that a worker has.
        waited_ms: Milliseconds that the first waiting job has waited; None if none waits.
        dtype: Data type that the model is computed in.
    """

    model: str
    jobs: int
    running: int
    waited_ms: int | None
    dtype: str

    @property
    def requirement(self) -> ModelRequirement:
        """What its jobs require of a worker."""
        return ModelRequirement(self.model, self.dtype)


def new_id() -> str:
    """A random id for a process or a job."""
    return uuid.uuid4().hex


def admit(
    shard: QueueShard,
    job: Job,
    data: bytes,
    items: int,
    *,
    timeout_ms: int,
    limits: AdmissionLimits = UNLIMITED,
) -> str:
    """Add a job to its stream, unless a limit is reached.

    Args:
        shard: The shard.
        job: The job.
        data: The packed job.
        items: How many inputs it has, each of which costs one unit.
        timeout_ms: Milliseconds, by the server's clock, until its deadline.
        limits: How many jobs may wait.

    Returns:
        The entry's id in the stream.

    Raises:
        QueueFullError: If a limit is reached.
        QueueUnavailableError: If the server is unavailable.
    """
    request = Parts((Part(job.id, data, items, items),), timeout_ms)
    keys, arguments = admit_arguments(
        shard.keys, job.stream, 1, (request,), api=job.reply_to or "", limits=limits
    )
    requirement = ModelRequirement.of(job.encoder)
    created_keys, created = create_arguments(shard.keys, job.stream, requirement, 1)
    create = script_command(admission_scripts.CREATE_STREAMS, created_keys, *created)
    while True:
        (result,) = shard.run_script(admission_scripts.ADMIT, keys, *arguments)
        admitted = parse_admission(result, limits, NOBODY)
        if admitted is not None:
            return admitted.entries[0]
        shard.execute(create)


def cancel(shard: QueueShard, job: Job, entry: str) -> bool:
    """Remove a job from its stream; False if it has been answered already.

    Raises:
        QueueUnavailableError: If the server is unavailable.
    """
    keys, arguments = cancel_arguments(shard.keys, stream_name(job.stream), ((entry, ""),))
    (result,) = shard.run_script(admission_scripts.CANCEL, keys, *arguments)
    return bool(result)


def parse_encoders(reply: Any, shard: int = 0) -> Iterator[EncoderStreams]:
    """The streams of a shard that exist, from the reply of HGETALL of its encoders.

    It is a list by the second version of the protocol, and a dictionary by the third.
    """
    pairs = dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else reply
    for name, value in pairs.items():
        encoder = name.decode()
        classes, _, requirement = value.decode().partition(":")
        names = tuple(stream_name(encoder, number) for number in range(int(classes)))
        yield EncoderStreams(encoder, ModelRequirement.parse(requirement), names, shard)


def all_streams(shard: QueueShard) -> list[EncoderStreams]:
    """The streams of each encoder of a shard."""
    (reply,) = shard.execute(("HGETALL", shard.keys.encoders))
    return list(parse_encoders(reply, shard.number))


def stream_backlogs(shard: QueueShard) -> dict[str, StreamBacklog]:
    """The backlog of every encoder of a shard that has one, by its key."""
    encoders = all_streams(shard)
    names = [name for streams in encoders for name in streams.names]
    replies = iter(
        shard.execute(
            *(script_command(scripts.BACKLOG, (shard.keys.stream(name),)) for name in names)
        )
    )
    backlogs = {}
    for streams in encoders:
        counts = [next(replies) for _ in streams.names]
        jobs, running = sum(count[0] for count in counts), sum(count[1] for count in counts)
        waited = [count[2] for count in counts if count[2] >= 0]
        if jobs:
            longest = max(waited, default=None)
            model, dtype = streams.requirement
            backlogs[streams.encoder] = StreamBacklog(model, jobs, running, longest, dtype)
    return backlogs


def merge_backlogs(shards: Iterable[Mapping[str, StreamBacklog]]) -> dict[str, StreamBacklog]:
    """The backlogs of several shards; an encoder is in two after the number of shards changed."""
    merged: dict[str, StreamBacklog] = {}
    for backlogs in shards:
        for name, backlog in backlogs.items():
            other = merged.get(name)
            if other is None:
                merged[name] = backlog
                continue
            waited = [b.waited_ms for b in (backlog, other) if b.waited_ms is not None]
            merged[name] = backlog._replace(
                jobs=backlog.jobs + other.jobs,
                running=backlog.running + other.running,
                waited_ms=max(waited, default=None),
            )
    return merged


def record_work(
    shards: Sequence[QueueShard], encoder: EncoderSpec, items: Sequence[Item], seconds: float
) -> None:
    """Record how long a registration took to embed inputs, from which waits are estimated.

    Raises:
        QueueUnavailableError: If the server is unavailable.
    """
    key, cost = encoder_key(encoder), sum(item_cost(item, encoder) for item in items)
    shard = shard_of(shards, key)
    keys = shard.keys.pace(key), shard.keys.encoders
    shard.run_script(scripts.RECORD_WORK, keys, seconds * 1000, cost, key, PACE_SECONDS)


def queued_bytes(shard: QueueShard) -> int:
    """Size of all queued jobs of a shard, in bytes."""
    (size,) = shard.execute(("GET", shard.keys.bytes))
    return int(size or 0)


def enqueue_registration(shards: Sequence[QueueShard], registration: Registration) -> None:
    """Enqueue the next step of a registration; a second call within seconds has no effect.

    Raises:
        QueueUnavailableError: If the server is unavailable; a worker resumes the registration
            later all the same.
    """
    job = registration_job(registration)
    shard = shard_of(shards, job.stream)
    key = shard.keys.enqueued(job.id, registration.done)
    (is_first,) = shard.execute(("SET", key, b"", "NX", "EX", ENQUEUED_SECONDS))
    if is_first:
        admit(shard, job, job.pack(), 0, timeout_ms=REGISTRATION_TIMEOUT_MS)
