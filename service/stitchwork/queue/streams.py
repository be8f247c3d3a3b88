"""Operations on the streams of jobs by blocking calls, which the API and the workers share."""

import uuid
from collections.abc import Iterator, Sequence
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
from stitchwork.queue.keys import SHARD, stream_name
from stitchwork.queue.messages import Job, registration_job
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.redis.client import RedisClient
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
    """

    encoder: str
    requirement: ModelRequirement
    names: tuple[str, ...]


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
    server: RedisClient,
    job: Job,
    data: bytes,
    items: int,
    *,
    timeout_ms: int,
    limits: AdmissionLimits = UNLIMITED,
) -> str:
    """Add a job to its stream, unless a limit is reached.

    Args:
        server: The queue server.
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
        job.stream, 1, (request,), api=job.reply_to or "", limits=limits
    )
    created_keys, created = create_arguments(job.stream, ModelRequirement.of(job.encoder), 1)
    create = script_command(admission_scripts.CREATE_STREAMS, created_keys, *created)
    while True:
        (result,) = server.run_script(admission_scripts.ADMIT, keys, *arguments)
        admitted = parse_admission(result, limits, NOBODY)
        if admitted is not None:
            return admitted.entries[0]
        server.execute(create)


def cancel(server: RedisClient, job: Job, entry: str) -> bool:
    """Remove a job from its stream; False if it has been answered already.

    Raises:
        QueueUnavailableError: If the server is unavailable.
    """
    keys, arguments = cancel_arguments(stream_name(job.stream), ((entry, ""),))
    (result,) = server.run_script(admission_scripts.CANCEL, keys, *arguments)
    return bool(result)


def parse_encoders(reply: Any) -> Iterator[EncoderStreams]:
    """The streams that exist, from the reply of HGETALL of the encoders.

    It is a list by the second version of the protocol, and a dictionary by the third.
    """
    pairs = dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else reply
    for name, value in pairs.items():
        encoder = name.decode()
        classes, _, requirement = value.decode().partition(":")
        names = tuple(stream_name(encoder, number) for number in range(int(classes)))
        yield EncoderStreams(encoder, ModelRequirement.parse(requirement), names)


def all_streams(server: RedisClient) -> list[EncoderStreams]:
    """The streams of each encoder."""
    (reply,) = server.execute(("HGETALL", SHARD.encoders))
    return list(parse_encoders(reply))


def stream_backlogs(server: RedisClient) -> dict[str, StreamBacklog]:
    """The backlog of every encoder that has one, by its key."""
    encoders = all_streams(server)
    names = [name for streams in encoders for name in streams.names]
    replies = iter(
        server.execute(*(script_command(scripts.BACKLOG, (SHARD.stream(name),)) for name in names))
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


def record_work(
    server: RedisClient, encoder: EncoderSpec, items: Sequence[Item], seconds: float
) -> None:
    """Record how long a registration took to embed inputs, from which waits are estimated.

    Raises:
        QueueUnavailableError: If the server is unavailable.
    """
    key, cost = encoder_key(encoder), sum(item_cost(item, encoder) for item in items)
    keys, words = (SHARD.pace(key), SHARD.encoders), (seconds * 1000, cost, key, PACE_SECONDS)
    server.run_script(scripts.RECORD_WORK, keys, *words)


def queued_bytes(server: RedisClient) -> int:
    """Size of all queued jobs, in bytes."""
    (size,) = server.execute(("GET", SHARD.bytes))
    return int(size or 0)


def enqueue_registration(server: RedisClient, registration: Registration) -> None:
    """Enqueue the next step of a registration; a second call within seconds has no effect.

    Raises:
        QueueUnavailableError: If the server is unavailable; a worker resumes the registration
            later all the same.
    """
    job = registration_job(registration)
    key = SHARD.enqueued(job.id, registration.done)
    (is_first,) = server.execute(("SET", key, b"", "NX", "EX", ENQUEUED_SECONDS))
    if is_first:
        admit(server, job, job.pack(), 0, timeout_ms=REGISTRATION_TIMEOUT_MS)
