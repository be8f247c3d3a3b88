"""The queue server's keys, and the operations on streams that the API and the workers share.

jobs                    hash of the streams that exist: name → the model of its encoder
jobs:{name}             stream of the jobs of one encoder, with the consumer group `workers`; an
                        entry has size, inputs and deadline alone, so that reading it stays cheap
jobs:{name}:{entry}     the job and its inputs
jobs:{name}:pace        hash: inputs in the stream, and milliseconds that one takes
bytes                   bytes of all queued jobs
replies:{api}           list of the replies to one API process; no lifetime, since under
                        `volatile-lru` a key with a lifetime may be evicted
apis, workers           sorted sets of live processes by the server's time, in milliseconds
announced               hash of the status of each worker
enqueued:{job}:{step}   a registration step was enqueued a moment ago
dead, dead:{id}         stream of dead letters, and their jobs
"""

import uuid
from typing import Any, Final, NamedTuple

from stitchwork.errors import ErrorCode, QueueFullError
from stitchwork.queue import scripts
from stitchwork.queue.messages import Job, registration_job
from stitchwork.redis.client import PREFIX, RedisClient
from stitchwork.resources import Registration

GROUP: Final = "workers"
JOBS: Final = PREFIX + "jobs"
BYTES: Final = PREFIX + "bytes"
REPLIES: Final = PREFIX + "replies"
APIS: Final = PREFIX + "apis"
WORKERS: Final = PREFIX + "workers"
ANNOUNCED: Final = PREFIX + "announced"
ENQUEUED: Final = PREFIX + "enqueued"
DEAD: Final = PREFIX + "dead"
ENQUEUED_SECONDS: Final = 5
REGISTRATION_TIMEOUT_MS: Final = 24 * 3600 * 1000


class AdmissionLimits(NamedTuple):
    """How many jobs may wait.

    Attributes:
        jobs: Jobs in one stream; 0 turns all limits off.
        bytes: Size of the jobs in all streams.
        wait_ms: Longest time in milliseconds, both of the oldest job's wait until now and of the
            new job's expected wait.
        workers: Number of workers that serve the stream, for the expected wait.
    """

    jobs: int
    bytes: int
    wait_ms: int
    workers: int


UNLIMITED: Final = AdmissionLimits(0, 0, 0, 1)


class StreamBacklog(NamedTuple):
    """The jobs in one stream.

    Attributes:
        model: Name of the encoder's model; empty for registrations that need none.
        jobs: Jobs that wait or are being worked on.
        running: Jobs that a worker has.
        waited_ms: Milliseconds that the first waiting job has waited; None if none waits.
    """

    model: str
    jobs: int
    running: int
    waited_ms: int | None


def stream_key(name: str) -> str:
    """The key of a stream."""
    return f"{JOBS}:{name}"


def job_key(name: str, entry: str) -> str:
    """The key of the job behind an entry of a stream."""
    return f"{JOBS}:{name}:{entry}"


def replies_key(api: str) -> str:
    """The key of an API process's replies."""
    return f"{REPLIES}:{api}"


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
        items: How many inputs it has.
        timeout_ms: Milliseconds, by the server's clock, until its deadline.
        limits: How many jobs may wait.

    Returns:
        The entry's id in the stream.

    Raises:
        QueueFullError: If a limit is reached.
        QueueUnavailableError: If the server is unavailable.
    """
    keys = (stream_key(job.stream), JOBS, BYTES, APIS)
    model = job.encoder.model if job.encoder else ""
    arguments: tuple[Any, ...] = (
        *(data, items, job.stream, model),
        *limits,
        *(timeout_ms, job.reply_to or ""),
    )
    result = str(server.run_script(scripts.ADMIT, keys, *arguments).decode())
    match result:
        case "max-jobs":
            raise QueueFullError(
                f"{limits.jobs} jobs (max_queue_jobs) wait for this encoder already"
            )
        case "max-bytes":
            raise QueueFullError(
                f"queued jobs hold close to {limits.bytes} bytes (max_queue_bytes)",
                code=ErrorCode.QUEUE_BYTES_FULL,
            )
        case "max-age":
            raise QueueFullError(
                "the first job in line for this encoder has waited longer than "
                f"{limits.wait_ms} ms (max_queue_wait_seconds)"
            )
        case "max-wait":
            raise QueueFullError(
                "the jobs that wait for this encoder will take longer than "
                f"{limits.wait_ms} ms (max_queue_wait_seconds)"
            )
    return result


def cancel(server: RedisClient, job: Job, entry: str) -> bool:
    """Remove a job from its stream; False if a worker has it, or had it, already.

    Raises:
        QueueUnavailableError: If the server is unavailable.
    """
    return bool(server.run_script(scripts.CANCEL, (stream_key(job.stream), BYTES), entry))


def stream_backlogs(server: RedisClient) -> dict[str, StreamBacklog]:
    """The backlog of every stream that is not empty, by its name."""
    return {
        name.decode(): StreamBacklog(model.decode(), jobs, running, None if age < 0 else age)
        for name, model, jobs, running, age in server.run_script(scripts.BACKLOGS, (JOBS,))
    }


def queued_bytes(server: RedisClient) -> int:
    """Size of all queued jobs, in bytes."""
    with server.session() as client:
        size: Any = client.get(BYTES)
    return int(size or 0)


def has_unanswered(server: RedisClient, before_ms: int) -> bool:
    """Whether a job that was admitted by this time, on the server's clock, is not answered yet."""
    return bool(server.run_script(scripts.HAS_UNANSWERED, (JOBS,), before_ms))


def enqueue_registration(server: RedisClient, registration: Registration) -> None:
    """Enqueue the next step of a registration; a second call within seconds has no effect.

    Raises:
        QueueUnavailableError: If the server is unavailable; a worker resumes the registration
            later all the same.
    """
    job = registration_job(registration)
    with server.session() as client:
        key = f"{ENQUEUED}:{job.id}:{registration.done}"
        is_first = client.set(key, b"", nx=True, ex=ENQUEUED_SECONDS)
    if is_first:
        admit(server, job, job.pack(), 0, timeout_ms=REGISTRATION_TIMEOUT_MS)
