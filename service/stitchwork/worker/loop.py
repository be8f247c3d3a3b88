"""The main loop of a worker: takes batches of jobs, runs them, and answers each exactly once."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from stitchwork.background import STALLED_SECONDS, Watchdog, stalled
from stitchwork.errors import (
    JobFailedError,
    RegistryUnavailableError,
    StitchworkError,
    UnavailableError,
)
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.queue.answers import Answer
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.deliveries import Delivery
from stitchwork.queue.heartbeats import Heartbeat, StartAnnouncement
from stitchwork.telemetry import Telemetry
from stitchwork.worker.batch_runner import BatchRunner, bind_jobs
from stitchwork.worker.failure_causes import describe, log_fields
from stitchwork.worker.registration import OUTAGE_ERRORS, RegistrationRunner

log = logging.getLogger(__name__)

LOAD_SECONDS: Final = 1800.0
"""Time allowed for loading a model, which may include a download, before it counts as hung."""
RETRY_SECONDS: Final = 1.0


class Worker:
    """Takes and runs jobs until it is stopped.

    Args:
        consumer: Source of jobs.
        announcement: Announces that this worker is starting.
        heartbeat: Announces that this worker is alive.
        registrations: Advances pending registrations.
        runner: Runs batches of inference jobs.
        encoders: The loaded models.
        preload: Loads models before the worker announces itself.
        telemetry: Closed when the worker stops.
        on_stall: Called when a background task makes no progress; it ends the process, for a
            supervisor to restart.
    """

    def __init__(
        self,
        consumer: Consumer,
        announcement: StartAnnouncement,
        heartbeat: Heartbeat,
        registrations: RegistrationRunner,
        runner: BatchRunner,
        encoders: EncoderCache,
        preload: Callable[[], None],
        telemetry: Telemetry,
        on_stall: Callable[[], None],
    ) -> None:
        self._consumer = consumer
        self._announcement = announcement
        self._heartbeat = heartbeat
        self._registrations = registrations
        self._runner = runner
        self._encoders = encoders
        self._preload = preload
        self._telemetry = telemetry
        self._tasks = (*heartbeat.tasks, consumer.leases.task, *registrations.tasks)
        self._watchdog = Watchdog(self._tasks, on_stall)
        self._metric_buffer = telemetry.metrics.buffer
        self._stopping = threading.Event()
        self._is_started = False
        self._turned_at: float | None = None

    @property
    def is_live(self) -> bool:
        """Whether it makes progress; servers that do not answer are no obstacle.

        A batch may take as long as its lease is renewed.
        """
        turned_at = self._turned_at
        is_stuck = turned_at is not None and time.monotonic() - turned_at > STALLED_SECONDS
        return not (is_stuck or self._consumer.leases.is_overdue or stalled(self._tasks))

    @property
    def is_ready(self) -> bool:
        """Whether it takes jobs: its models are preloaded, and it was not stopped."""
        return self._is_started and not self._stopping.is_set() and self.is_live

    def run(self) -> None:
        """Run until `stop` is called, and then finish the current batch.

        Raises:
            RegistryUnavailableError: If it does not answer, with models to preload.
        """
        self._preload()
        self._metric_buffer.is_collecting = True
        self._consumer.start()
        self._registrations.start()
        # An announcement after the first heartbeat would replace the status of the live worker.
        self._announcement.stop()
        self._heartbeat.start()
        self._announcement.withdraw()
        self._is_started = True
        log.info("worker started", extra={"worker": self._consumer.name})
        try:
            while not self._stopping.is_set():
                self._turned_at = time.monotonic()
                self._watchdog.check()
                try:
                    batch = self._consumer.take()
                except UnavailableError as error:
                    log.warning("server unavailable", extra={"reason": error.message})
                    self._stopping.wait(RETRY_SECONDS)
                    continue
                if batch:
                    self._turned_at = None
                    with bind_jobs(batch):
                        self._work(batch)
                self._metric_buffer.flush()
        finally:
            self._turned_at = None
            self._heartbeat.stop()
            self._registrations.stop()
            self._consumer.stop()
            self._runner.close()
            self._encoders.close()
            self._metric_buffer.is_collecting = False
            self._metric_buffer.flush()
            log.info("worker stopped", extra={"worker": self._consumer.name})
            self._telemetry.close()

    def stop(self) -> None:
        """Take no more jobs."""
        self._stopping.set()

    def _work(self, batch: list[Delivery]) -> None:
        """Run a batch, and answer every job in it, whatever happens."""
        unanswered = {delivery.key: delivery for delivery in batch}

        def answer(*answers: Answer) -> None:
            for delivery, _, _ in answers:
                unanswered.pop(delivery.key, None)
            # Who has an answer finds its work in the metrics.
            self._metric_buffer.flush()
            self._consumer.answer_all(answers)
            self._metric_buffer.flush()

        try:
            for delivery in [delivery for delivery in batch if delivery.job.registration]:
                # A model may have to be loaded, or a classifier extracted from one.
                self._consumer.leases.progress(LOAD_SECONDS)
                self._registrations.advance(delivery.job, self._consumer.leases.progress)
                answer((delivery, None, 0.0))
            inference = [delivery for delivery in batch if not delivery.job.registration]
            if inference:
                self._runner.run(inference, answer)
        except OUTAGE_ERRORS as error:
            log.warning("batch released", extra={"reason": error.message})
            # Other workers see the same outage of the registry, so callers get the error at once.
            if isinstance(error, RegistryUnavailableError):
                self._fail_all([d for d in unanswered.values() if not d.job.registration], error)
            self._release()
        except StitchworkError as error:
            self._fail_all(list(unanswered.values()), error)
        except Exception as error:
            log.exception("batch failed")
            if len(unanswered) > 1:
                # Each job runs alone, so that one that fails does not fail the others.
                for delivery in list(unanswered.values()):
                    with bind_jobs([delivery]):
                        self._work([delivery])
                return
            failure = JobFailedError(f"the worker failed to run this job: {describe(error)}")
            self._fail_all(list(unanswered.values()), failure)

    def _release(self) -> None:
        """Return the jobs that are not answered to the queue, which delivers them again."""
        try:
            self._consumer.leases.release()
        except UnavailableError as error:
            extra = {"reason": error.message, "effect": "it is redelivered when its leases expire"}
            log.warning("batch not released", extra=extra)

    def _fail_all(self, deliveries: list[Delivery], error: StitchworkError) -> None:
        for delivery in deliveries:
            with bind_jobs([delivery]):
                log.warning("job failed", extra=log_fields(error))
                try:
                    self._consumer.fail(delivery, error)
                except UnavailableError as outage:
                    log.warning("reply not sent", extra={"reason": outage.message})
