"""Raw inputs through the queue to a worker, as one request however many jobs it takes."""

import asyncio
from collections.abc import Sequence

import numpy as np

from stitchwork.errors import InvalidInputError
from stitchwork.inference.resolve import Resolution, encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.queue.messages import Job, Reply
from stitchwork.queue.producer import Producer
from stitchwork.resources import Item

POINTER: str = "/items/"


async def embed(
    producer: Producer,
    resolution: Resolution,
    items: Sequence[Item],
    *,
    truncate: bool | None,
    items_per_job: int,
    seconds: float,
) -> InferenceResult:
    """Have workers embed raw inputs and, where the resolution says so, translate and classify them.

    Args:
        producer: Sends jobs to workers.
        resolution: What to do; its source has an encoder.
        items: n texts, or the bytes of n image files.
        truncate: Cut texts that are too long; None leaves it to the encoder's own setting.
        items_per_job: Larger requests are split into jobs of this size.
        seconds: Seconds after which the result is of no use.

    Returns:
        The result of all jobs, in the order of the items.

    Raises:
        InvalidInputError: If the source has no encoder, or a worker refuses an input; its pointer
            counts in the whole request.
        StitchworkError: Whatever `Producer.run` raises.
    """
    job = job_of(resolution, truncate)
    starts = range(0, len(items), items_per_job)
    tasks = [
        asyncio.ensure_future(producer.run(job, items[start : start + items_per_job], seconds))
        for start in starts
    ]
    try:
        replies = await asyncio.gather(*tasks)
    except InvalidInputError as error:
        raise _relocated(error, tasks, items_per_job) from error
    finally:
        for task in tasks:
            task.cancel()
    if len(replies) == 1:
        reply = replies[0]
        arrays = reply.rows, reply.defined, reply.covered
        return InferenceResult(resolution, *arrays, reply.truncated, reply.tokens)
    return InferenceResult(
        resolution,
        np.concatenate([reply.rows for reply in replies]),
        np.concatenate([reply.defined for reply in replies]),
        np.concatenate([reply.covered for reply in replies]),
        tuple(start + i for start, r in zip(starts, replies, strict=True) for i in r.truncated),
        sum(reply.tokens for reply in replies),
    )


def job_of(resolution: Resolution, truncate: bool | None = None) -> Job:
    """The job that workers do for a resolution.

    Raises:
        InvalidInputError: If the source has no encoder.
    """
    head = resolution.head
    return Job(
        id="",
        encoder=encoder_of(resolution.source),
        truncate=truncate,
        source=resolution.source,
        target=resolution.target,
        # Labels stay with the API: they may be many, and workers do not need them.
        head=head and head.model_copy(update={"labels": ()}),
        bridge=resolution.bridge,
    )


def _relocated(
    error: InvalidInputError, tasks: Sequence[asyncio.Future[Reply]], size: int
) -> InvalidInputError:
    """The error with its pointer counted in the whole request, not in its job."""
    at = next((i for i, task in enumerate(tasks) if task.done() and task.exception() is error), 0)
    if error.pointer and error.pointer.startswith(POINTER):
        index, _, rest = error.pointer[len(POINTER) :].partition("/")
        error.pointer = f"{POINTER}{int(index) + at * size}" + (f"/{rest}" if rest else "")
    return error
