"""Raw inputs through the queue to a worker, as one request however many jobs it takes."""

import asyncio
from collections.abc import Sequence
from functools import partial

import numpy as np

from stitchwork.api.content.negotiation import LARGE_BODY
from stitchwork.api.dependencies import AppState
from stitchwork.api.schemas.items import decode_items
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.inference.translator import check_pair
from stitchwork.queue.messages import Job, Reply
from stitchwork.resources import EncoderSpec, Head, Modality, Space


def encoder_of(space: Space) -> EncoderSpec:
    """The encoder of a space.

    Raises:
        InvalidInputError: If it has none.
    """
    if space.encoder is None:
        raise InvalidInputError(
            f"space {space.id} has no encoder: send embeddings instead",
            code=ErrorCode.NO_ENCODER,
        )
    return space.encoder


def job_of(
    source: Space,
    target: Space | None = None,
    head: Head | None = None,
    *,
    bridge: BridgeName = DEFAULT_BRIDGE,
    truncate: bool | None = None,
) -> Job:
    """The job that embeds raw inputs and, where they are named, translates and classifies them.

    Raises:
        InvalidInputError: If the source has no encoder, or the bridge cannot join the spaces.
        AnchorSetMismatchError: If they do not share an anchor set.
    """
    encoder = encoder_of(source)
    if target:
        check_pair(source, target, bridge)
    return Job(
        id="",
        encoder=encoder,
        truncate=truncate,
        source=source,
        target=target,
        head=head and head.model_copy(update={"labels": ()}),
        bridge=bridge,
    )


def check_room(state: AppState, encoder: str) -> None:
    """Under a load that cannot be borne, a refusal must cost next to nothing.

    Raises:
        QueueFullError: If the queue of this space's encoder was full a moment ago.
    """
    known = state.registry.spaces.last(encoder)
    if known and known.encoder:
        state.producer.check_room(known.encoder)


async def run(state: AppState, job: Job, given: list[str | bytes], seconds: float) -> Reply:
    """All inputs through the queue, split so that no job is large; one reply as if it were one."""
    modality = job.encoder.modality if job.encoder else "vector"
    async with state.image_fetcher.by_value(given, modality) as values:
        return await _run(state, job, values, modality, seconds)


async def _run(
    state: AppState, job: Job, given: list[str | bytes], modality: Modality, seconds: float
) -> Reply:
    decode = partial(decode_items, given, modality, state.limits.max_items)
    # Texts and image files are taken as they are, in no time; base64 takes some.
    large = sum(map(len, given)) > LARGE_BODY
    items = await asyncio.to_thread(decode) if large else decode()
    size = state.limits.items_per_job
    starts = range(0, len(items), size)
    tasks = [
        asyncio.ensure_future(state.producer.run(job, items[start : start + size], seconds))
        for start in starts
    ]
    try:
        replies = await asyncio.gather(*tasks)
    except InvalidInputError as error:
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
        sum(reply.tokens for reply in replies),
    )


def _relocated(
    error: InvalidInputError, tasks: Sequence[asyncio.Future[Reply]], size: int
) -> InvalidInputError:
    """The error with its pointer counted in the whole request, not in its part."""
    at = next((i for i, task in enumerate(tasks) if task.done() and task.exception() is error), 0)
    prefix = "/items/"
    if error.pointer and error.pointer.startswith(prefix):
        index, _, rest = error.pointer[len(prefix) :].partition("/")
        error.pointer = f"{prefix}{int(index) + at * size}" + (f"/{rest}" if rest else "")
    return error
