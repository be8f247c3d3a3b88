"""Admission of requests to the streams, each as a whole or not at all, and cancellation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from stitchwork.errors import ErrorCode, QueueFullError
from stitchwork.queue.callers import NOBODY, CallerQuota
from stitchwork.queue.costs import MAX_SMALL_COST
from stitchwork.queue.keys import ShardKeys, class_of_stream, encoder_of_stream, stream_name
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.redis.commands import Buffers

MAX_INLINE_BYTES: Final = 32 * 1024
"""Size of a job above which its entry in the stream has the name of a key in its place."""
LIMIT_CODES: Final[Mapping[str, ErrorCode]] = {
    "max-bytes": ErrorCode.QUEUE_BYTES_FULL,
    "share-of-bytes": ErrorCode.QUEUE_BYTES_FULL,
}
Words = tuple[Any, ...]


class AdmissionLimits(NamedTuple):
    """How much may wait.

    Attributes:
        jobs: Jobs of one encoder; 0 turns all limits off.
        bytes: Size of the jobs of all encoders.
        wait_ms: Longest wait in milliseconds, both that is expected of a new job, and that the
            first job in line has waited longer than was expected of it.
        workers: Number of workers that serve the encoder, for the expected wait.
        capacity: How many of these would be as fast without other work as they are with it.
    """

    jobs: int
    bytes: int
    wait_ms: int
    workers: int
    capacity: float


UNLIMITED: Final = AdmissionLimits(0, 0, 0, 1, 1.0)


class Part(NamedTuple):
    """A job of a request.

    Attributes:
        id: Its id.
        data: The packed job.
        items: How many inputs it has.
        cost: What its inputs cost, see `costs`.
    """

    id: str
    data: bytes | Buffers
    items: int
    cost: int

    @property
    def payload(self) -> str:
        """The name of its payload; empty if its entry has the job itself."""
        return self.id if len(self.data) > MAX_INLINE_BYTES else ""


class Parts(NamedTuple):
    """The jobs of one request, the milliseconds until its deadline, and its caller."""

    parts: Sequence[Part]
    timeout_ms: int
    caller: CallerQuota = NOBODY


def smallest_requests(timeout_ms: int, caller: CallerQuota) -> Sequence[Parts]:
    """Requests of one small input: if none of them would be admitted, no other one would be.

    A caller's first request of little cost is served by a class of its own, so there are two.

    Args:
        timeout_ms: Milliseconds until the deadline.
        caller: The caller.
    """
    costs = 1, MAX_SMALL_COST + 1
    return [Parts([Part("", b" ", 1, cost)], timeout_ms, caller) for cost in costs]


class AdmittedParts(NamedTuple):
    """The class of callers whose stream the jobs of a request are in, and their entries there."""

    caller_class: int
    entries: list[str]


def create_arguments(
    shard: ShardKeys, encoder: str, requirement: ModelRequirement, classes: int
) -> tuple[Sequence[str], Words]:
    """Keys and arguments of `CREATE_STREAMS`."""
    streams = [shard.stream(stream_name(encoder, number)) for number in range(classes)]
    return (shard.encoders, shard.pace(encoder), *streams), (encoder, str(requirement), classes)


def admit_arguments(
    shard: ShardKeys,
    encoder: str,
    classes: int,
    requests: Sequence[Parts],
    *,
    api: str,
    limits: AdmissionLimits,
    is_trial: bool = False,
) -> tuple[Sequence[str], Words]:
    """Keys and arguments of `ADMIT`.

    Args:
        shard: The keys of the encoder's shard.
        encoder: Key of the encoder.
        classes: Number of classes of callers.
        requests: The requests.
        api: The API process to reply to; empty if nobody waits.
        limits: How much may wait.
        is_trial: Whether only to find out if the requests would be admitted.
    """
    keys = [shard.bytes, shard.apis, shard.pace(encoder), shard.callers(encoder)]
    keys += [shard.stream(stream_name(encoder, number)) for number in range(classes)]
    words: list[Any] = [api, *limits, classes, MAX_SMALL_COST, len(requests)]
    for parts, timeout_ms, caller in requests:
        items, cost = sum(part.items for part in parts), sum(part.cost for part in parts)
        size = sum(len(part.data) for part in parts) if is_trial else 0
        words += (timeout_ms, items, cost, len(parts), *caller, size)
        for part in () if is_trial else parts:
            payload = part.payload
            if payload:
                keys.append(shard.payload(payload))
            words += (part.data, part.items, part.cost, payload)
    return keys, tuple(words)


def cancel_arguments(
    shard: ShardKeys, stream: str, entries: Sequence[tuple[str, str]]
) -> tuple[Sequence[str], Words]:
    """Keys and arguments of `CANCEL`.

    Args:
        shard: The keys of the shard.
        stream: Name of the stream.
        entries: Ids of entries, and the names of their payloads if they have any.
    """
    payloads = [shard.payload(payload) for _, payload in entries if payload]
    encoder = encoder_of_stream(stream)
    pace, callers = shard.pace(encoder), shard.callers(encoder)
    keys = (shard.stream(stream), shard.bytes, pace, callers, *payloads)
    return keys, (class_of_stream(stream), *(entry for entry, _ in entries))


def parse_admission(
    result: Sequence[Any], limits: AdmissionLimits, caller: CallerQuota
) -> AdmittedParts | None:
    """What became of a request, from its part of the reply of `ADMIT`.

    Returns:
        Where its jobs are; None if the stream does not exist.

    Raises:
        QueueFullError: If a limit is reached, or its work takes longer than its deadline.
    """
    outcome, *values = result
    match outcome:
        case b"ok":
            caller_class, *entries = values
            return AdmittedParts(int(caller_class), [entry.decode() for entry in entries])
        case b"no-stream":
            return None
        case _:
            raise _refusal(outcome.decode(), int(values[0]), int(values[1]), limits, caller)


def _refusal(
    limit: str, max_items: int, wait_ms: int, limits: AdmissionLimits, caller: CallerQuota
) -> QueueFullError:
    share = f"this caller's jobs have its share of the queue, whose limit is {limits.jobs} jobs "
    bytes_share = "this caller's jobs have its share of the queue, whose limit is "
    messages = {
        "max-inputs": f"expected at most {caller.max_inputs} inputs of key {caller.name} in the "
        "queue of an encoder (max_queue_items of the key), got more",
        "max-jobs": f"{limits.jobs} jobs (max_queue_jobs) wait for this encoder already",
        "share-of-jobs": f"{share}(max_queue_jobs) of this encoder",
        "max-bytes": f"queued jobs hold close to {limits.bytes} bytes (max_queue_bytes)",
        "share-of-bytes": f"{bytes_share}{limits.bytes} bytes (max_queue_bytes)",
        "max-age": "the first job in line for this encoder has waited longer than "
        f"{limits.wait_ms} ms (max_queue_wait_seconds)",
        "max-wait": "the jobs that wait for this encoder will take longer than "
        f"{limits.wait_ms} ms (max_queue_wait_seconds)",
        "too-long": f"the inputs take longer than the deadline allows: at most {max_items} of them "
        "fit at the moment",
    }
    error = QueueFullError(
        messages[limit], code=LIMIT_CODES.get(limit), max_items=max_items, limit=limit
    )
    if wait_ms:
        error.retry_after = math.ceil(wait_ms / 1000)
    return error
