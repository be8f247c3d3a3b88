"""The API's side of the queue: admission, waiting, deadlines, cancellation."""

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
"""How long the reader blocks; also how often this process looks for workers and is seen."""
MORE_REPLIES: Final = 256
FULL_SECONDS: Final = 0.1
"""How long a full queue is taken to be full still, without asking, if none of its jobs is done."""
SETTLE_PAUSE: Final = 0.05


class Producer:
    """Puts jobs into their streams and hands each reply to whoever waits for it.

    One thread reads this process's reply list. Whatever becomes of a job, its waiter gets an
    answer: the reply, the deadline, or the news that the queue is gone.

    Args:
        server: The queue server.
        most_jobs: Jobs that may wait for one encoder.
        most_bytes: Bytes that all queued jobs may hold.
        most_waited: Seconds that a job may have to wait in line.
        worker_ttl_seconds: Seconds of silence after which a worker counts as gone.
        metrics: Where jobs that are taken back are counted.
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
    ) -> None:
        self.server = server
        self._most_jobs = max_jobs
        self._most_bytes = max_bytes
        self._most_waited = max_wait_seconds
        self._worker_ttl = worker_ttl_seconds
        self._workers: list[WorkerStatus] = []
        self._full: dict[str, tuple[float, QueueFullError]] = {}
        self._name = streams.new_id()
        self._waiting: dict[str, Future[Reply]] = {}
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._reader = threading.Thread(target=self._read, name="replies", daemon=True)
        self._metrics = metrics or Metrics()

    def start(self) -> None:
        """Begin to read replies."""
        self._reader.start()

    def stop(self) -> None:
        """Stop reading; whoever still waits is told."""
        self._stopping.set()
        self._reader.join()
        self._give_up(QueueUnavailableError("the service is shutting down"))
        try:
            with self.server.session() as client:
                client.zrem(streams.APIS, self._name)
                client.delete(streams.replies_key(self._name))
        except QueueUnavailableError:
            log.warning(
                "server unavailable",
                extra={
                    "server": "queue",
                    "effect": "the entries of this process are removed when they expire",
                },
            )

    async def run(self, job: Job, items: Sequence[Item], seconds: float) -> Reply:
        """Have a worker do a job, and wait for its reply.

        Args:
            job: What is to be done; its id and its way back are filled in here.
            items: The inputs.
            seconds: Seconds after which nobody wants the answer.

        Returns:
            A reply without an error.

        Raises:
            QueueFullError: If there is no room for the job.
            NoWorkerError: If no live worker takes work for its encoder.
            QueueUnavailableError: If the queue server is, or goes, away.
            DeadlineExceededError: If the reply does not come in time.
            StitchworkError: Whatever the worker answered instead of rows.
        """
        if job.encoder:
            await self._check(job.encoder)
        named: dict[str, str | None] = {"id": streams.new_id(), "reply_to": self._name}
        for caller in CALLERS.get():
            named |= {"request_id": caller.request_id, "traceparent": caller.traceparent}
        job = job.model_copy(update=named)
        future: Future[Reply] = Future()
        with self._guard:
            self._waiting[job.id] = future
        admission = asyncio.ensure_future(asyncio.to_thread(self._admit, job, items, seconds))
        try:
            # Shielded: a caller who leaves now must still learn which entry to take back.
            await asyncio.shield(admission)
            reply = await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"no worker answered within {seconds:g} seconds (request_timeout_seconds, or less "
                "if the request says so)"
            ) from error
        finally:
            with self._guard:
                self._waiting.pop(job.id, None)
            if future.cancelled() or not future.done():
                admission.add_done_callback(lambda done: self._abandon(job, done))
        # It left its place to another.
        self._full.pop(job.stream, None)
        if reply.error is not None:
            raise reply.error
        return reply

    def enqueue_registration(self, registration: Registration) -> None:
        """Ask for the next step of a draft; if the queue is away, a worker finds it later."""
        try:
            streams.enqueue_registration(self.server, registration)
        except QueueUnavailableError:
            log.warning(
                "server unavailable",
                extra={"server": "queue", "effect": "a worker resumes the registration later"},
            )

    def check_room(self, encoder: EncoderSpec) -> None:
        """Refuse at once, before its inputs are read, what found no room a moment ago.

        Raises:
            QueueFullError: If the queue of the encoder was full.
        """
        until, error = self._full.get(encoder_key(encoder), (0.0, None))
        if error is not None and time.monotonic() < until:
            raise QueueFullError(error.message)

    async def _check(self, encoder: EncoderSpec) -> None:
        self.check_room(encoder)
        if worker_registry.count_accepting(self._workers, encoder):
            return
        # What was seen is up to a second old; nobody is refused on that alone.
        workers = await asyncio.to_thread(self.workers)
        if not worker_registry.count_accepting(workers, encoder):
            others = f", of {len(workers)} that live" if workers else ""
            raise NoWorkerError(f"no live worker takes work for {encoder.model}{others}")

    def workers(self) -> list[WorkerStatus]:
        """The workers that are alive, and what they say about themselves.

        Raises:
            QueueUnavailableError: If the queue server is away.
        """
        self._workers = worker_registry.live_workers(self.server, self._worker_ttl, self._name)
        return self._workers

    async def drain(self, seconds: float) -> bool:
        """Wait until all that was admitted before this call is answered, or taken back.

        Returns:
            False if it was not within these seconds.
        """
        try:
            before = await asyncio.to_thread(self.server.now_ms)
            async with asyncio.timeout(seconds):
                while await self._unsettled(before):  # noqa: ASYNC110 others' state, not ours
                    await asyncio.sleep(SETTLE_PAUSE)
        except TimeoutError:
            return False
        except QueueUnavailableError:
            log.warning(
                "server unavailable",
                extra={"server": "queue", "effect": "the shutdown does not wait for jobs"},
            )
        return True

    async def _unsettled(self, before_ms: int) -> bool:
        return await asyncio.to_thread(streams.has_unanswered, self.server, before_ms)

    def _admit(self, job: Job, items: Sequence[Item], seconds: float) -> str:
        limits = AdmissionLimits(
            self._most_jobs,
            self._most_bytes,
            int(self._most_waited * 1000),
            worker_registry.count_accepting(self._workers, job.encoder) if job.encoder else 1,
        )
        data, timeout_ms = job.pack(items), int(seconds * 1000)
        try:
            return streams.admit(
                self.server, job, data, len(items), timeout_ms=timeout_ms, limits=limits
            )
        except QueueFullError as error:
            if error.code != ErrorCode.QUEUE_BYTES_FULL:
                # A smaller job might find room where this one found none.
                self._full[job.stream] = (time.monotonic() + FULL_SECONDS, error)
            raise

    def _abandon(self, job: Job, admission: asyncio.Future[str]) -> None:
        """Take back a job that nobody waits for any more, unless a worker has it already."""
        if admission.cancelled() or admission.exception() is not None:
            return
        entry = admission.result()

        def take_back() -> None:
            try:
                taken = streams.cancel(self.server, job, entry)
            except QueueUnavailableError:
                log.warning(
                    "server unavailable",
                    extra={
                        "server": "queue",
                        "effect": "the cancelled job may run until its deadline",
                    },
                )
                return
            self._metrics.cancelled_jobs.inc(taken)

        threading.Thread(target=take_back, name="cancel", daemon=True).start()

    def _read(self) -> None:
        blocking = self.server.blocking(WAIT_SECONDS)
        key, looked = streams.replies_key(self._name), float("-inf")
        while not self._stopping.is_set():
            if time.monotonic() - looked >= WAIT_SECONDS:
                looked = time.monotonic()
                self._look()
            try:
                with blocking.session() as client:
                    # A batch is answered in one go: what has come by then is fetched together.
                    found: Any = client.blmpop(
                        WAIT_SECONDS, 1, key, direction="LEFT", count=MORE_REPLIES
                    )
            except UnavailableError as error:
                self._give_up(QueueUnavailableError("the queue server went away with the work"))
                log.warning(
                    "server unavailable", extra={"server": "queue", "reason": error.message}
                )
                self._stopping.wait(WAIT_SECONDS)
                continue
            for data in found[1] if found else ():
                self._hand_over(data)
        blocking.close()

    def _look(self) -> None:
        """See who lives and be seen; a server that refuses it for want of memory is not gone."""
        try:
            self.workers()
            worker_registry.remove_expired(self.server)
        except QueueUnavailableError as error:
            log.warning("server unavailable", extra={"server": "queue", "reason": error.message})

    def _hand_over(self, data: bytes) -> None:
        try:
            reply = unpack_reply(data)
        except CorruptDataError:
            # Whose it was cannot be read; its waiter gets its answer from the deadline.
            log.error("reply corrupt")
            return
        with self._guard:
            future = self._waiting.pop(reply.job, None)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(reply)

    def _give_up(self, error: StitchworkError) -> None:
        with self._guard:
            abandoned, self._waiting = self._waiting, {}
        for future in abandoned.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
