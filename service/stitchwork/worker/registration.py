"""Advances pending registrations: embeds anchors, fits heads, and completes or fails each.

Registration jobs use the same streams as inference jobs, one chunk at a time, so that embedding the
anchors of a large set neither delays callers nor is lost with its worker. Jobs without an encoder,
such as fitting a head, have a stream and a thread of their own.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from stitchwork.background import (
    BackgroundTask,
    PeriodicTask,
    lower_priority,
    single_blas_thread,
)
from stitchwork.errors import (
    ConflictError,
    ErrorCode,
    InvalidInputError,
    JobFailedError,
    NotReadyError,
    QueueUnavailableError,
    RegistryUnavailableError,
    StitchworkError,
    UnavailableError,
)
from stitchwork.inference.translator import Translator
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.queue import streams
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.messages import Job
from stitchwork.registry.head_records import define_head
from stitchwork.registry.registration_parts import read_parts, save_part
from stitchwork.registry.registry import Registry
from stitchwork.registry.space_checks import SpaceCheckThread
from stitchwork.registry.transitions import is_declared
from stitchwork.resources import EncoderSpec, Item, Registration
from stitchwork.resources.training_inputs import digests_of
from stitchwork.worker.dtype_choice import choose_dtype, in_force, sample_indices
from stitchwork.worker.encoder_check import EncoderChecker
from stitchwork.worker.encoder_loading import EncoderLoading
from stitchwork.worker.failure_causes import describe, log_fields
from stitchwork.worker.registration_inputs import RegistrationInputs, item_error

log = logging.getLogger(__name__)

OUTAGE_ERRORS: Final = (QueueUnavailableError, RegistryUnavailableError)
STALLED_SECONDS: Final = 10.0
"""A registration without progress for this long is enqueued again."""
FIT_SECONDS: Final = 3600.0
"""A fit that takes longer counts as hung."""
STOP_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0


class RegistrationRunner:
    """Advances pending registrations step by step.

    Args:
        registry: Stores the registrations and their results.
        consumer: Takes the jobs that need no encoder; `start` runs it in a thread.
        translator: Computes the inverses of a completed space.
        space_checks: Compares a completed space with the others on its set.
        encoders: Resolves revisions, and extracts classifiers from pretrained models.
        checker: Compares encoders with the spaces that they were registered for.
        load: Returns the loaded encoder of a spec.
        items_per_batch: Maximum inputs in one forward pass.
        chunk_items: Inputs that one step embeds.
    """

    def __init__(
        self,
        registry: Registry,
        consumer: Consumer,
        translator: Translator,
        space_checks: SpaceCheckThread,
        encoders: EncoderCache,
        checker: EncoderChecker,
        load: EncoderLoading,
        *,
        items_per_batch: int,
        chunk_items: int,
    ) -> None:
        self._registry = registry
        self._consumer = consumer
        self._translator = translator
        self._space_checks = space_checks
        self._encoders = encoders
        self._checker = checker
        self._load = load
        self._items_per_batch = items_per_batch
        self._chunk_items = chunk_items
        self._inputs = RegistrationInputs(registry)
        self._stopping = threading.Event()
        limits: Any = {"stalled_seconds": FIT_SECONDS, "initializer": lower_priority}
        self._task = PeriodicTask("registrations", self._run, 0.0, **limits)
        self._last_scan = 0.0

    @property
    def tasks(self) -> Sequence[BackgroundTask]:
        """The background tasks that registrations depend on."""
        return (self._task, self._consumer.leases.task, self._space_checks.task)

    def start(self) -> None:
        """Start to take jobs that need no encoder."""
        self._consumer.start()
        self._task.start()
        self._space_checks.start()

    def stop(self) -> None:
        """Take no more jobs; a fit that does not end in time is left to another worker."""
        self._stopping.set()
        self._space_checks.stop()
        self._task.stop(STOP_SECONDS)
        self._consumer.stop()

    def advance(self, job: Job, progress: Callable[[], None] = lambda: None) -> None:
        """Run the next step of a registration, and enqueue the step after it.

        Args:
            job: Names the registration. If it is no longer pending, or a newer one replaced it,
                nothing happens.
            progress: Called after each batch that is embedded.

        Raises:
            RegistryUnavailableError: If the registry does not answer; the registration is
                unchanged.
            QueueUnavailableError: If the queue does not answer; the registration is enqueued
                again later.
        """
        registration = self._pending(job)
        if registration is None:
            return
        try:
            if self._is_ready(registration):
                self._registry.confirm(registration)
                log.info("registration completed", extra={"registration": _name(registration)})
            elif registration.done < registration.total:
                self._embed_chunk(registration, progress)
            else:
                self._complete(registration)
        except OUTAGE_ERRORS:
            raise
        except NotReadyError as error:
            _log_superseded(registration, error)
        except StitchworkError as error:
            if self._fail(registration, error.message):
                extra = {"registration": _name(registration), **log_fields(error)}
                log.warning("registration failed", extra=extra)
        except Exception as error:
            # It would fail again at every attempt, so the client gets the error.
            if self._fail(registration, f"the worker failed at it: {describe(error)}"):
                log.exception("registration failed", extra={"registration": _name(registration)})

    def handle_dead_letter(self, job: Job) -> None:
        """Fail the registration of a dead-lettered job; other jobs are ignored."""
        registration = self._pending(job)
        if registration is not None:
            self._fail(registration, "the worker crashed or hung at every attempt")

    def _pending(self, job: Job) -> Registration | None:
        return self._registry.pending_registration(*job.registration) if job.registration else None

    def _fail(self, registration: Registration, reason: str) -> bool:
        """Store why a registration failed.

        Returns:
            False if it was completed or replaced meanwhile; the failure then concerns nobody.
        """
        try:
            self._registry.fail(registration, reason)
        except NotReadyError as error:
            _log_superseded(registration, error)
            return False
        return True

    def _run(self) -> None:
        """Take and run the next jobs."""
        try:
            self._enqueue_stalled()
            for delivery in self._consumer.take():
                self.advance(delivery.job)
                self._consumer.answer(delivery, None)
        except UnavailableError as error:
            log.warning("server unavailable", extra={"reason": error.message})
            self._stopping.wait(RETRY_SECONDS)

    def _enqueue_stalled(self) -> None:
        """Enqueue registrations whose jobs were lost: registrations are durable, jobs are not."""
        if time.monotonic() - self._last_scan < STALLED_SECONDS / 2:
            return
        self._last_scan = time.monotonic()
        for registration in self._registry.stalled_registrations(STALLED_SECONDS):
            streams.enqueue_registration(self._consumer.shards, registration)

    def _is_ready(self, registration: Registration) -> bool:
        """Whether a space is declared again, and its encoder is still that of the ready version."""
        if registration.kind != "space" or registration.done:
            return False
        entry = self._registry.spaces.readable(registration.id)
        space = entry.record
        if space is None or space.encoder is None or not is_declared(entry, registration):
            return False
        try:
            loaded = self._load(space.encoder)
        except OUTAGE_ERRORS:
            raise
        except StitchworkError:
            # New files may not fit what was in force with the earlier ones, but the declaration.
            return False
        return self._checker.reproduces(space, loaded)

    def _embed_chunk(self, registration: Registration, progress: Callable[[], None]) -> None:
        if registration.encoder is None:
            raise JobFailedError("the registration has inputs to embed but names no encoder")
        # A branch may move while the other chunks are embedded; a commit does not.
        encoder = self._encoders.pin(registration.encoder)
        precision: dict[str, Any] = {}
        if registration.kind == "space" and not registration.done:
            encoder, precision = self._choose_dtype(registration, encoder, progress)
        stop = min(registration.total, registration.done + self._chunk_items)
        items = self._inputs.items(registration, encoder.modality, range(registration.done, stop))
        # The chunks after the first one are of the same files, and a head's are those of its space.
        is_new = registration.kind == "space" and not registration.done
        loaded = self._load(encoder, prove=is_new)
        self._check_files(registration, loaded)
        start_time = time.perf_counter()
        try:
            prepared = loaded.encoder.prepare(items, progress=progress)
            rows = loaded.batcher.embed(prepared, self._items_per_batch, progress).cpu().numpy()
        except StitchworkError as error:
            raise item_error(error, range(registration.done, stop)) from error
        seconds = time.perf_counter() - start_time
        streams.record_work(self._consumer.shards, encoder, items, seconds)
        update: dict[str, Any] = {"done": stop, "encoder": encoder}
        update["files_digest"] = loaded.files_digest or None
        if registration.kind == "space":
            update["declared"] = {**registration.declared, **precision, **in_force(loaded)}
        advanced = registration.model_copy(update=update)
        repository = self._registry.repository(registration.kind)
        if save_part(repository, registration, advanced, {"rows": rows}):
            streams.enqueue_registration(self._consumer.shards, advanced)

    def _choose_dtype(
        self, registration: Registration, encoder: EncoderSpec, progress: Callable[[], None]
    ) -> tuple[EncoderSpec, dict[str, Any]]:
        """The encoder with the data type in force, and what the record shows of the choice."""
        indices = sample_indices(registration.total)

        def sample() -> list[Item]:
            return self._inputs.items(registration, encoder.modality, indices)

        declared = registration.declared.get("dtype_choice", encoder.dtype)
        try:
            chosen, precision = choose_dtype(
                encoder, declared, sample, self._encoders, self._load, progress
            )
        except InvalidInputError as error:
            raise item_error(error, indices) from error
        return chosen, {"precision": precision.model_dump() if precision else None}

    def _check_files(self, registration: Registration, loaded: LoadedEncoder) -> None:
        """Refuse to mix embeddings of different files in one space, or of a head and its space.

        Anchors of another width than the encoder's are refused before all are embedded.

        Raises:
            ConflictError: If the files are others than those of the chunks before, or the encoder
                is not that of the head's space.
        """
        dim = registration.declared.get("dim")
        if dim not in (None, loaded.encoder.dim):
            raise ConflictError(
                f"expected anchors of {loaded.encoder.dim} numbers, as its encoder gives, got "
                f"{dim}",
                code=ErrorCode.ENCODER_MISMATCH,
            )
        before = registration.files_digest
        if registration.done and before and before != loaded.files_digest:
            raise ConflictError(
                f"the files of its encoder changed while its inputs were embedded: expected "
                f"digest {before}, got {loaded.files_digest}; register it again",
                code=ErrorCode.ENCODER_MISMATCH,
            )
        if registration.kind == "head":
            (space,), _ = self._registry.spaces.ready(registration.declared["space"])
            self._checker.check(space, loaded)

    def _complete(self, registration: Registration) -> None:
        if registration.kind == "space":
            _, entry = self._registry.complete_space(registration)
            if entry.record:
                self._translator.prepare(entry.record)
                self._space_checks.wake()
        elif registration.declared["source"] == "classifier":
            if registration.encoder is None:
                raise JobFailedError("the registration names no model to extract a classifier from")
            self._complete_classifier(registration, registration.encoder)
        else:
            self._fit_head(registration)
        log.info("registration completed", extra={"registration": _name(registration)})

    def _complete_classifier(self, registration: Registration, encoder: EncoderSpec) -> None:
        extracted = self._encoders.classifier(encoder)
        (space,), _ = self._registry.spaces.ready(registration.declared["space"])
        if encoder == space.encoder:
            loaded = self._load(encoder)
            self._checker.check(space, loaded)
            if loaded.files_digest != extracted.files_digest:
                raise ConflictError(
                    f"the files of {encoder.model} changed while its classifier was read; register "
                    "it again",
                    code=ErrorCode.ENCODER_MISMATCH,
                )
        head = extracted.head.define(registration.declared)
        self._registry.complete_head(registration, head, files_digest=extracted.files_digest)

    def _fit_head(self, registration: Registration) -> None:
        # Imports scikit-learn, which most workers never need.
        from stitchwork.models.head_fitting import fit_linear

        inputs = self._registry.heads.inputs(registration.id, registration.version)
        parts = [part["rows"] for part in read_parts(self._registry.heads, registration)]
        rows = np.concatenate(parts) if parts else inputs["embeddings"]
        labels = registration.declared["labels"]
        with single_blas_thread():
            fit = fit_linear(rows, [labels[i] for i in inputs["classes"].tolist()])
        head = define_head(fit.classifier, fit.labels)
        train = (len(rows), fit.train_accuracy)
        self._registry.complete_head(registration, head, train, inputs=digests_of(inputs, rows))


def _name(registration: Registration) -> str:
    return f"{registration.kind}:{registration.id}"


def _log_superseded(registration: Registration, error: NotReadyError) -> None:
    extra = {"registration": _name(registration), "reason": error.message}
    log.info("registration superseded", extra=extra)
