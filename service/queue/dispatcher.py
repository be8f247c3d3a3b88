"""The API's side of the queue: admission, waiting, deadlines, cancellation."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final, cast

from service.errors import (
    CorruptBytes,
    DeadlineExceeded,
    QueueUnavailable,
    StitchworkError,
    Unavailable,
)
from service.queue import streams
from service.queue.jobs import Job, Reply, unpack_reply
from service.records import Draft, Item
from service.store.server import Server

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 1.0
"""How long the reader blocks; also how often this process says that it is alive."""


class Dispatcher:
    """Puts jobs into their streams and hands each reply to whoever waits for it.

    One thread reads this process's reply list. Whatever becomes of a job, its waiter gets an
    answer: the reply, the deadline, or the news that the queue is gone.

    Args:
        server: The queue server.
        most_jobs: Jobs that may wait for one encoder.
        most_bytes: Bytes that all queued jobs may hold.
        worker_ttl: Seconds of silence after which a worker counts as gone.
    """

    def __init__(
        self, server: Server, *, most_jobs: int, most_bytes: int, worker_ttl: float
    ) -> None:
        self._server = server
        self._most_jobs = most_jobs
        self._most_bytes = most_bytes
        self._worker_ttl = worker_ttl
        self._name = streams.new_id()
        self._waiting: dict[str, Future[Reply]] = {}
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._reader = threading.Thread(target=self._read, name="replies", daemon=True)
        self.cancelled = 0

    def start(self) -> None:
        """Begin to read replies."""
        self._reader.start()

    def stop(self) -> None:
        """Stop reading; whoever still waits is told."""
        self._stopping.set()
        self._reader.join()
        self._give_up(QueueUnavailable("the service is shutting down"))
        try:
            with self._server.guard() as client:
                client.zrem(streams.APIS, self._name)
                client.delete(streams.replies_key(self._name))
        except QueueUnavailable:
            log.warning("queue away; a worker forgets this process later")

    async def run(self, job: Job, items: Sequence[Item], seconds: float) -> Reply:
        """Have a worker do a job, and wait for its reply.

        Args:
            job: What is to be done; its id and its way back are filled in here.
            items: The inputs.
            seconds: Seconds after which nobody wants the answer.

        Returns:
            A reply without an error.

        Raises:
            QueueFull: If there is no room for the job.
            NoWorker: If no worker is alive.
            QueueUnavailable: If the queue server is, or goes, away.
            DeadlineExceeded: If the reply does not come in time.
            StitchworkError: Whatever the worker answered instead of rows.
        """
        job = job.model_copy(update={"id": streams.new_id(), "reply_to": self._name})
        future: Future[Reply] = Future()
        with self._guard:
            self._waiting[job.id] = future
        data = await asyncio.to_thread(job.pack, items)
        admission = asyncio.ensure_future(asyncio.to_thread(self._admit, job, data, seconds))
        try:
            # Shielded: a caller who leaves now must still learn which entry to take back.
            await asyncio.shield(admission)
            reply = await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no worker answered within {seconds:g} seconds") from error
        finally:
            with self._guard:
                self._waiting.pop(job.id, None)
            if future.cancelled() or not future.done():
                admission.add_done_callback(lambda done: self._abandon(job, len(data), done))
        if reply.error is not None:
            raise reply.error
        return reply

    def nudge(self, draft: Draft) -> None:
        """Ask for the next step of a draft; if the queue is away, a worker finds it later."""
        try:
            streams.nudge(self._server, draft)
        except QueueUnavailable:
            log.warning("queue away; a worker will find the draft when it is back")

    def workers(self) -> int:
        """How many workers are alive.

        Raises:
            QueueUnavailable: If the queue server is away.
        """
        return len(streams.alive(self._server, streams.WORKERS, self._worker_ttl))

    def _admit(self, job: Job, data: bytes, seconds: float) -> str:
        return streams.admit(
            self._server,
            job,
            data,
            timeout_ms=int(seconds * 1000),
            most_jobs=self._most_jobs,
            most_bytes=self._most_bytes,
            worker_ttl_ms=int(self._worker_ttl * 1000),
        )

    def _abandon(self, job: Job, size: int, admission: asyncio.Future[str]) -> None:
        """Take back a job that nobody waits for any more, unless a worker has it already."""
        if admission.cancelled() or admission.exception() is not None:
            return
        entry = admission.result()

        def take_back() -> None:
            try:
                taken = streams.cancel(self._server, job, entry, size)
            except QueueUnavailable:
                log.warning("queue away; an abandoned job runs to its deadline")
                return
            with self._guard:
                self.cancelled += taken

        threading.Thread(target=take_back, name="cancel", daemon=True).start()

    def _read(self) -> None:
        patient = self._server.patient(WAIT_SECONDS)
        key = streams.replies_key(self._name)
        while not self._stopping.is_set():
            try:
                streams.beat(self._server, streams.APIS, self._name)
                with patient.guard() as client:
                    found = client.blpop([key], timeout=WAIT_SECONDS)
            except Unavailable as error:
                self._give_up(QueueUnavailable("the queue server went away with the work"))
                log.warning("queue away", extra={"reason": error.message})
                self._stopping.wait(WAIT_SECONDS)
                continue
            if found is not None:
                self._hand_over(cast(tuple[bytes, bytes], found)[1])
        patient.close()

    def _hand_over(self, data: bytes) -> None:
        try:
            reply = unpack_reply(data)
        except CorruptBytes:
            # Whose it was cannot be read; its waiter gets its answer from the deadline.
            log.error("a reply failed its checksum")
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
