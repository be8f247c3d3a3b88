"""A worker: takes batches of jobs and embeds, translates and classifies on its device."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from itertools import pairwise
from typing import Any, Final, TypeVar

import numpy as np
import torch

from stitchwork.errors import (
    ConflictError,
    ErrorCode,
    InputTooLargeError,
    JobFailedError,
    RegistryUnavailableError,
    StitchworkError,
    UnavailableError,
)
from stitchwork.geometry.classifier import probabilities
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.models.encoder import PreparedInputs
from stitchwork.models.encoder_cache import MIN_PATIENCE_SECONDS, EncoderCache, LoadedEncoder
from stitchwork.models.memory import synchronize
from stitchwork.queue.consumer import Consumer, Delivery
from stitchwork.queue.leases import Leases
from stitchwork.queue.messages import Job, Reply
from stitchwork.queue.worker_registry import Heartbeat, WorkerStatus
from stitchwork.resources import EncoderSpec
from stitchwork.telemetry import Telemetry, bind_callers
from stitchwork.worker.encoder_check import EncoderChecker
from stitchwork.worker.registration import AWAY, RegistrationRunner

log = logging.getLogger(__name__)

LOAD_SECONDS: Final = 1800.0
"""Loading a model may need a download, and is not taken to hang as soon as a forward pass."""

T = TypeVar("T")
Ready = tuple[Delivery, PreparedInputs]
Answered = tuple[Delivery, Reply | None, float]
Answer = Callable[..., None]
"""Takes any number of `Answered`."""


class Worker:
    """Runs jobs until it is told to stop.

    Args:
        consumer: Where jobs come from.
        presence: Says that this worker lives.
        upkeep: Does what is left to do for registrations.
        translator: Gives maps whose arrays are on this worker's device.
        heads: Gives classifiers on this worker's device.
        catalog: Gives loaded encoders.
        verifier: Refuses encoders that no longer yield their space.
        items_per_batch: Inputs that a model gets at once.
        telemetry: Where its work is seen.
    """

    def __init__(
        self,
        consumer: Consumer,
        presence: Heartbeat,
        upkeep: RegistrationRunner,
        translator: Translator,
        heads: ClassifierCache,
        catalog: EncoderCache,
        verifier: EncoderChecker,
        *,
        items_per_batch: int,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._consumer = consumer
        self._presence = presence
        self._upkeep = upkeep
        self._translator = translator
        self._heads = heads
        self._catalog = catalog
        self._verifier = verifier
        self._batch_items = items_per_batch
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._stopping = threading.Event()

    def run(self) -> None:
        """Work until `stop` is called; the batch in hand is finished first."""
        self._consumer.start()
        self._upkeep.start()
        self._presence.start()
        log.info("worker started", extra={"worker": self._consumer.name})
        try:
            while not self._stopping.is_set():
                try:
                    batch = self._consumer.take()
                except UnavailableError as error:
                    log.warning("waiting for a server", extra={"reason": error.message})
                    self._stopping.wait(1.0)
                    continue
                if batch:
                    with _for(batch):
                        self._work(batch)
        finally:
            self._presence.stop()
            self._upkeep.stop()
            self._consumer.stop()
            self._ahead.shutdown(cancel_futures=True)
            log.info("worker stopped", extra={"worker": self._consumer.name})
            self._telemetry.close()

    def stop(self) -> None:
        """Take nothing more."""
        self._stopping.set()

    def _work(self, batch: list[Delivery]) -> None:
        """Everyone in the batch gets an answer, whatever happens to it."""
        unanswered = {delivery.entry: delivery for delivery in batch}

        def answer(*answers: Answered) -> None:
            for delivery, _, _ in answers:
                unanswered.pop(delivery.entry, None)
            self._consumer.answer_all(answers)

        try:
            for delivery in [delivery for delivery in batch if delivery.job.registration]:
                # A model may have to be loaded first, or a classifier taken out of one.
                self._consumer.leases.progress(LOAD_SECONDS)
                self._upkeep.advance(delivery.job, self._consumer.leases.progress)
                answer((delivery, None, 0.0))
            inference = [delivery for delivery in batch if not delivery.job.registration]
            if inference:
                self._infer(inference, answer)
        except AWAY as error:
            log.warning("a batch was left", extra={"reason": error.message})
            # Another worker would find the same registry away; who waits is told, and comes again.
            if isinstance(error, RegistryUnavailableError):
                self._fail_all([d for d in unanswered.values() if not d.job.registration], error)
            self._leave()
        except StitchworkError as error:
            self._fail_all(list(unanswered.values()), error)
        except Exception as error:
            log.exception("a batch failed")
            if len(unanswered) > 1:
                # One of them is to blame, and must not take the others along.
                for delivery in list(unanswered.values()):
                    with _for([delivery]):
                        self._work([delivery])
                return
            told = JobFailedError(f"the worker failed at this job: {type(error).__name__}")
            self._fail_all(list(unanswered.values()), told)

    def _leave(self) -> None:
        """Not answered, not acknowledged: what is in hand is delivered again, to whoever asks."""
        try:
            self._consumer.leases.release()
        except UnavailableError as error:
            log.warning("it is delivered once its lease is over", extra={"reason": error.message})

    def _fail_all(self, deliveries: list[Delivery], error: StitchworkError) -> None:
        for delivery in deliveries:
            with _for([delivery]):
                log.warning("a job failed", extra={"code": error.code})
                try:
                    self._consumer.fail(delivery, error)
                except UnavailableError as away:
                    log.warning("an answer could not be sent", extra={"reason": away.message})

    def _infer(self, batch: list[Delivery], answer: Answer) -> None:
        spec = batch[0].job.encoder
        if spec is None:
            raise JobFailedError("the job names no encoder")
        loaded = load(self._catalog, self._consumer.leases, spec)
        began = time.perf_counter()
        with self._telemetry.span("model"):
            known = _each(batch, lambda d: self._verify(d.job, loaded), answer)
            ready, parts = list[Ready](), list[torch.Tensor]()
            for some in self._prepared(loaded, [delivery for delivery, _ in known], answer):
                with self._telemetry.step("embed"):
                    fitting, found = self._embed(loaded, some, answer)
                ready += fitting
                parts += [found] if fitting else []
            rows = torch.cat(parts) if parts else torch.empty(0)
        groups: dict[tuple[str | None, ...], list[int]] = {}
        for i, (delivery, _) in enumerate(ready):
            groups.setdefault(_route(delivery.job), []).append(i)
        spans = _spans(ready)
        each = (time.perf_counter() - began) / max(1, len(rows))
        for members in groups.values():
            job = ready[members[0]][0].job
            picked = torch.cat([rows[slice(*spans[i])] for i in members])
            try:
                with _for([ready[i][0] for i in members]):
                    result, defined, covered = self._read_through(job, picked)
            except AWAY:
                raise
            except StitchworkError as error:
                answer(
                    *((ready[i][0], Reply(ready[i][0].job.id, error=error), 0.0) for i in members)
                )
                continue
            start, answers = 0, []
            for i in members:
                delivery, prepared = ready[i]
                stop = start + len(delivery.items)
                reply = Reply(
                    delivery.job.id,
                    result[start:stop],
                    defined[start:stop],
                    covered[start:stop],
                    prepared.truncated,
                    prepared.tokens,
                )
                answers.append((delivery, reply, each * len(delivery.items)))
                start = stop
            answer(*answers)
        self._telemetry.metrics.batch_jobs.observe(len(batch))
        log.info(
            "batch",
            extra={
                "jobs": len(batch),
                "inputs": len(rows),
                "ms": round((time.perf_counter() - began) * 1000, 2),
            },
        )

    def _verify(self, job: Job, loaded: LoadedEncoder) -> None:
        if job.source:
            self._verifier.check(job.source, loaded)

    def _prepared(
        self, loaded: LoadedEncoder, deliveries: Sequence[Delivery], answer: Answer
    ) -> Iterator[list[Ready]]:
        """Jobs with what their model takes, as many at a time as it is best given.

        Texts come together, so that those of like length share a batch. Images come as soon as
        they fill one: decoding takes as long as a small model does, and the next ones are decoded
        while it has these; what is timed is how long it had to wait for them.
        """

        def prepare(delivery: Delivery) -> PreparedInputs:
            return loaded.encoder.prepare(delivery.items, truncate=delivery.job.truncate)

        if loaded.encoder.modality == "text":
            with self._telemetry.step("preprocess"):
                ready = _each(deliveries, prepare, answer)
            yield ready
            return
        for group, prepared in meanwhile(self._ahead, deliveries, prepare, self._batch_items):
            with self._telemetry.step("preprocess"):
                ready = _each(group, prepared, answer)
            yield ready

    def _embed(
        self, loaded: LoadedEncoder, ready: list[Ready], answer: Answer
    ) -> tuple[list[Ready], torch.Tensor]:
        """Embeddings of all jobs, without those that do not fit the device even alone."""
        while ready:
            joined = PreparedInputs.join([prepared for _, prepared in ready])
            try:
                rows = loaded.batcher.embed(
                    joined, self._batch_items, self._consumer.leases.progress
                )
                return ready, rows
            except InputTooLargeError as error:
                at = int((error.pointer or "/items/0").removeprefix("/items/"))
                i = next(i for i, (_, stop) in enumerate(_spans(ready)) if at < stop)
                delivery, _ = ready.pop(i)
                place = f"/items/{at - (_spans([*ready[:i], (delivery, _)])[-1][0])}"
                told = InputTooLargeError(error.message, pointer=place, code=error.code)
                answer((delivery, Reply(delivery.job.id, error=told), 0.0))
        return [], torch.empty(0)

    def _read_through(self, job: Job, rows: torch.Tensor) -> tuple[Any, Any, Any]:
        """Embeddings through the job's map and head, all on the device; then to numpy."""
        with torch.inference_mode():
            found = self._catalog.to_device(rows)
            defined = covered = self._catalog.to_device(np.ones(len(rows), np.bool_))
            if job.source and rows.shape[1] != job.source.dim:
                raise ConflictError(
                    f"the encoder of space {job.source.id} gives {rows.shape[1]} numbers, its "
                    f"anchors have {job.source.dim}: they are not of this encoder",
                    code=ErrorCode.ENCODER_MISMATCH,
                )
            if job.source and job.target:
                way = self._translator.way(job.source, job.target, job.bridge)
                with self._telemetry.step("translate"):
                    found, defined, covered = way.apply(found)
                    synchronize(self._catalog.device)
            if job.head:
                classifier = self._heads.get(job.head)
                with self._telemetry.step("classify"):
                    found = probabilities(classifier.logits(found))
                    synchronize(self._catalog.device)
            found, defined, covered = map(_numpy, (found, defined, covered))
            return found, defined, covered


def load(catalog: EncoderCache, leases: Leases, spec: EncoderSpec) -> LoadedEncoder:
    """A loaded encoder; while it loads, the jobs in hand are held on to."""
    leases.progress(LOAD_SECONDS)
    found = catalog.get(spec)
    leases.progress()
    return found


def describe(
    name: str, serves: tuple[str, ...], catalog: EncoderCache, verifier: EncoderChecker
) -> WorkerStatus:
    """What a worker says about itself."""
    return WorkerStatus(
        worker=name,
        device=str(catalog.device),
        serves=serves,
        loaded=catalog.loaded(),
        model_bytes=catalog.nbytes(),
        refused=verifier.refused(),
    )


def patience(catalog: EncoderCache, presence: Heartbeat, encoder: str) -> float:
    """Seconds that work for an encoder waits before a worker without it takes it.

    None where it is loaded; a moment where another worker has it, which is likely to be quicker.
    """
    own = catalog.patience(encoder)
    is_loaded_elsewhere = encoder not in catalog.loaded() and presence.is_loaded_elsewhere(encoder)
    return max(own, MIN_PATIENCE_SECONDS) if is_loaded_elsewhere else own


def _each(
    batch: Sequence[Delivery], work: Callable[[Delivery], T], answer: Answer
) -> list[tuple[Delivery, T]]:
    """Each job with what becomes of it, without those whose callers are told why nothing does."""
    found = []
    for delivery in batch:
        try:
            found.append((delivery, work(delivery)))
        except AWAY:
            raise
        except StitchworkError as error:
            answer((delivery, Reply(delivery.job.id, error=error), 0.0))
    return found


def meanwhile(
    pool: Executor, deliveries: Sequence[Delivery], work: Callable[[Delivery], T], inputs: int
) -> Iterator[tuple[list[Delivery], Callable[[Delivery], T]]]:
    """Work on all jobs in their order, and hand them out while the later ones are worked on.

    Args:
        pool: What works.
        deliveries: The jobs.
        work: What is done to each, in the context of whoever asks here.
        inputs: How many a group has, unless it is the last.

    Returns:
        Groups of jobs, and what waits for the result of one, or raises what the work raised. What
        nobody fetched is not begun.
    """
    coming = {d.entry: pool.submit(copy_context().run, work, d) for d in deliveries}

    def result(delivery: Delivery) -> T:
        return coming[delivery.entry].result()

    try:
        for group in _groups(deliveries, inputs):
            yield group, result
    finally:
        for left in coming.values():
            left.cancel()


def _groups(deliveries: Sequence[Delivery], inputs: int) -> Iterator[list[Delivery]]:
    """Jobs in their order, in groups of at least so many inputs but for the last."""
    group = list[Delivery]()
    for delivery in deliveries:
        group.append(delivery)
        if sum(len(one.items) for one in group) >= inputs:
            yield group
            group = []
    if group:
        yield group


def _for(deliveries: list[Delivery]) -> AbstractContextManager[None]:
    """What is done inside is done for whoever waits for these."""
    return bind_callers(*(delivery.job.caller for delivery in deliveries))


def _numpy(array: Any) -> Any:
    return array.cpu().numpy() if isinstance(array, torch.Tensor) else array


def _spans(ready: list[Ready]) -> list[tuple[int, int]]:
    """Where each job's inputs start and stop among those of all."""
    ends = np.cumsum([0, *(len(prepared.inputs) for _, prepared in ready)]).tolist()
    return list(pairwise(ends))


def _route(job: Job) -> tuple[str | None, ...]:
    """Jobs with equal routes share one map and one head."""
    return (
        job.source.version if job.source else None,
        job.target.version if job.target else None,
        f"{job.head.id}:{job.head.version}" if job.head else None,
        job.bridge,
    )
