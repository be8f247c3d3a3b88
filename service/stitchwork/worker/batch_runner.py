"""Runs a batch of inference jobs: embeds all together, then stitches jobs of equal versions."""

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from stitchwork.errors import (
    ConflictError,
    ErrorCode,
    InputTooLargeError,
    InvalidInputError,
    JobFailedError,
    StitchworkError,
)
from stitchwork.inference import stitch
from stitchwork.inference.resolve import Resolution
from stitchwork.inference.stitch import InferenceResult
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.models.encoder import Encoder, PreparedInputs
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.models.memory import synchronize
from stitchwork.queue.answers import Answer
from stitchwork.queue.deliveries import Delivery
from stitchwork.queue.leases import Leases
from stitchwork.queue.messages import Job, Reply
from stitchwork.telemetry import Telemetry, bind_callers
from stitchwork.worker.encoder_check import EncoderChecker
from stitchwork.worker.encoder_loading import EncoderLoading, load_registered
from stitchwork.worker.prefetch import prefetch
from stitchwork.worker.registration import OUTAGE_ERRORS
from stitchwork.worker.token_jobs import answer_tokens

log = logging.getLogger(__name__)

T = TypeVar("T")
PreparedJob = tuple[Delivery, PreparedInputs]


class AnswerSender(Protocol):
    """Answers jobs."""

    def __call__(self, *answers: Answer) -> None:
        """Send any number of answers in one round trip."""


class BatchRunner:
    """Runs inference jobs of one encoder.

    Args:
        leases: Renewed as long as the work reports progress.
        load: Returns the loaded encoder of a spec.
        encoders: The device and the loaded encoders.
        checker: Refuses an encoder that does not reproduce the anchors of its space.
        translator: Maps of pairs of spaces, on the device.
        classifiers: Classifiers of heads, on the device.
        items_per_batch: Maximum number of inputs in one forward pass.
        telemetry: Times the steps.
    """

    def __init__(
        self,
        leases: Leases,
        load: EncoderLoading,
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
        """Decode no more inputs."""
        self._decoder.shutdown(cancel_futures=True)

    def run(self, batch: list[Delivery], answer: AnswerSender) -> None:
        """Run a batch.

        Args:
            batch: Jobs of one encoder.
            answer: Answers jobs.

        Raises:
            StitchworkError: If the jobs that are not answered cannot be run.
        """
        spec = batch[0].job.encoder
        if spec is None:
            raise JobFailedError("the job has no encoder")
        # A space without files was registered without a worker: nothing has proven its encoder.
        is_unproven = any(d.job.source and d.job.source.files_digest is None for d in batch)
        loaded = load_registered(self._load, spec, prove=is_unproven)
        start = time.perf_counter()
        self._telemetry.metrics.batch_jobs.observe(len(batch))
        batch = answer_tokens(loaded.encoder, batch, answer, self._leases.progress)
        with self._telemetry.span("model"):
            checked = _map_jobs(batch, lambda delivery: self._check(delivery.job, loaded), answer)
            # The first check of a space takes long, which predicts nothing about the next batch.
            embed_start = time.perf_counter()
            jobs, rows = self._embed_all(loaded, [delivery for delivery, _ in checked], answer)
        seconds_per_item = (time.perf_counter() - embed_start) / max(1, len(rows))
        self._stitch_all(jobs, rows, seconds_per_item, answer)
        milliseconds = round((time.perf_counter() - start) * 1000, 2)
        log.info(
            "batch completed",
            extra={"jobs": len(batch), "inputs": len(rows), "duration_ms": milliseconds},
        )

    def _check(self, job: Job, loaded: LoadedEncoder) -> None:
        if job.source:
            self._checker.check(job.source, loaded, self._leases.progress)
            self._leases.progress()

    def _embed_all(
        self, loaded: LoadedEncoder, deliveries: Sequence[Delivery], answer: AnswerSender
    ) -> tuple[list[PreparedJob], torch.Tensor]:
        """Embed all jobs; returns those that succeeded, and the embeddings of all their inputs."""
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
        answer: AnswerSender,
    ) -> None:
        """Stitch jobs of equal versions together, and answer them."""
        groups: dict[tuple[str | None, ...], list[int]] = {}
        for i, (delivery, _) in enumerate(jobs):
            groups.setdefault(_group_key(delivery.job), []).append(i)
        spans = _spans(jobs)
        for members in groups.values():
            job = jobs[members[0]][0].job
            selected = rows
            if len(groups) > 1:
                selected = torch.cat([rows[slice(*spans[i])] for i in members])
            try:
                with bind_jobs([jobs[i][0] for i in members]):
                    result = self._stitch(job, selected)
            except OUTAGE_ERRORS:
                raise
            except StitchworkError as error:
                answer(*((d, Reply(d.job.id, error=error), 0.0) for d, _ in _select(jobs, members)))
                continue
            lengths = _numpy(torch.linalg.vector_norm(selected.double(), dim=1))
            offset, answers = 0, []
            for delivery, prepared in _select(jobs, members):
                stop = offset + len(delivery.items)
                reply = Reply(
                    delivery.job.id,
                    result.rows[offset:stop],
                    result.defined[offset:stop],
                    result.covered[offset:stop],
                    lengths[offset:stop],
                    prepared.truncated,
                    prepared.tokens,
                    prepared.prompt_name,
                )
                answers.append((delivery, reply, seconds_per_item * len(delivery.items)))
                offset = stop
            answer(*answers)

    def _stitch(self, job: Job, rows: torch.Tensor) -> InferenceResult:
        """Translate and classify embeddings on the device; the result has numpy arrays."""
        if job.source is None:
            raise JobFailedError("the job has no space")
        if rows.shape[1] != job.source.dim:
            raise ConflictError(
                f"expected embeddings of {job.source.dim} numbers, as the anchors of space "
                f"{job.source.id} have, got {rows.shape[1]} from its encoder: the anchors are not "
                "of this encoder",
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
        self, loaded: LoadedEncoder, deliveries: Sequence[Delivery], answer: AnswerSender
    ) -> Iterator[list[PreparedJob]]:
        """Decode the inputs of jobs, and yield the jobs in groups to embed together.

        Texts are one group, so that texts of similar length share a forward pass. Images are
        yielded as soon as they fill a forward pass: decoding takes as long as a small model does,
        so later images are decoded during the pass. The time of the step is the time spent waiting
        for decoded images.
        """

        def prepare(delivery: Delivery) -> PreparedInputs:
            job = delivery.job
            return loaded.encoder.prepare(
                delivery.items,
                truncate=job.truncate,
                input_type=job.input_type,
                progress=self._leases.progress,
            )

        if loaded.encoder.modality == "text":
            with self._telemetry.step("preprocess"):
                jobs = [
                    job
                    for group in _groups_of_equal(deliveries, _preparation_key)
                    for job in _prepare_together(loaded.encoder, group, self._leases.progress)
                    or _map_jobs(group, prepare, answer)
                ]
            yield jobs
            return
        for group, result in prefetch(self._decoder, deliveries, prepare, self._items_per_batch):
            with self._telemetry.step("preprocess"):
                jobs = _map_jobs(group, result, answer)
            yield jobs

    def _embed(
        self, loaded: LoadedEncoder, jobs: list[PreparedJob], answer: AnswerSender
    ) -> tuple[list[PreparedJob], torch.Tensor]:
        """Embed jobs together, except those with an input too large for the device, even alone."""
        while jobs:
            joined = PreparedInputs.concatenate([prepared for _, prepared in jobs])
            try:
                rows = loaded.batcher.embed(joined, self._items_per_batch, self._leases.progress)
                return jobs, rows
            except InputTooLargeError as error:
                item = int((error.pointer or "/items/0").removeprefix("/items/"))
                i, (start, _) = next(
                    (i, span) for i, span in enumerate(_spans(jobs)) if item < span[1]
                )
                delivery, _ = jobs.pop(i)
                job_error = InputTooLargeError(
                    error.message, pointer=f"/items/{item - start}", code=error.code
                )
                answer((delivery, Reply(delivery.job.id, error=job_error), 0.0))
        return [], torch.empty(0)


def bind_jobs(deliveries: list[Delivery]) -> AbstractContextManager[None]:
    """Bind logs and traces to the requests of these jobs."""
    return bind_callers(*(delivery.job.caller for delivery in deliveries))


def _map_jobs(
    deliveries: Sequence[Delivery], work: Callable[[Delivery], T], answer: AnswerSender
) -> list[tuple[Delivery, T]]:
    """Apply work to each job; if it fails, the job is answered with the error and left out."""
    results = []
    for delivery in deliveries:
        try:
            results.append((delivery, work(delivery)))
        except OUTAGE_ERRORS:
            raise
        except StitchworkError as error:
            answer((delivery, Reply(delivery.job.id, error=error), 0.0))
    return results


def _prepare_together(
    encoder: Encoder, deliveries: Sequence[Delivery], progress: Callable[[], None]
) -> list[PreparedJob]:
    """Tokenise the texts of jobs with equal options at once, which costs less than one by one.

    Returns:
        Nothing if one of the texts is refused: then each job gets its own error.
    """
    job = deliveries[0].job
    items = [item for delivery in deliveries for item in delivery.items]
    try:
        prepared = encoder.prepare(
            items, truncate=job.truncate, input_type=job.input_type, progress=progress
        )
    except InvalidInputError:
        return []
    parts = prepared.split(len(delivery.items) for delivery in deliveries)
    return list(zip(deliveries, parts, strict=True))


def _groups_of_equal(
    deliveries: Sequence[Delivery], key: Callable[[Delivery], Hashable]
) -> list[list[Delivery]]:
    """Jobs with equal keys together, in the order in which the first of each came."""
    groups: dict[Hashable, list[Delivery]] = {}
    for delivery in deliveries:
        groups.setdefault(key(delivery), []).append(delivery)
    return list(groups.values())


def _preparation_key(delivery: Delivery) -> Hashable:
    return delivery.job.truncate, delivery.job.input_type


def _select(jobs: list[PreparedJob], indices: list[int]) -> list[PreparedJob]:
    return [jobs[i] for i in indices]


def _numpy(array: Any) -> Any:
    return array.cpu().numpy() if isinstance(array, torch.Tensor) else array


def _spans(jobs: list[PreparedJob]) -> list[tuple[int, int]]:
    """Start and stop of each job's inputs among the inputs of all."""
    ends = np.cumsum([0, *(len(prepared.inputs) for _, prepared in jobs)]).tolist()
    return list(pairwise(ends))


def _group_key(job: Job) -> tuple[str | None, ...]:
    """Jobs with equal keys use the same versions and bridge."""
    return (
        job.source.version if job.source else None,
        job.target.version if job.target else None,
        f"{job.head.id}:{job.head.version}" if job.head else None,
        job.bridge,
    )
