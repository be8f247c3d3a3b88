"""Embed raw inputs on workers: one request, in one or more jobs."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import numpy as np
from cachetools import LRUCache

from stitchwork.inference.length_report import LengthReport
from stitchwork.inference.resolve import Resolution, encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.queue.costs import split_by_cost
from stitchwork.queue.messages import Job
from stitchwork.queue.producer import Producer
from stitchwork.resources import Input, Space

MAX_JOBS: Final = 1024


async def embed(
    producer: Producer,
    jobs: "JobCache",
    resolution: Resolution,
    items: Sequence[Input],
    *,
    truncate: bool | None,
    input_type: str | None,
    items_per_job: int,
    seconds: float,
) -> InferenceResult:
    """Embed raw inputs on workers, which also translate and classify them.

    Args:
        producer: Sends jobs to workers.
        jobs: The jobs of resolutions.
        resolution: The versions to use; its source has an encoder. Without a target the inputs
            are not translated, without a head not classified.
        items: n texts, or the bytes of n image files.
        truncate: Cut texts that are too long; None takes the encoder's setting.
        input_type: Selects a prompt of the encoder's model; None takes the encoder's own.
        items_per_job: Larger requests are split into jobs of this size, or smaller ones if the
            inputs are long texts or large images, or the encoder is slow.
        seconds: Deadline of the result, in seconds from now.

    Returns:
        The result of all jobs, in the order of the items.

    Raises:
        InvalidInputError: If the source has no encoder, or a worker refuses an input; its pointer
            is the index in the whole request.
        StitchworkError: What `Producer.run_all` raises.
    """
    job = jobs.get(resolution, truncate, input_type)
    max_cost = producer.max_job_cost(job)
    parts = [part for part, _ in split_by_cost(items, job.encoder, items_per_job, max_cost)]
    starts = accumulate((len(part) for part in parts[:-1]), initial=0)
    replies = await producer.run_all(job, parts, seconds)
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


class JobCache:
    """The jobs of resolutions; what requests of the same versions share is packed once."""

    def __init__(self) -> None:
        self._jobs: LRUCache[tuple[Any, ...], tuple[Resolution, Job]] = LRUCache(MAX_JOBS)

    def get(
        self, resolution: Resolution, truncate: bool | None = None, input_type: str | None = None
    ) -> Job:
        """The job of a resolution.

        Raises:
            InvalidInputError: If the source has no encoder.
        """
        records = (resolution.source, resolution.target, resolution.head)
        versions = tuple(record and (record.id, record.version) for record in records)
        key = (*versions, resolution.bridge, truncate, input_type)
        known, job = self._jobs.get(key, (None, None))
        if job is None or known is None or not _has_same_records(known, resolution):
            job = job_of(resolution, truncate, input_type)
            self._jobs[key] = (resolution, job)
        return job


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
        source=_without_checks(resolution.source),
        target=resolution.target and _without_checks(resolution.target),
        # Workers do not need the labels, which may be many.
        head=head and head.model_copy(update={"labels": ()}),
        bridge=resolution.bridge,
    )


def _has_same_records(a: Resolution, b: Resolution) -> bool:
    # What a record has beside its version, such as its anchor set's, may change without it.
    return a.source is b.source and a.target is b.target and a.head is b.head


def _without_checks(space: Space) -> Space:
    """A space as workers need it."""
    return space.model_copy(update={"checks": (), "warnings": (), "label_names": ()})
