"""A worker: takes batches of jobs and embeds, translates and classifies on its device.

Upkeep comes through the same streams as inference, a chunk at a time, so that embedding the anchors
of a large set neither starves callers nor is lost with its worker.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch

from service.errors import (
    Conflict,
    NotReady,
    QueueUnavailable,
    RegistryUnavailable,
    StitchworkError,
    Unavailable,
    WorkFailed,
)
from service.geometry.heads import probabilities
from service.models.base import Encoder, Prepared
from service.models.catalog import Catalog
from service.models.fitting import fit_linear
from service.queue import streams
from service.queue.consumer import Consumer, Delivery
from service.queue.jobs import Job, Reply
from service.records import Arrays, Draft, EncoderSpec, Item, unpack_items
from service.store.registry import Registry
from service.translator import HeadCache, Translator

log = logging.getLogger(__name__)

STALLED_SECONDS: Final = 10.0
AWAY: Final = (QueueUnavailable, RegistryUnavailable)
KEPT_INPUTS: Final = 2


class Worker:
    """Runs jobs until it is told to stop.

    Args:
        registry: Where records and arrays come from, and where drafts are completed.
        consumer: Where jobs come from.
        translator: Gives maps whose arrays are on this worker's device.
        heads: Gives classifiers on this worker's device.
        catalog: Gives loaded encoders.
        batch_items: Inputs that a model gets at once.
        chunk_items: Inputs that one step of a draft embeds.
    """

    def __init__(
        self,
        registry: Registry,
        consumer: Consumer,
        translator: Translator,
        heads: HeadCache,
        catalog: Catalog,
        *,
        batch_items: int,
        chunk_items: int,
    ) -> None:
        self._registry = registry
        self._consumer = consumer
        self._translator = translator
        self._catalog = catalog
        self._batch_items = batch_items
        self._chunk_items = chunk_items
        self._heads = heads
        self._inputs: OrderedDict[tuple[str, str], Arrays] = OrderedDict()
        self._stopping = threading.Event()
        self._looked = 0.0
        consumer.on_buried = self._give_up

    def run(self) -> None:
        """Work until `stop` is called; the batch in hand is finished first."""
        self._consumer.start()
        log.info("worker started", extra={"worker": self._consumer.name})
        try:
            while not self._stopping.is_set():
                try:
                    batch = self._consumer.take()
                    self._look_for_drafts()
                except Unavailable as error:
                    log.warning("waiting for a server", extra={"reason": error.message})
                    self._stopping.wait(1.0)
                    continue
                if batch:
                    self._work(batch)
        finally:
            self._consumer.stop()
            log.info("worker stopped", extra={"worker": self._consumer.name})

    def stop(self) -> None:
        """Take nothing more."""
        self._stopping.set()

    def _work(self, batch: list[Delivery]) -> None:
        """Everyone in the batch gets an answer, whatever happens to it."""
        unanswered = {delivery.entry: delivery for delivery in batch}

        def answer(delivery: Delivery, reply: Reply | None) -> None:
            unanswered.pop(delivery.entry, None)
            self._consumer.answer(delivery, reply)

        try:
            for delivery in [delivery for delivery in batch if delivery.job.draft]:
                self._advance(delivery.job)
                answer(delivery, None)
            inference = [delivery for delivery in batch if not delivery.job.draft]
            if inference:
                self._infer(inference, answer)
        except AWAY as error:
            log.warning("a batch was left to another worker", extra={"reason": error.message})
            # Not answered, not acknowledged: its lease runs out and it is delivered again.
        except StitchworkError as error:
            self._fail_all(list(unanswered.values()), error)
        except Exception as error:
            log.exception("a batch failed")
            if len(unanswered) > 1:
                # One of them is to blame, and must not take the others along.
                for delivery in list(unanswered.values()):
                    self._work([delivery])
                return
            told = WorkFailed(f"the worker failed at this job: {type(error).__name__}")
            self._fail_all(list(unanswered.values()), told)

    def _fail_all(self, deliveries: list[Delivery], error: StitchworkError) -> None:
        for delivery in deliveries:
            try:
                self._consumer.fail(delivery, error)
            except Unavailable as away:
                log.warning("an answer could not be sent", extra={"reason": away.message})

    def _infer(
        self, batch: list[Delivery], answer: Callable[[Delivery, Reply | None], None]
    ) -> None:
        encoder = self._encoder(batch[0].job.encoder)
        ready: list[tuple[Delivery, Prepared]] = []
        for delivery in batch:
            try:
                prepared = encoder.prepare(delivery.items, truncate=delivery.job.truncate)
                ready.append((delivery, prepared))
            except StitchworkError as error:
                answer(delivery, Reply(delivery.job.id, error=error))
        if not ready:
            return
        rows = encoder.embed(Prepared.join([prepared for _, prepared in ready]), self._batch_items)
        groups: dict[tuple[str | None, ...], list[int]] = {}
        for i, (delivery, _) in enumerate(ready):
            groups.setdefault(_route(delivery.job), []).append(i)
        ends = np.cumsum([0, *(len(delivery.items) for delivery, _ in ready)]).tolist()
        spans = list(pairwise(ends))
        for members in groups.values():
            job = ready[members[0]][0].job
            picked = torch.cat([rows[slice(*spans[i])] for i in members])
            try:
                result, defined = self._read_through(job, picked)
            except StitchworkError as error:
                for i in members:
                    answer(ready[i][0], Reply(ready[i][0].job.id, error=error))
                continue
            start = 0
            for i in members:
                delivery, prepared = ready[i]
                stop = start + len(delivery.items)
                reply = Reply(
                    delivery.job.id, result[start:stop], defined[start:stop], prepared.truncated
                )
                answer(delivery, reply)
                start = stop

    def _read_through(self, job: Job, rows: torch.Tensor) -> tuple[Any, Any]:
        """Embeddings through the job's map and head, all on the device; then to numpy."""
        with torch.inference_mode():
            defined = torch.ones(len(rows), dtype=torch.bool)
            if job.source and rows.shape[1] != job.source.dim:
                raise Conflict(
                    f"the encoder of space {job.source.id} gives {rows.shape[1]} numbers, its "
                    f"anchors have {job.source.dim}: they are not of this encoder",
                    code="encoder-mismatch",
                )
            if job.source and job.target:
                translated = self._translator.map(job.source, job.target, job.bridge).apply(rows)
                rows, defined = translated.rows, translated.defined
            if job.head:
                rows = probabilities(self._heads.get(job.head).logits(rows))
            return rows.cpu().numpy(), defined.cpu().numpy()

    def _encoder(self, spec: EncoderSpec | None) -> Encoder:
        if spec is None:
            raise WorkFailed("the job names no encoder")
        return self._catalog.get(spec)

    def _look_for_drafts(self) -> None:
        """Drafts are durable, jobs are not: what a lost queue forgot is asked for again."""
        if time.monotonic() - self._looked < STALLED_SECONDS / 2:
            return
        self._looked = time.monotonic()
        for draft in self._registry.stalled(STALLED_SECONDS):
            streams.nudge(self._consumer.server, draft)

    def _advance(self, job: Job) -> None:
        """Take a draft one step further, and ask for the next step."""
        if job.draft is None:
            return
        draft = self._registry.draft(*job.draft)
        if draft is None:
            return
        try:
            if draft.done < draft.total:
                self._embed_chunk(draft)
            else:
                self._complete(draft)
        except AWAY:
            raise
        except NotReady as error:
            log.info("a draft was overtaken", extra={"reason": error.message})
        except StitchworkError as error:
            log.warning("a draft failed", extra={"draft": f"{draft.kind}:{draft.id}"})
            self._registry.fail(draft, error.message)
        except Exception as error:
            # Tried again it would fail again, for ever: whoever declared it must be told.
            log.exception("a draft failed")
            self._registry.fail(draft, f"the worker failed at it: {type(error).__name__}")

    def _give_up(self, job: Job) -> None:
        """A job that was delivered too often: if it was a draft's, the draft has failed."""
        draft = self._registry.draft(*job.draft) if job.draft else None
        if draft is not None:
            self._registry.fail(draft, "it ended its worker each time it was tried")

    def _embed_chunk(self, draft: Draft) -> None:
        stop = min(draft.total, draft.done + self._chunk_items)
        items = self._draft_items(draft, draft.done, stop)
        encoder = self._encoder(draft.encoder)
        try:
            prepared = encoder.prepare(items)
        except StitchworkError as error:
            told = (error.pointer or "").removeprefix("/items/")
            at = draft.done + int(told) if told.isdecimal() else draft.done
            raise type(error)(f"item {at}: {error.message}", pointer=f"/items/{at}") from error
        rows = encoder.embed(prepared, self._batch_items).cpu().numpy()
        table = self._registry.table(draft.kind)
        if table.save_part(draft, draft.done, {"rows": rows}, stop):
            advanced = draft.model_copy(update={"done": stop})
            if stop < draft.total:
                streams.nudge(self._consumer.server, advanced)
            else:
                self._complete(advanced)

    def _draft_items(self, draft: Draft, start: int, stop: int) -> list[Item]:
        encoder = draft.encoder
        if encoder is None:
            raise WorkFailed("the draft has inputs to embed but no encoder")
        key = (draft.id, draft.version)
        if key not in self._inputs:
            if draft.kind == "space":
                (found,), _ = self._registry.anchor_sets.ready(draft.declared["anchor_set"])
                self._inputs[key] = self._registry.anchor_sets.arrays(found.id, found.version)
            else:
                self._inputs[key] = self._registry.heads.inputs(draft.id, draft.version)
            if len(self._inputs) > KEPT_INPUTS:
                self._inputs.popitem(last=False)
        return unpack_items(self._inputs[key], encoder.modality, start, stop)

    def _complete(self, draft: Draft) -> None:
        if draft.kind == "space":
            _, entry = self._registry.complete_space(draft)
            if entry.record:
                self._translator.prepare(entry.record)
        elif draft.declared["source"] == "classifier":
            if draft.encoder is None:
                raise WorkFailed("the draft names no model to take a classifier from")
            classifier, labels = self._catalog.classifier(draft.encoder)
            self._registry.complete_head(draft, classifier, labels)
        else:
            inputs = self._registry.heads.inputs(draft.id, draft.version)
            embedded = [part["rows"] for part in self._registry.heads.parts(draft)]
            rows = np.concatenate(embedded) if embedded else inputs["embeddings"]
            names = draft.declared["labels"]
            fit = fit_linear(rows, [names[i] for i in inputs["classes"].tolist()])
            train = (len(rows), fit.train_accuracy)
            self._registry.complete_head(draft, fit.classifier, fit.labels, train)
        log.info("draft completed", extra={"draft": f"{draft.kind}:{draft.id}"})


def _route(job: Job) -> tuple[str | None, ...]:
    """Jobs with equal routes share one map and one head."""
    return (
        job.source.version if job.source else None,
        job.target.version if job.target else None,
        f"{job.head.id}:{job.head.version}" if job.head else None,
        job.bridge,
    )
