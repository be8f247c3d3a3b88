"""The worker's side of the queue: whose turn it is, batches, redelivery, answers."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import ResponseError

from stitchwork.errors import (
    CorruptDataError,
    DeadlineExceededError,
    JobFailedError,
    StitchworkError,
    UnavailableError,
)
from stitchwork.queue import dead_letters, streams
from stitchwork.queue.leases import Leases
from stitchwork.queue.messages import Job, Reply, unpack_job
from stitchwork.queue.streams import StreamBacklog
from stitchwork.redis.client import Command, RedisClient, script_command
from stitchwork.resources import Item
from stitchwork.telemetry import Telemetry, bind_callers

log = logging.getLogger(__name__)

FIRST_JOBS: Final = 8
"""Jobs read before their inputs are counted, so that large ones do not pile up in one batch."""
BLOCK_MS: Final = 500
"""How long an idle worker waits before it looks for streams that are new."""
MOST_DELIVERIES: Final = 3

Raw = tuple[bytes, dict[bytes, bytes] | None]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One job in this worker's hands."""

    stream: str
    entry: str
    job: Job
    items: list[Item]


class Consumer:
    """Takes what has queued up for one encoder as one batch, and answers each job once.

    Args:
        server: The queue server.
        name: The worker's name.
        items_per_batch: Inputs that make a full batch.
        lease: Seconds after which a job that its worker does not hold on to goes to another.
        hang: Seconds without progress after which this worker lets go of its jobs.
        takes: Whether jobs of this stream, for the model of this name, are for this worker.
        patience: Seconds that jobs of a stream wait before this worker takes them: none where its
            encoder is loaded, longer where another would have to make room for it.
        on_buried: Called with each job that was delivered too often.
        on_hang: Called once the work hangs and its jobs are let go of.
        telemetry: Where jobs, and how long they waited, are seen.
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
        self._patient = server.blocking(BLOCK_MS / 1000)
        self._batch_items = items_per_batch
        self._lease = lease
        self._telemetry = telemetry or Telemetry()
        self._metrics = self._telemetry.metrics
        self._takes = takes
        self._patience = patience
        self._on_buried = on_dead_letter
        self._turns: deque[str] = deque()
        self._surveyed = 0.0
        self._backlog: deque[tuple[str, list[Raw]]] = deque()
        self._reclaimed = 0.0
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to hold on to what will be taken."""
        self.leases.start()

    def stop(self) -> None:
        """Take nothing new; what was taken and not answered goes to others at once."""
        self._stopping.set()
        self.leases.stop()
        try:
            self.leases.release()
        except UnavailableError:
            log.warning(
                "server unavailable",
                extra={
                    "server": "queue",
                    "effect": "unanswered jobs are redelivered when their leases expire",
                },
            )
        self._patient.close()

    def take(self) -> list[Delivery]:
        """The next batch: jobs of one encoder, in the order in which they came.

        Streams take turns, those first whose encoder is at hand; none waits for ever.

        Returns:
            Jobs whose deadline has not passed; empty if nothing came for half a second. A job
            that was given to a worker before, which did not answer it, comes alone.

        Raises:
            QueueUnavailableError: If the queue server is away.
        """
        again = self._reclaim()
        if again:
            return again
        if self._backlog:
            return self._hold(*self._backlog.popleft())
        self._refresh()
        if not self._turns:
            self._stopping.wait(BLOCK_MS / 1000)
            return []
        near = [name for name in self._turns if not self._patience(name)]
        if len(self._turns) > 1 or not near:
            name = self._next(streams.stream_backlogs(self.server))
            entries = self._read(self.server, [name], FIRST_JOBS).get(name) if name else None
            if name and entries:
                return self._hold(name, entries)
        # Entries of further streams that arrive with the first wait for the next turns.
        if not near:
            self._stopping.wait(BLOCK_MS / 1000 / 5)
            return []
        found = self._read(self._patient, near, FIRST_JOBS, BLOCK_MS)
        self._backlog.extend(found.items())
        return self._hold(*self._backlog.popleft()) if self._backlog else []

    def answer(self, delivery: Delivery, reply: Reply | None, seconds: float = 0.0) -> bool:
        """Answer a job, unless it was taken from this worker meanwhile.

        Args:
            delivery: The job.
            reply: What its caller gets; None where nobody waits.
            seconds: What it cost this worker; 0 if that says nothing about the next one.

        Returns:
            False if another worker has the job now: nothing was sent.
        """
        (sent,) = self.answer_all([(delivery, reply, seconds)])
        return sent

    def answer_all(self, answers: Sequence[tuple[Delivery, Reply | None, float]]) -> list[bool]:
        """Answer several jobs in one round trip, each as `answer` does."""
        for delivery, _, _ in answers:
            self.leases.discard((delivery.stream, delivery.entry))
        calls = []
        for delivery, reply, seconds in answers:
            api = delivery.job.reply_to or ""
            keys = (
                streams.stream_key(delivery.stream),
                streams.BYTES,
                streams.replies_key(api),
                streams.APIS,
            )
            data = reply.pack() if reply else b""
            arguments = (delivery.entry, data, api, streams.GONE_MS, seconds * 1000)
            calls.append(script_command(streams.ANSWER, keys, *arguments))
        sent = [bool(one) for one in self.server.execute(*calls)]
        for (_, reply, _), taken in zip(answers, sent, strict=True):
            self._metrics.jobs[_outcome(reply) if taken else "lost"].inc()
        return sent

    def fail(self, delivery: Delivery, error: StitchworkError) -> bool:
        """Answer a job with the reason why there is no result."""
        reply = Reply(delivery.job.id, error=error) if delivery.job.reply_to else None
        return self.answer(delivery, reply)

    def _next(self, waiting: dict[str, StreamBacklog]) -> str | None:
        """The stream whose turn it is: due, and served longest ago."""
        for name in list(self._turns):
            waited = waiting[name].waited_ms if name in waiting else None
            if waited is not None and waited >= self._patience(name) * 1000:
                self._turns.remove(name)
                self._turns.append(name)
                return name
        return None

    def _hold(self, name: str, entries: list[Raw]) -> list[Delivery]:
        """Entries that were read, and what else waits in their stream, up to a full batch."""
        batch: list[Delivery] = []
        missing = self._batch_items
        while entries:
            missing -= sum(max(1, int((fields or {}).get(b"items", 0))) for _, fields in entries)
            opened, entries = self._open(name, entries, missing)
            batch += opened
        return batch

    def _open(
        self, name: str, entries: list[Raw], more: int = 0
    ) -> tuple[list[Delivery], list[Raw]]:
        """The jobs behind entries that were just delivered, without those that came too late.

        Returns:
            They and, read in the same round trip, up to `more` entries that came after them.
        """
        ids = [raw.decode() for raw, _ in entries]
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
            found, (seconds, micros), *read = self.server.execute(*commands)
        except UnavailableError:
            # Nobody works on them here: once their leases are over they go to others.
            for entry in ids:
                self.leases.discard((name, entry))
            raise
        now = int(seconds) * 1000 + int(micros) // 1000
        opened = []
        for entry, (_, fields), data in zip(ids, entries, found, strict=True):
            if not fields or data is None:
                # Deleted while it was pending, for example by a caller who gave up.
                self._drop(name, entry)
                continue
            try:
                job, items = unpack_job(data)
            except CorruptDataError:
                log.error("job dead-lettered", extra={"entry": entry, "reason": "corrupt"})
                self._bury(name, entry, data, "corrupt")
                self._drop(name, entry)
                continue
            delivery = Delivery(name, entry, job, items)
            if not job.registration:
                self._telemetry.record_queue_wait(
                    job.caller, max(0, now - int(entry.split("-")[0])) / 1000
                )
            if int(fields[b"deadline"]) <= now:
                told = "the job waited longer than the seconds it had"
                late = DeadlineExceededError(f"{told} (request_timeout_seconds, or less as asked)")
                self.fail(delivery, late)
                continue
            opened.append(delivery)
        # Of one stream, if it had any.
        after = read[0][0][1] if read and read[0] else []
        return opened, [_raw(*told) for told in after]

    def _reclaim(self) -> list[Delivery]:
        """A job whose worker let go of it, alone; past the limit of deliveries, buried."""
        if time.monotonic() - self._reclaimed < self._lease / 4:
            return []
        self._refresh()
        for name in list(self._turns):
            found = self._claim(name)
            if found:
                return found
        self._reclaimed = time.monotonic()
        return []

    def _claim(self, name: str) -> list[Delivery]:
        key, idle = streams.stream_key(name), int(self._lease * 1000)
        with self.server.session() as client:
            try:
                answer: Any = client.xautoclaim(key, streams.GROUP, self.name, idle, count=1)
            except ResponseError as error:
                self._forget(name, error)
                return []
            entries = answer[1]
            if not entries:
                return []
            entry = entries[0][0].decode()
            pending: Any = client.xpending_range(key, streams.GROUP, entry, entry, 1)
        deliveries = int(pending[0]["times_delivered"]) if pending else 1
        opened, _ = self._open(name, entries)
        self._metrics.redelivered_jobs.inc()
        with bind_callers(*(delivery.job.caller for delivery in opened)):
            if deliveries <= MOST_DELIVERIES:
                log.warning("job redelivered", extra={"entry": entry, "deliveries": deliveries})
                return opened
            log.error(
                "job dead-lettered",
                extra={"entry": entry, "reason": "max-deliveries", "deliveries": MOST_DELIVERIES},
            )
            for delivery in opened:
                told = JobFailedError(
                    f"{MOST_DELIVERIES} workers failed at this job; it was given up"
                )
                data = delivery.job.pack(delivery.items)
                self._bury(name, delivery.entry, data, "max-deliveries")
                self._on_buried(delivery.job)
                self.fail(delivery, told)
        return []

    def _bury(self, name: str, entry: str, data: bytes, reason: str) -> None:
        dead_letters.add(self.server, name, entry, data, reason)
        self._metrics.dead_lettered_jobs[reason].inc()

    def _drop(self, name: str, entry: str) -> None:
        """Be done with an entry that nobody can be answered about."""
        self.leases.discard((name, entry))
        keys = (streams.stream_key(name), streams.BYTES, streams.REPLIES, streams.APIS)
        self.server.run_script(streams.ANSWER, keys, entry, b"", "", 0, 0)

    def _read(
        self, server: RedisClient, names: list[str], count: int, block: int | None = None
    ) -> dict[str, list[Raw]]:
        wanted: dict[Any, Any] = {streams.stream_key(name): ">" for name in names}
        with server.session() as client:
            try:
                found: Any = client.xreadgroup(
                    streams.GROUP, self.name, wanted, count=count, block=block
                )
            except ResponseError as error:
                for name in names:
                    self._forget(name, error)
                return {}
        return {key.decode()[len(streams.JOBS) + 1 :]: entries for key, entries in found or []}

    def _refresh(self) -> None:
        """Learn of new streams, at most as often as an idle worker would."""
        if self._turns and time.monotonic() - self._surveyed < BLOCK_MS / 1000:
            return
        with self.server.session() as client:
            found: Any = client.hgetall(streams.JOBS)
        self._surveyed = time.monotonic()
        models = {name.decode(): model.decode() for name, model in found.items()}
        names = {name for name, model in models.items() if self._takes(name, model)}
        for name in sorted(names.difference(self._turns)):
            self._turns.append(name)
        for name in set(self._turns).difference(names):
            self._turns.remove(name)

    def _forget(self, name: str, error: ResponseError) -> None:
        """Stop reading a stream that is gone, as after a restart of the queue server."""
        if not str(error).startswith("NOGROUP"):
            raise error
        if name in self._turns:
            self._turns.remove(name)


def _raw(entry: bytes, fields: list[bytes] | None) -> Raw:
    return entry, None if fields is None else dict(zip(fields[::2], fields[1::2], strict=True))


def _outcome(reply: Reply | None) -> str:
    if reply is None or reply.error is None:
        return "done"
    return "expired" if isinstance(reply.error, DeadlineExceededError) else "failed"
