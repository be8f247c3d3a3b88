"""A batch of inference jobs on the device: embed together, then stitch by equal resolutions."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch

from stitchwork.errors import (
    ConflictError,
    ErrorCode,
    InputTooLargeError,
    JobFailedError,
    StitchworkError,
)
from stitchwork.inference import stitch
from stitchwork.inference.resolve import Resolution
from stitchwork.inference.stitch import InferenceResult
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.models.encoder import PreparedInputs
from stitchwork.models.encoder_cache import EncoderCache, LoadedEncoder
from stitchwork.models.memory import synchronize
from stitchwork.queue.deliveries import Delivery
from stitchwork.queue.leases import Leases
from stitchwork.queue.messages import Job, Reply
from stitchwork.resources import EncoderSpec
from stitchwork.telemetry import Telemetry, bind_callers
from stitchwork.worker.encoder_check import EncoderChecker
from stitchwork.worker.registration import OUTAGE_ERRORS

log = logging.getLogger(__name__)

T = TypeVar("T")
PreparedJob = tuple[Delivery, PreparedInputs]
Answered = tuple[Delivery, Reply | None, float]
"""A job, its reply (None for one that nobody waits for), and the seconds it took."""
Answer = Callable[..., None]
"""Takes any number of `Answered`."""


class BatchRunner:
    """Runs inference jobs of one encoder.

    Args:
        leases: Keeps the jobs while they make progress.
        load: Gives the loaded encoder of a spec.
        encoders: The device, and what is on it.
        checker: Refuses encoders that no longer give the rows that their space was registered with.
        translator: Gives maps on the device.
        classifiers: Gives classifiers on the device.
        items_per_batch: Inputs that a model gets at once.
        telemetry: Where steps are timed.
    """

    def __init__(
        self,
        leases: Leases,
        load: Callable[[EncoderSpec], LoadedEncoder],
        encoders: EncoderCache,
        checker: EncoderChecker,
        translator: Translator,
        classifiers: ClassifierCache,
        *,
        items_per_batch: int,
        telemetry: Telemetry,
    ) -> None:
        self._leases = leases
        self._load = load
        self._encoders = encoders
        self._checker = checker
        self._translator = translator
        self._classifiers = classifiers
        self._items_per_batch = items_per_batch
        self._telemetry = telemetry
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")

    def close(self) -> None:
        """Start nothing more."""
        self._decoder.shutdown(cancel_futures=True)

    def run(self, batch: list[Delivery], answer: Answer) -> None:
        """Run a batch.

        Args:
            batch: Jobs of one encoder.
            answer: Sends replies.

        Raises:
            StitchworkError: If what is left unanswered cannot be done.
        """
        spec = batch[0].job.encoder
        if spec is None:
            raise JobFailedError("the job names no encoder")
        loaded = self._load(spec)
        start = time.perf_counter()
        with self._telemetry.span("model"):
            checked = _each(batch, lambda delivery: self._check(delivery.job, loaded), answer)
            jobs, rows = self._embed_all(loaded, [delivery for delivery, _ in checked], answer)
        seconds_per_item = (time.perf_counter() - start) / max(1, len(rows))
        self._stitch_all(jobs, rows, seconds_per_item, answer)
        self._telemetry.metrics.batch_jobs.observe(len(batch))
        milliseconds = round((time.perf_counter() - start) * 1000, 2)
        log.info(
            "batch completed",
            extra={"jobs": len(batch), "inputs": len(rows), "duration_ms": milliseconds},
        )

    def _check(self, job: Job, loaded: LoadedEncoder) -> None:
        if job.source:
            self._checker.check(job.source, loaded)

    def _embed_all(
        self, loaded: LoadedEncoder, deliveries: Sequence[Delivery], answer: Answer
    ) -> tuple[list[PreparedJob], torch.Tensor]:
        """The jobs that could be embedded, and the embeddings of all their inputs, in order."""
        jobs, parts = list[PreparedJob](), list[torch.Tensor]()
        for group in self._prepare(loaded, deliveries, answer):
            with self._telemetry.step("embed"):
                embedded, rows = self._embed(loaded, group, answer)
            jobs += embedded
            parts += [rows] if embedded else []
        return jobs, torch.cat(parts) if parts else torch.empty(0)

    def _stitch_all(
        self,
        jobs: list[PreparedJob],
        rows: torch.Tensor,
        seconds_per_item: float,
        answer: Answer,
    ) -> None:
        """Stitch jobs of equal resolutions together, and answer them."""
        groups: dict[tuple[str | None, ...], list[int]] = {}
        for i, (delivery, _) in enumerate(jobs):
            groups.setdefault(_group_key(delivery.job), []).append(i)
        spans = _spans(jobs)
        for members in groups.values():
            job = jobs[members[0]][0].job
            selected = torch.cat([rows[slice(*spans[i])] for i in members])
            try:
                with working_for_jobs([jobs[i][0] for i in members]):
                    result = self._stitch(job, selected)
            except OUTAGE_ERRORS:
                raise
            except StitchworkError as error:
                answer(*((d, Reply(d.job.id, error=error), 0.0) for d, _ in _at(jobs, members)))
                continue
            offset, answers = 0, []
            for delivery, prepared in _at(jobs, members):
                stop = offset + len(delivery.items)
                reply = Reply(
                    delivery.job.id,
                    result.rows[offset:stop],
                    result.defined[offset:stop],
                    result.covered[offset:stop],
                    prepared.truncated,
                    prepared.tokens,
                )
                answers.append((delivery, reply, seconds_per_item * len(delivery.items)))
                offset = stop
            answer(*answers)

    def _stitch(self, job: Job, rows: torch.Tensor) -> InferenceResult:
        """Embeddings through the job's map and head on the device; the result in numpy."""
        if job.source is None:
            raise JobFailedError("the job names no space")
        if rows.shape[1] != job.source.dim:
            raise ConflictError(
                f"the encoder of space {job.source.id} gives {rows.shape[1]} numbers, its "
                f"anchors have {job.source.dim}: they are not of this encoder",
                code=ErrorCode.ENCODER_MISMATCH,
            )
        with torch.inference_mode():
            result = stitch.stitch(
                self._translator,
                self._classifiers,
                Resolution(job.source, job.target, job.head, job.bridge),
                self._encoders.to_device(rows),
                telemetry=self._telemetry,
                synchronize=lambda: synchronize(self._encoders.device),
            )
            return result.convert(_numpy)

    def _prepare(
        self, loaded: LoadedEncoder, deliveries: Sequence[Delivery], answer: Answer
    ) -> Iterator[list[PreparedJob]]:
        """Jobs with their inputs decoded, in groups that the model is best given together.

        Texts come in one group, so that those of like length share a forward pass. Images come as
        soon as they fill one: decoding takes as long as a small model does, and the next images are
        decoded during the pass. The step's time is the time spent waiting for them.
        """

        def prepare(delivery: Delivery) -> PreparedInputs:
            return loaded.encoder.prepare(delivery.items, truncate=delivery.job.truncate)

        if loaded.encoder.modality == "text":
            with self._telemetry.step("preprocess"):
                jobs = _each(deliveries, prepare, answer)
            yield jobs
            return
        for group, result in prefetch(self._decoder, deliveries, prepare, self._items_per_batch):
            with self._telemetry.step("preprocess"):
                jobs = _each(group, result, answer)
            yield jobs

    def _embed(
        self, loaded: LoadedEncoder, jobs: list[PreparedJob], answer: Answer
    ) -> tuple[list[PreparedJob], torch.Tensor]:
        """Embeddings of all jobs, except those that do not fit the device even alone."""
        while jobs:
            joined = PreparedInputs.concatenate([prepared for _, prepared in jobs])
            try:
                rows = loaded.batcher.embed(joined, self._items_per_batch, self._leases.progress)
                return jobs, rows
            except InputTooLargeError as error:
                at = int((error.pointer or "/items/0").removeprefix("/items/"))
                i, (start, _) = next(
                    (i, span) for i, span in enumerate(_spans(jobs)) if at < span[1]
                )
                delivery, _ = jobs.pop(i)
                refusal = InputTooLargeError(
                    error.message, pointer=f"/items/{at - start}", code=error.code
                )
                answer((delivery, Reply(delivery.job.id, error=refusal), 0.0))
        return [], torch.empty(0)


def prefetch(
    pool: Executor, deliveries: Sequence[Delivery], work: Callable[[Delivery], T], inputs: int
) -> Generator[tuple[list[Delivery], Callable[[Delivery], T]], None, None]:
    """Work on all jobs in order, and yield groups while later ones are worked on.

    Args:
        pool: Where the work runs.
        deliveries: The jobs.
        work: What is done to each, in the context of the caller.
        inputs: Minimum number of inputs of a group, except of the last.

    Yields:
        Groups of jobs, and a function that waits for the result of one, or raises what the work
        raised. Work that nobody fetched is cancelled.
    """
    futures = {d.entry: pool.submit(copy_context().run, work, d) for d in deliveries}

    def result(delivery: Delivery) -> T:
        return futures[delivery.entry].result()

    try:
        for group in _groups(deliveries, inputs):
            yield group, result
    finally:
        for future in futures.values():
            future.cancel()


def working_for_jobs(deliveries: list[Delivery]) -> AbstractContextManager[None]:
    """The context of the requests that these jobs belong to."""
    return bind_callers(*(delivery.job.caller for delivery in deliveries))


def _each(
    batch: Sequence[Delivery], work: Callable[[Delivery], T], answer: Answer
) -> list[tuple[Delivery, T]]:
    """Each job with its result; a job whose work fails is answered with the error and left out."""
    results = []
    for delivery in batch:
        try:
            results.append((delivery, work(delivery)))
        except OUTAGE_ERRORS:
            raise
        except StitchworkError as error:
            answer((delivery, Reply(delivery.job.id, error=error), 0.0))
    return results


def _groups(deliveries: Sequence[Delivery], inputs: int) -> Iterator[list[Delivery]]:
    """Jobs in order, in groups of at least this many inputs, except for the last."""
    group = list[Delivery]()
    for delivery in deliveries:
        group.append(delivery)
        if sum(len(one.items) for one in group) >= inputs:
            yield group
            group = []
    if group:
        yield group


def _at(jobs: list[PreparedJob], indices: list[int]) -> list[PreparedJob]:
    return [jobs[i] for i in indices]


def _numpy(array: Any) -> Any:
    return array.cpu().numpy() if isinstance(array, torch.Tensor) else array


def _spans(jobs: list[PreparedJob]) -> list[tuple[int, int]]:
    """Where each job's inputs start and stop among those of all."""
    ends = np.cumsum([0, *(len(prepared.inputs) for _, prepared in jobs)]).tolist()
    return list(pairwise(ends))


def _group_key(job: Job) -> tuple[str | None, ...]:
    """Jobs with equal keys share one map and one head."""
    return (
        job.source.version if job.source else None,
        job.target.version if job.target else None,
        f"{job.head.id}:{job.head.version}" if job.head else None,
        job.bridge,
    )
