"""Embed raw inputs on workers: one request, in one or more jobs."""

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from stitchwork.errors import InvalidInputError
from stitchwork.inference.length_report import LengthReport
from stitchwork.inference.resolve import Resolution, encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.queue.messages import Job, Reply
from stitchwork.queue.producer import Producer
from stitchwork.resources import Item

ITEMS_POINTER: Final = "/items/"


async def embed(
    producer: Producer,
    resolution: Resolution,
    items: Sequence[Item],
    *,
    truncate: bool | None,
    input_type: str | None,
    items_per_job: int,
    seconds: float,
) -> InferenceResult:
    """Embed raw inputs on workers, which also translate and classify them.

    Args:
        producer: Sends jobs to workers.
        resolution: The versions to use; its source has an encoder. Without a target the inputs
            are not translated, without a head not classified.
        items: n texts, or the bytes of n image files.
        truncate: Cut texts that are too long; None takes the encoder's setting.
        input_type: Selects a prompt of the encoder's model; None takes the encoder's own.
        items_per_job: Larger requests are split into jobs of this size.
        seconds: Deadline of the result, in seconds from now.

    Returns:
        The result of all jobs, in the order of the items.

    Raises:
        InvalidInputError: If the source has no encoder, or a worker refuses an input; its pointer
            is the index in the whole request.
        StitchworkError: What `Producer.run` raises.
    """
    job = job_of(resolution, truncate, input_type)
    starts = range(0, len(items), items_per_job)
    tasks = [
        asyncio.ensure_future(producer.run(job, items[start : start + items_per_job], seconds))
        for start in starts
    ]
    try:
        replies = await asyncio.gather(*tasks)
    except InvalidInputError as error:
        raise _shift_pointer(error, tasks, items_per_job) from error
    finally:
        for task in tasks:
            task.cancel()
    first = replies[0]
    if len(replies) == 1:
        rows, defined, covered, lengths = first.rows, first.defined, first.covered, first.lengths
    else:
        rows, defined, covered, lengths = (
            np.concatenate([getattr(reply, name) for reply in replies])
            for name in ("rows", "defined", "covered", "lengths")
        )
    return InferenceResult(
        resolution,
        rows,
        defined,
        covered,
        tuple(start + i for start, r in zip(starts, replies, strict=True) for i in r.truncated),
        sum(reply.tokens for reply in replies),
        LengthReport.of(lengths, resolution.source, by_encoder=True),
        first.prompt_name,
    )


def job_of(
    resolution: Resolution, truncate: bool | None = None, input_type: str | None = None
) -> Job:
    """The job of a resolution.

    Raises:
        InvalidInputError: If the source has no encoder.
    """
    head = resolution.head
    return Job(
        id="",
        encoder=encoder_of(resolution.source),
        truncate=truncate,
        input_type=input_type,
        source=resolution.source,
        target=resolution.target,
        # Workers do not need the labels, which may be many.
        head=head and head.model_copy(update={"labels": ()}),
        bridge=resolution.bridge,
    )


def _shift_pointer(
    error: InvalidInputError, tasks: Sequence[asyncio.Future[Reply]], size: int
) -> InvalidInputError:
    """Change the index in an error's pointer from that in its job to that in the whole request."""
    job = next((i for i, task in enumerate(tasks) if task.done() and task.exception() is error), 0)
    if error.pointer and error.pointer.startswith(ITEMS_POINTER):
        index, _, rest = error.pointer[len(ITEMS_POINTER) :].partition("/")
        error.pointer = f"{ITEMS_POINTER}{int(index) + job * size}" + (f"/{rest}" if rest else "")
    return error
