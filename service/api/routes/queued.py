"""Raw inputs through the queue to a worker, as one request however many jobs it takes."""

import asyncio
from collections.abc import Sequence

import numpy as np

from service.api.depends import Parts
from service.api.schemas import decode_items
from service.errors import InvalidInput
from service.queue.jobs import Job, Reply
from service.records import EncoderSpec, Space


def encoder_of(space: Space) -> EncoderSpec:
    """The encoder of a space.

    Raises:
        InvalidInput: If it has none.
    """
    if space.encoder is None:
        raise InvalidInput(
            f"space {space.id} has no encoder: send embeddings instead",
            code="no-encoder",
        )
    return space.encoder


async def run(parts: Parts, job: Job, given: list[str | bytes], seconds: float) -> Reply:
    """All inputs through the queue, split so that no job is large; one reply as if it were one."""
    modality = job.encoder.modality if job.encoder else "vector"
    items = await asyncio.to_thread(decode_items, given, modality, parts.limits.items)
    size = parts.limits.job_items
    starts = range(0, len(items), size)
    tasks = [
        asyncio.ensure_future(parts.dispatcher.run(job, items[start : start + size], seconds))
        for start in starts
    ]
    try:
        replies = await asyncio.gather(*tasks)
    except InvalidInput as error:
        raise _relocated(error, tasks, size) from error
    finally:
        for task in tasks:
            task.cancel()
    if len(replies) == 1:
        return replies[0]
    return Reply(
        "",
        np.concatenate([reply.rows for reply in replies]),
        np.concatenate([reply.defined for reply in replies]),
        np.concatenate([reply.covered for reply in replies]),
        tuple(start + i for start, r in zip(starts, replies, strict=True) for i in r.truncated),
    )


def _relocated(
    error: InvalidInput, tasks: Sequence[asyncio.Future[Reply]], size: int
) -> InvalidInput:
    """The error with its pointer counted in the whole request, not in its part."""
    at = next((i for i, task in enumerate(tasks) if task.done() and task.exception() is error), 0)
    prefix = "/items/"
    if error.pointer and error.pointer.startswith(prefix):
        index, _, rest = error.pointer[len(prefix) :].partition("/")
        error.pointer = f"{prefix}{int(index) + at * size}" + (f"/{rest}" if rest else "")
    return error
