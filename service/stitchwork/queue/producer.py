"""The API's side of the queue: admission, replies, deadlines, cancellation."""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Final

from stitchwork.errors import (
    CorruptDataError,
    DeadlineExceededError,
    ErrorCode,
    NoWorkerError,
    QueueFullError,
    QueueUnavailableError,
    StitchworkError,
    UnavailableError,
)
from stitchwork.queue import streams, worker_registry
from stitchwork.queue.messages import Job, Reply, unpack_reply
from stitchwork.queue.streams import AdmissionLimits
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.redis.client import RedisClient
from stitchwork.resources import EncoderSpec, Item, Registration, encoder_key
from stitchwork.telemetry import Metrics
from stitchwork.telemetry.request_context import CALLERS

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 1.0
"""How long the reader blocks; also how often this process sends its heartbeat."""
MAX_REPLIES: Final = 256
"""Replies that the reader fetches at once."""
FULL_SECONDS: Final = 0.1
DRAIN_POLL_SECONDS: Final = 0.05


class Producer:
    """Adds jobs to their streams and delivers each reply to the caller that awaits it.

    One thread reads this process's reply list. Every caller gets an answer: the reply, the
    deadline, or the error that the queue is unavailable.

    Args:
        server: The queue server.
        max_jobs: Jobs that may wait for one encoder.
        max_bytes: Size of all queued jobs.
        max_wait_seconds: Longest time in seconds that a job is expected to wait for a worker.
        worker_ttl_seconds: Seconds without a heartbeat after which a worker counts as dead.
        metrics: Counts cancelled jobs.
        full_seconds: Time in seconds for which a queue that was full counts as full without being
            read again, unless one of its jobs is done.
    """

    def __init__(
        self,
        server: RedisClient,
        *,
        max_jobs: int,
        max_bytes: int,
        max_wait_seconds: float,
        worker_ttl_seconds: float,
        metrics: Metrics | None = None,
        full_seconds: float = FULL_SECONDS,
    ) -> None:
        self.server = server
        self._full_seconds = full_seconds
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._max_wait_seconds = max_wait_seconds
        self._worker_ttl = worker_ttl_seconds
        self._workers: list[WorkerStatus] = []
        self._full: dict[str, tuple[float, QueueFullError]] = {}
        self._name = streams.new_id()
        self._waiting: dict[str, Future[Reply]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._reader = threading.Thread(target=self._read, name="replies", daemon=True)
        self._metrics = metrics or Metrics()

    def start(self) -> None:
        """Begin to read replies."""
        self._reader.start()

    def stop(self) -> None:
        """Stop reading; callers that still wait get an error."""
        self._stopping.set()
        self._reader.join()
        self._fail_all(QueueUnavailableError("the service is shutting down"))
        try:
            with self.server.session() as client:
                client.zrem(streams.APIS, self._name)
                client.delete(streams.replies_key(self._name))
        except QueueUnavailableError as error:
            _warn(error, "the entries of this process are removed when they expire")

    async def run(self, job: Job, items: Sequence[Item], seconds: float) -> Reply:
        """Have a worker do a job, and wait for its reply.

        Args:
            job: The job; its id and its reply address are set here.
            items: The inputs.
            seconds: Seconds until the deadline.

        Returns:
            A reply without an error.

        Raises:
            QueueFullError: If the queue is full.
            NoWorkerError: If no live worker takes work for its encoder.
            QueueUnavailableError: If the queue server is, or becomes, unavailable.
            DeadlineExceededError: If the reply does not come in time.
            StitchworkError: The error that the worker answered.
        """
        if job.encoder:
            await self._check_workers(job.encoder)
        fields: dict[str, str | None] = {"id": streams.new_id(), "reply_to": self._name}
        for caller in CALLERS.get():
            fields |= {"request_id": caller.request_id, "traceparent": caller.traceparent}
        job = job.model_copy(update=fields)
        future: Future[Reply] = Future()
        with self._lock:
            self._waiting[job.id] = future
        admission = asyncio.ensure_future(asyncio.to_thread(self._admit, job, items, seconds))
        try:
            # Shielded: if the caller leaves now, the entry must still be known to be cancelled.
            await asyncio.shield(admission)
            reply = await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"no worker answered within {seconds:g} seconds (request_timeout_seconds, or less "
                "if the request says so)"
            ) from error
        finally:
            with self._lock:
                self._waiting.pop(job.id, None)
            if future.cancelled() or not future.done():
                admission.add_done_callback(lambda done: self._cancel(job, done))
        # Its place in the queue is free.
        self._full.pop(job.stream, None)
        if reply.error is not None:
            raise reply.error
        return reply

    def enqueue_registration(self, registration: Registration) -> None:
        """Enqueue the next step of a registration, which a worker otherwise resumes later."""
        try:
            streams.enqueue_registration(self.server, registration)
        except QueueUnavailableError as error:
            _warn(error, "a worker resumes the registration later")

    def check_room(self, encoder: EncoderSpec) -> None:
        """Raise, before the inputs of a job are read, if the queue was full a moment ago.

        Raises:
            QueueFullError: If the queue of the encoder was full.
        """
        until, error = self._full.get(encoder_key(encoder), (0.0, None))
        if error is not None and time.monotonic() < until:
            raise QueueFullError(error.message)

    async def _check_workers(self, encoder: EncoderSpec) -> None:
        self.check_room(encoder)
        if worker_registry.count_accepting(self._workers, encoder):
            return
        # The list is up to a second old; nobody is refused on that alone.
        workers = await asyncio.to_thread(self.workers)
        if not worker_registry.count_accepting(workers, encoder):
            number = f" ({len(workers)} live)" if workers else ""
            raise NoWorkerError(f"no live worker takes work for {encoder.model}{number}")

    def workers(self) -> list[WorkerStatus]:
        """The status of every live worker.

        Raises:
            QueueUnavailableError: If the queue server is unavailable.
        """
        self._workers = worker_registry.live_workers(self.server, self._worker_ttl, self._name)
        return self._workers

    async def drain(self, seconds: float) -> bool:
        """Wait until every job that was admitted before this call is answered or cancelled.

        Returns:
            False if it was not within these seconds.
        """
        try:
            before = await asyncio.to_thread(self.server.now_ms)
            async with asyncio.timeout(seconds):
                while await self._has_unanswered(before):  # noqa: ASYNC110 state of others
                    await asyncio.sleep(DRAIN_POLL_SECONDS)
        except TimeoutError:
            return False
        except QueueUnavailableError as error:
            _warn(error, "the shutdown does not wait for jobs")
        return True

    async def _has_unanswered(self, before_ms: int) -> bool:
        return await asyncio.to_thread(streams.has_unanswered, self.server, before_ms)

    def _admit(self, job: Job, items: Sequence[Item], seconds: float) -> str:
        limits = AdmissionLimits(
            self._max_jobs,
            self._max_bytes,
            int(self._max_wait_seconds * 1000),
            worker_registry.count_accepting(self._workers, job.encoder) if job.encoder else 1,
        )
        data, timeout_ms = job.pack(items), int(seconds * 1000)
        try:
            return streams.admit(
                self.server, job, data, len(items), timeout_ms=timeout_ms, limits=limits
            )
        except QueueFullError as error:
            if error.code != ErrorCode.QUEUE_BYTES_FULL:
                # A smaller job might still fit.
                self._full[job.stream] = (time.monotonic() + self._full_seconds, error)
            raise

    def _cancel(self, job: Job, admission: asyncio.Future[str]) -> None:
        """Cancel a job that nobody waits for any more, unless a worker has it already."""
        if admission.cancelled() or admission.exception() is not None:
            return
        entry = admission.result()

        def cancel() -> None:
            try:
                cancelled = streams.cancel(self.server, job, entry)
            except QueueUnavailableError as error:
                _warn(error, "the cancelled job may run until its deadline")
                return
            self._metrics.cancelled_jobs.inc(cancelled)

        threading.Thread(target=cancel, name="cancel", daemon=True).start()

    def _read(self) -> None:
        blocking = self.server.blocking(WAIT_SECONDS)
        key, beat_at = streams.replies_key(self._name), float("-inf")
        while not self._stopping.is_set():
            if time.monotonic() - beat_at >= WAIT_SECONDS:
                beat_at = time.monotonic()
                self._beat()
            try:
                with blocking.session() as client:
                    # A batch is answered at once: all replies that have come are fetched together.
                    popped: Any = client.blmpop(
                        WAIT_SECONDS, 1, key, direction="LEFT", count=MAX_REPLIES
                    )
            except UnavailableError as error:
                self._fail_all(QueueUnavailableError(f"the job was lost: {error.message}"))
                _warn(error, "waiting callers get an error")
                self._stopping.wait(WAIT_SECONDS)
                continue
            for data in popped[1] if popped else ():
                self._deliver(data)
        blocking.close()

    def _beat(self) -> None:
        """Send the heartbeat and list the workers; a server that refuses may still take jobs."""
        try:
            self.workers()
            worker_registry.remove_expired(self.server)
        except QueueUnavailableError as error:
            _warn(error, "no heartbeat was sent")

    def _deliver(self, data: bytes) -> None:
        try:
            reply = unpack_reply(data)
        except CorruptDataError as error:
            # Its job is unknown; the caller's answer is the deadline.
            log.error("reply corrupt", extra={"reason": error.message})
            return
        with self._lock:
            future = self._waiting.pop(reply.job, None)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(reply)

    def _fail_all(self, error: StitchworkError) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


def _warn(error: UnavailableError, effect: str) -> None:
    extra = {"server": "queue", "reason": error.message, "effect": effect}
    log.warning("server unavailable", extra=extra)
