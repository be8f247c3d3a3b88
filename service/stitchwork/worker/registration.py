"""Upkeep: takes what was registered and is still being prepared one step further.

It comes through the same streams as inference, a chunk at a time, so that embedding the anchors of
a large set neither starves callers nor is lost with its worker. What needs no encoder, such as
fitting a head, has a stream and a thread of its own.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import numpy as np

from stitchwork.errors import (
    JobFailedError,
    NotReadyError,
    QueueUnavailableError,
    RegistryUnavailableError,
    StitchworkError,
    UnavailableError,
)
from stitchwork.inference.translator import Translator
from stitchwork.models.encoder_cache import EncoderCache, LoadedEncoder
from stitchwork.queue import streams
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.messages import Job
from stitchwork.registry.registry import Registry
from stitchwork.resources import Arrays, EncoderSpec, Item, Registration, unpack_items

log = logging.getLogger(__name__)

AWAY: Final = (QueueUnavailableError, RegistryUnavailableError)
STALLED_SECONDS: Final = 10.0
FIT_SECONDS: Final = 3600.0
STOP_SECONDS: Final = 5.0
KEPT_INPUTS: Final = 2


class RegistrationRunner:
    """Advances drafts.

    Args:
        registry: Where drafts are, and where they are completed.
        consumer: Takes the jobs that need no encoder; its thread is started here.
        translator: Gets the inverses of a new space under way.
        catalog: Takes classifiers out of pretrained models.
        load: Gives a loaded encoder.
        items_per_batch: Inputs that a model gets at once.
        chunk_items: Inputs that one step embeds.
    """

    def __init__(
        self,
        registry: Registry,
        consumer: Consumer,
        translator: Translator,
        catalog: EncoderCache,
        load: Callable[[EncoderSpec], LoadedEncoder],
        *,
        items_per_batch: int,
        chunk_items: int,
    ) -> None:
        self._registry = registry
        self._consumer = consumer
        self._translator = translator
        self._catalog = catalog
        self._load = load
        self._batch_items = items_per_batch
        self._chunk_items = chunk_items
        self._inputs: OrderedDict[tuple[str, str], Arrays] = OrderedDict()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._looked = 0.0

    def start(self) -> None:
        """Begin to take jobs that need no encoder."""
        self._consumer.start()
        self._thread.start()

    def stop(self) -> None:
        """Take nothing more; a fit that takes long is left to another worker."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)
        self._consumer.stop()

    def advance(self, job: Job, progress: Callable[[], None] = lambda: None) -> None:
        """Take a draft one step further, and ask for the next step.

        Args:
            job: Names the draft; if that is no longer the one to prepare, nothing is done.
            progress: Called after each batch that is embedded.

        Raises:
            RegistryUnavailableError: If the registry is away; the draft is as it was.
            QueueUnavailableError: If the queue is away; the draft is found again later.
        """
        registration = self._registry.registration(*job.registration) if job.registration else None
        if registration is None:
            return
        try:
            if registration.done < registration.total:
                self._embed_chunk(registration, progress)
            else:
                self._complete(registration)
        except AWAY:
            raise
        except NotReadyError as error:
            log.info("a draft was overtaken", extra={"reason": error.message})
        except StitchworkError as error:
            log.warning("a draft failed", extra={"draft": f"{registration.kind}:{registration.id}"})
            self._fail(registration, error.message)
        except Exception as error:
            # Tried again it would fail again, for ever: whoever declared it must be told.
            log.exception("a draft failed")
            self._fail(registration, f"the worker failed at it: {type(error).__name__}")

    def give_up(self, job: Job) -> None:
        """A job that was delivered too often: if it was a draft's, the draft has failed."""
        registration = self._registry.registration(*job.registration) if job.registration else None
        if registration is not None:
            self._fail(registration, "it ended its worker each time it was tried")

    def _fail(self, registration: Registration, reason: str) -> None:
        """Tell whoever declared it; who was faster with it, or declared it anew, has the word."""
        try:
            self._registry.fail(registration, reason)
        except NotReadyError as error:
            log.info("a draft was overtaken", extra={"reason": error.message})

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look_for_drafts()
                for delivery in self._consumer.take():
                    self.advance(delivery.job)
                    self._consumer.answer(delivery, None)
            except UnavailableError as error:
                log.warning("upkeep waits for a server", extra={"reason": error.message})
                self._stopping.wait(1.0)

    def _look_for_drafts(self) -> None:
        """Drafts are durable, jobs are not: what a lost queue forgot is asked for again."""
        if time.monotonic() - self._looked < STALLED_SECONDS / 2:
            return
        self._looked = time.monotonic()
        for registration in self._registry.stalled_registrations(STALLED_SECONDS):
            streams.enqueue_registration(self._consumer.server, registration)

    def _embed_chunk(self, registration: Registration, progress: Callable[[], None]) -> None:
        if registration.encoder is None:
            raise JobFailedError("the draft has inputs to embed but no encoder")
        # What a branch means may change while the rest is embedded; a commit never does.
        encoder = self._catalog.pin(registration.encoder)
        stop = min(registration.total, registration.done + self._chunk_items)
        items = self._draft_items(registration, encoder, registration.done, stop)
        loaded = self._load(encoder)
        try:
            prepared = loaded.encoder.prepare(items)
            rows = loaded.batcher.embed(prepared, self._batch_items, progress).cpu().numpy()
        except StitchworkError as error:
            told = (error.pointer or "").removeprefix("/items/")
            at = registration.done + int(told) if told.isdecimal() else registration.done
            raise type(error)(f"item {at}: {error.message}", pointer=f"/items/{at}") from error
        table, advanced = (
            self._registry.table(registration.kind),
            registration.model_copy(update={"done": stop, "encoder": encoder}),
        )
        if table.save_part(registration, advanced, {"rows": rows}):
            streams.enqueue_registration(self._consumer.server, advanced)

    def _draft_items(
        self, registration: Registration, encoder: EncoderSpec, start: int, stop: int
    ) -> list[Item]:
        key = (registration.id, registration.version)
        if key not in self._inputs:
            if registration.kind == "space":
                (found,), _ = self._registry.anchor_sets.ready(registration.declared["anchor_set"])
                self._inputs[key] = self._registry.anchor_sets.arrays(found.id, found.version)
            else:
                self._inputs[key] = self._registry.heads.inputs(
                    registration.id, registration.version
                )
            if len(self._inputs) > KEPT_INPUTS:
                self._inputs.popitem(last=False)
        return unpack_items(self._inputs[key], encoder.modality, start, stop)

    def _complete(self, registration: Registration) -> None:
        if registration.kind == "space":
            _, entry = self._registry.complete_space(registration)
            if entry.record:
                self._translator.prepare(entry.record)
        elif registration.declared["source"] == "classifier":
            if registration.encoder is None:
                raise JobFailedError("the draft names no model to take a classifier from")
            classifier, labels = self._catalog.classifier(registration.encoder)
            self._registry.complete_head(registration, classifier, labels)
        else:
            # It brings scikit-learn along, which most workers never need.
            from stitchwork.models.head_fitting import fit_linear

            inputs = self._registry.heads.inputs(registration.id, registration.version)
            embedded = [part["rows"] for part in self._registry.heads.parts(registration)]
            rows = np.concatenate(embedded) if embedded else inputs["embeddings"]
            names = registration.declared["labels"]
            fit = fit_linear(rows, [names[i] for i in inputs["classes"].tolist()])
            train = (len(rows), fit.train_accuracy)
            self._registry.complete_head(registration, fit.classifier, fit.labels, train)
        log.info("draft completed", extra={"draft": f"{registration.kind}:{registration.id}"})
