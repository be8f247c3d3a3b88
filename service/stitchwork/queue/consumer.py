"""The worker's side of the queue: turns, batches, redelivery, answers."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from stitchwork.errors import (
    CorruptDataError,
    DeadlineExceededError,
    IncompatibleFormatError,
    JobFailedError,
    StitchworkError,
    UnavailableError,
)
from stitchwork.queue import dead_letters, scripts, streams
from stitchwork.queue.deliveries import Delivery, StreamEntry, stream_entry
from stitchwork.queue.leases import Leases
from stitchwork.queue.messages import Job, Reply, unpack_address, unpack_job
from stitchwork.queue.turns import StreamTurns
from stitchwork.redis.client import RedisClient
from stitchwork.redis.commands import Command, script_command
from stitchwork.telemetry import Telemetry, bind_callers
from stitchwork.telemetry.metrics import DeadLetterReason

log = logging.getLogger(__name__)

FIRST_JOBS: Final = 8
"""Jobs to read before their inputs are counted, so that large ones do not fill one batch."""
BLOCK_MS: Final = 500
"""How long an idle worker waits before it looks for new streams."""
MAX_DELIVERIES: Final = 3
API_EXPIRED_MS: Final = 60_000
"""Silence after which an API process gets no more replies."""

EXPIRED: Final = (
    "the job waited until its deadline (request_timeout_seconds, or less if the request says so)"
)

Answer = tuple[Delivery, Reply | None, float]
"""A job, its reply if anyone waits, and the seconds that it took."""


class Consumer:
    """Takes the waiting jobs of one encoder as one batch, and answers each job once.

    Args:
        server: The queue server.
        name: The worker's name.
        items_per_batch: Inputs of a full batch.
        lease: Seconds after which a job whose lease is not renewed goes to another worker.
        hang: Seconds without progress after which this worker releases its jobs.
        takes: Whether this worker takes jobs of a stream, given its name and its model's.
        patience: Seconds that jobs of a stream wait before this worker takes them: none if its
            encoder is loaded, longer if another would have to be unloaded for it.
        on_dead_letter: Called with each job that was delivered too often.
        on_hang: Called once the work hangs and its jobs are released.
        telemetry: Records jobs, and how long they waited.
    """

    def __init__(
        self,
        server: RedisClient,
        name: str,
        *,
        items_per_batch: int,
        lease: float = 10.0,
        hang: float = 20.0,
        takes: Callable[[str, str], bool] = lambda stream, model: True,
        patience: Callable[[str], float] = lambda stream: 0.0,
        on_dead_letter: Callable[[Job], None] = lambda _: None,
        on_hang: Callable[[], None] = lambda: None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.name = name
        self.server = server
        self.leases = Leases(server, name, lease=lease, hang=hang, on_hang=on_hang)
        self._blocking = server.blocking(BLOCK_MS / 1000)
        self._items_per_batch = items_per_batch
        self._lease = lease
        self._telemetry = telemetry or Telemetry()
        self._metrics = self._telemetry.metrics
        self._on_dead_letter = on_dead_letter
        self._turns = StreamTurns(server, takes, patience)
        self._batches: deque[tuple[str, list[StreamEntry]]] = deque()
        self._reclaimed = 0.0
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to renew leases."""
        self.leases.start()

    def stop(self) -> None:
        """Take nothing more; unanswered jobs go to other workers at once."""
        self._stopping.set()
        self.leases.stop()
        try:
            self.leases.release()
        except UnavailableError as error:
            log.warning(
                "server unavailable",
                extra={
                    "server": "queue",
                    "reason": error.message,
                    "effect": "unanswered jobs are redelivered when their leases expire",
                },
            )
        self._blocking.close()

    def take(self) -> list[Delivery]:
        """The next batch: jobs of one encoder, in the order in which they came.

        Streams take turns, those whose encoder is loaded first; none waits for ever.

        Returns:
            Jobs whose deadline has not passed; empty if nothing came for half a second. A job
            that was delivered to another worker, which did not answer it, comes alone.

        Raises:
            QueueUnavailableError: If the queue server is unavailable.
        """
        redelivered = self._reclaim()
        if redelivered:
            return redelivered
        if self._batches:
            return self._fill(*self._batches.popleft())
        self._turns.refresh()
        if not self._turns:
            self._stopping.wait(BLOCK_MS / 1000)
            return []
        immediate = self._turns.immediate()
        if len(self._turns) > 1 or not immediate:
            name = self._turns.next(streams.stream_backlogs(self.server))
            entries = self._read(self.server, [name], FIRST_JOBS).get(name) if name else None
            if name and entries:
                return self._fill(name, entries)
        if not immediate:
            self._stopping.wait(BLOCK_MS / 1000 / 5)
            return []
        # Entries of further streams that arrive with the first wait for the next turns.
        arrived = self._read(self._blocking, immediate, FIRST_JOBS, BLOCK_MS)
        self._batches.extend(arrived.items())
        return self._fill(*self._batches.popleft()) if self._batches else []

    def answer(self, delivery: Delivery, reply: Reply | None, seconds: float = 0.0) -> bool:
        """Answer a job, unless another worker has it meanwhile.

        Args:
            delivery: The job.
            reply: The reply; None if nobody waits.
            seconds: How long the job took; 0 if that predicts nothing about the next one.

        Returns:
            False if another worker has the job: nothing was sent.
        """
        (sent,) = self.answer_all([(delivery, reply, seconds)])
        return sent

    def answer_all(self, answers: Sequence[Answer]) -> list[bool]:
        """Answer several jobs in one round trip, each as `answer` does."""
        for delivery, _, _ in answers:
            self.leases.discard((delivery.stream, delivery.entry))
        commands = [
            _answer_command(
                delivery.stream,
                delivery.entry,
                delivery.job.reply_to or "",
                reply.pack() if reply else b"",
                seconds * 1000,
            )
            for delivery, reply, seconds in answers
        ]
        results = [bool(sent) for sent in self.server.execute(*commands)]
        for (_, reply, _), sent in zip(answers, results, strict=True):
            self._metrics.jobs[_outcome(reply) if sent else "lost"].inc()
        return results

    def fail(self, delivery: Delivery, error: StitchworkError) -> bool:
        """Answer a job with an error."""
        reply = Reply(delivery.job.id, error=error) if delivery.job.reply_to else None
        return self.answer(delivery, reply)

    def _fill(self, name: str, entries: list[StreamEntry]) -> list[Delivery]:
        """Entries that were read, and what else waits in their stream, up to a full batch."""
        batch: list[Delivery] = []
        free = self._items_per_batch
        while entries:
            free -= sum(max(1, int((fields or {}).get(b"items", 0))) for _, fields in entries)
            deliveries, entries = self._fetch(name, entries, free)
            batch += deliveries
        return batch

    def _fetch(
        self, name: str, entries: list[StreamEntry], more: int = 0
    ) -> tuple[list[Delivery], list[StreamEntry]]:
        """The jobs of entries that were just delivered, without those past their deadline.

        Returns:
            They and, read in the same round trip, up to `more` entries that came after them.
        """
        ids = [entry.decode() for entry, _ in entries]
        for entry in ids:
            self.leases.add((name, entry))
        key = streams.stream_key(name)
        commands: list[Command] = [
            ("MGET", *(streams.job_key(name, entry) for entry in ids)),
            ("TIME",),
        ]
        if more > 0:
            group = ("GROUP", streams.GROUP, self.name)
            commands.append(("XREADGROUP", *group, "COUNT", more, "STREAMS", key, ">"))
        try:
            jobs, (seconds, micros), *rest = self.server.execute(*commands)
        except UnavailableError:
            # Nobody works on them here: they go to other workers when their leases expire.
            for entry in ids:
                self.leases.discard((name, entry))
            raise
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        deliveries = []
        for entry, (_, fields), data in zip(ids, entries, jobs, strict=True):
            delivery = self._parse(name, entry, data if fields else None)
            if delivery is None or fields is None:
                continue
            if not delivery.job.registration:
                waited_ms = max(0, now_ms - int(entry.split("-")[0]))
                self._telemetry.record_queue_wait(delivery.job.caller, waited_ms / 1000)
            if int(fields[b"deadline"]) <= now_ms:
                self.fail(delivery, DeadlineExceededError(EXPIRED))
            else:
                deliveries.append(delivery)
        # The reply has one stream, if any.
        after = rest[0][0][1] if rest and rest[0] else []
        return deliveries, [stream_entry(*raw) for raw in after]

    def _parse(self, name: str, entry: str, data: bytes | None) -> Delivery | None:
        """A delivery; None for a job that cannot be read, which is deleted."""
        job, api, reply = "", "", b""
        if data is not None:
            try:
                return Delivery(name, entry, *unpack_job(data))
            except CorruptDataError as error:
                self._dead_letter(name, entry, data, DeadLetterReason.CORRUPT, error.message)
            except IncompatibleFormatError as error:
                reason = DeadLetterReason.INCOMPATIBLE_FORMAT
                self._dead_letter(name, entry, data, reason, error.message)
                job, api = unpack_address(data) or ("", "")
                failure = JobFailedError(error.message, code=error.code)
                reply = Reply(job, error=failure).pack()
        # Without data, it was deleted while it was pending, for example by a caller who gave up.
        self.leases.discard((name, entry))
        self.server.execute(_answer_command(name, entry, api, reply, 0))
        return None

    def _reclaim(self) -> list[Delivery]:
        """A job whose lease expired, alone; one that was delivered too often is dead-lettered."""
        if time.monotonic() - self._reclaimed < self._lease / 4:
            return []
        self._turns.refresh()
        for name in self._turns:
            deliveries = self._claim(name)
            if deliveries:
                return deliveries
        self._reclaimed = time.monotonic()
        return []

    def _claim(self, name: str) -> list[Delivery]:
        key, idle_ms = streams.stream_key(name), int(self._lease * 1000)
        with self.server.session() as client:
            try:
                reply: Any = client.xautoclaim(key, streams.GROUP, self.name, idle_ms, count=1)
            except ResponseError as error:
                self._remove_stream(name, error)
                return []
            entries = reply[1]
            if not entries:
                return []
            entry = entries[0][0].decode()
            pending: Any = client.xpending_range(key, streams.GROUP, entry, entry, 1)
        count = int(pending[0]["times_delivered"]) if pending else 1
        deliveries, _ = self._fetch(name, entries)
        self._metrics.redelivered_jobs.inc()
        with bind_callers(*(delivery.job.caller for delivery in deliveries)):
            if count <= MAX_DELIVERIES:
                log.warning("job redelivered", extra={"entry": entry, "deliveries": count})
                return deliveries
            failure = JobFailedError(
                f"{MAX_DELIVERIES} workers failed at this job; it was given up"
            )
            for delivery in deliveries:
                data = delivery.job.pack(delivery.items)
                self._dead_letter(name, entry, data, DeadLetterReason.DELIVERED_TOO_OFTEN)
                self._on_dead_letter(delivery.job)
                self.fail(delivery, failure)
        return []

    def _dead_letter(
        self, name: str, entry: str, data: bytes, reason: DeadLetterReason, detail: str = ""
    ) -> None:
        log.error("job dead-lettered", extra={"entry": entry, "reason": reason, "detail": detail})
        dead_letters.add(self.server, name, entry, data, reason)
        self._metrics.dead_lettered_jobs[reason].inc()

    def _read(
        self, server: RedisClient, names: list[str], count: int, block: int | None = None
    ) -> dict[str, list[StreamEntry]]:
        positions: dict[Any, Any] = {streams.stream_key(name): ">" for name in names}
        group = (streams.GROUP, self.name)
        with server.session() as client:
            try:
                reply: Any = client.xreadgroup(*group, positions, count=count, block=block)
            except ResponseError as error:
                for name in names:
                    self._remove_stream(name, error)
                return {}
        return {key.decode()[len(streams.JOBS) + 1 :]: entries for key, entries in reply or []}

    def _remove_stream(self, name: str, error: ResponseError) -> None:
        """Stop reading a stream that no longer exists, as after a restart of the queue server."""
        if not str(error).startswith("NOGROUP"):
            raise error
        self._turns.remove(name)


def _answer_command(stream: str, entry: str, api: str, reply: bytes, work_ms: float) -> Command:
    keys = (streams.stream_key(stream), streams.BYTES, streams.replies_key(api), streams.APIS)
    return script_command(scripts.ANSWER, keys, entry, reply, api, API_EXPIRED_MS, work_ms)


def _outcome(reply: Reply | None) -> str:
    if reply is None or reply.error is None:
        return "done"
    return "expired" if isinstance(reply.error, DeadlineExceededError) else "failed"
