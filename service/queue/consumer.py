"""The worker's side of the queue: batches, leases, redelivery, dead letters."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import ResponseError

from service.errors import CorruptBytes, DeadlineExceeded, StitchworkError, Unavailable, WorkFailed
from service.queue import streams
from service.queue.jobs import Job, Reply, unpack_job
from service.records import Item
from service.store.server import Server

log = logging.getLogger(__name__)

FIRST_JOBS: Final = 8
"""Jobs read before their inputs are counted, so that large ones do not pile up in one batch."""
BLOCK_MS: Final = 500
"""How long an idle worker waits before it looks for streams that are new."""
LEASE_SECONDS: Final = 15.0
PROGRESS_SECONDS: Final = 120.0
"""A batch that takes longer than this is taken to hang, and its lease is let go."""
MOST_DELIVERIES: Final = 3
DEAD_LETTERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Delivery:
    """One job in this worker's hands."""

    stream: str
    entry: str
    size: int
    job: Job
    items: list[Item]


class Consumer:
    """Takes what has queued up for one encoder as one batch, and answers each job once.

    Args:
        server: The queue server.
        batch_items: Inputs that make a full batch.
        worker_ttl: Seconds of silence after which this worker counts as gone.
        lease: Seconds after which a job that its worker does not hold on to goes to another.
    """

    def __init__(
        self,
        server: Server,
        *,
        batch_items: int,
        worker_ttl: float,
        lease: float = LEASE_SECONDS,
    ) -> None:
        self.name = streams.new_id()
        self.server = server
        self._patient = server.patient(BLOCK_MS / 1000)
        self._batch_items = batch_items
        self._worker_ttl = worker_ttl
        self._lease = lease
        self._held: dict[tuple[str, str], Delivery] = {}
        self._held_since = 0.0
        self._guard = threading.Lock()
        self._turns: deque[str] = deque()
        self._backlog: deque[tuple[str, list[Any]]] = deque()
        self._reclaimed = 0.0
        self._stopping = threading.Event()
        self.on_buried: Callable[[Job], None] = lambda _: None
        self._beater = threading.Thread(target=self._beat, name="lease", daemon=True)

    def start(self) -> None:
        """Begin to say that this worker is alive."""
        streams.beat(self.server, streams.WORKERS, self.name)
        self._beater.start()

    def stop(self) -> None:
        """Say that this worker is gone; nothing new comes to it."""
        self._stopping.set()
        self._beater.join()
        with self.server.guard() as client:
            client.zrem(streams.WORKERS, self.name)
        self._patient.close()

    def take(self) -> list[Delivery]:
        """The next batch: jobs of one encoder, in the order in which they came.

        Returns:
            Jobs whose deadline has not passed; empty if nothing came for half a second. A job
            that was given to a worker before, which did not answer it, comes alone.

        Raises:
            QueueUnavailable: If the queue server is away.
        """
        again = self._reclaim()
        if again:
            return again
        self._refresh()
        if self._backlog:
            return self._hold(*self._backlog.popleft())
        for _ in range(len(self._turns)):
            name = self._turns[0]
            self._turns.rotate(-1)
            entries = self._read(self.server, [name], FIRST_JOBS).get(name)
            if entries:
                return self._hold(name, entries)
        if not self._turns:
            self._stopping.wait(BLOCK_MS / 1000)
            return []
        # Entries of further streams that arrive with the first wait for the next turns.
        found = self._read(self._patient, list(self._turns), 1, BLOCK_MS)
        self._backlog.extend(found.items())
        return self._hold(*self._backlog.popleft()) if self._backlog else []

    def answer(self, delivery: Delivery, reply: Reply | None) -> bool:
        """Answer a job, unless it was taken from this worker meanwhile.

        Args:
            delivery: The job.
            reply: What its caller gets; None where nobody waits.

        Returns:
            False if another worker has the job now: nothing was sent.
        """
        data = reply.pack() if reply else b""
        api = delivery.job.reply_to or ""
        keys = (
            streams.stream_key(delivery.stream),
            streams.BYTES,
            streams.replies_key(api),
            streams.APIS,
        )
        with self._guard:
            self._held.pop((delivery.stream, delivery.entry), None)
            self._held_since = time.monotonic()
        with self.server.guard() as client:
            sent: Any = client.eval(
                streams.ANSWER,
                len(keys),
                *keys,
                delivery.entry,
                delivery.size,
                data,
                api,
                streams.GONE_MS,
            )
        return bool(sent)

    def fail(self, delivery: Delivery, error: StitchworkError) -> bool:
        """Answer a job with the reason why there is no result."""
        reply = Reply(delivery.job.id, error=error) if delivery.job.reply_to else None
        return self.answer(delivery, reply)

    def _hold(self, name: str, entries: list[Any]) -> list[Delivery]:
        """Entries that were read, and what else waits in their stream, up to a full batch."""
        batch = self._open(name, entries)
        while (missing := self._batch_items - sum(max(1, len(d.items)) for d in batch)) > 0:
            more = self._read(self.server, [name], missing).get(name, [])
            if not more:
                break
            batch += self._open(name, more)
        return batch

    def _open(self, name: str, entries: list[Any]) -> list[Delivery]:
        now = self.server.now_ms()
        opened = []
        for raw_id, fields in entries:
            entry = raw_id.decode()
            if not fields:
                # Deleted while it was pending, for example by a caller who gave up.
                self._drop(name, entry)
                continue
            data: bytes = fields[b"job"]
            try:
                job, items = unpack_job(data)
            except CorruptBytes:
                log.error("a job failed its checksum", extra={"entry": entry})
                self._bury(name, entry, fields, "corrupt")
                continue
            delivery = Delivery(name, entry, len(data), job, items)
            with self._guard:
                self._held[name, entry] = delivery
                self._held_since = time.monotonic()
            if int(fields[b"deadline"]) <= now:
                self.fail(delivery, DeadlineExceeded("the deadline passed while the job waited"))
                continue
            opened.append(delivery)
        return opened

    def _reclaim(self) -> list[Delivery]:
        """A job whose worker let go of it, alone; past the limit of deliveries, buried."""
        if time.monotonic() - self._reclaimed < self._lease / 3:
            return []
        self._refresh()
        for name in list(self._turns):
            found = self._claim(name)
            if found:
                return found
        self._reclaimed = time.monotonic()
        return []

    def _claim(self, name: str) -> list[Delivery]:
        idle = int(self._lease * 1000)
        with self.server.guard() as client:
            try:
                answer: Any = client.xautoclaim(
                    streams.stream_key(name), streams.GROUP, self.name, idle, count=1
                )
            except ResponseError as error:
                self._forget(name, error)
                return []
            entries = answer[1]
            if not entries:
                return []
            entry, fields = entries[0]
            pending: Any = client.xpending_range(
                streams.stream_key(name), streams.GROUP, entry, entry, 1
            )
        deliveries = int(pending[0]["times_delivered"]) if pending else 1
        if deliveries <= MOST_DELIVERIES:
            log.warning("redelivered", extra={"entry": entry.decode(), "delivery": deliveries})
            return self._open(name, entries)
        for delivery in self._open(name, entries):
            told = WorkFailed(f"{MOST_DELIVERIES} workers failed at this job; it was given up")
            self._bury(name, delivery.entry, fields, "delivered too often")
            self.on_buried(delivery.job)
            self.fail(delivery, told)
        return []

    def _bury(self, name: str, entry: str, fields: dict[bytes, bytes], reason: str) -> None:
        letter = {**fields, b"stream": name.encode(), b"reason": reason.encode()}
        with self.server.guard() as client:
            client.xadd(streams.DEAD, letter, maxlen=DEAD_LETTERS, approximate=True)  # type: ignore[arg-type]
        if reason == "corrupt":
            self._drop(name, entry, len(fields.get(b"job", b"")))

    def _drop(self, name: str, entry: str, size: int = 0) -> None:
        keys = (streams.stream_key(name), streams.BYTES, streams.REPLIES, streams.APIS)
        with self.server.guard() as client:
            client.eval(streams.ANSWER, len(keys), *keys, entry, size, b"", "", 0)

    def _read(
        self, server: Server, names: list[str], count: int, block: int | None = None
    ) -> dict[str, list[Any]]:
        wanted: dict[Any, Any] = {streams.stream_key(name): ">" for name in names}
        with server.guard() as client:
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
        with self.server.guard() as client:
            found: Any = client.smembers(streams.JOBS)
        names = {raw.decode() for raw in found}
        for name in names.difference(self._turns):
            self._turns.append(name)
        for name in set(self._turns).difference(names):
            self._turns.remove(name)

    def _forget(self, name: str, error: ResponseError) -> None:
        """Stop reading a stream that is gone, as after a restart of the queue server."""
        if not str(error).startswith("NOGROUP"):
            raise error
        if name in self._turns:
            self._turns.remove(name)

    def _beat(self) -> None:
        """Say that this worker lives, and hold on to its batch while that makes progress."""
        while not self._stopping.wait(min(self._worker_ttl, self._lease) / 3):
            try:
                streams.beat(self.server, streams.WORKERS, self.name)
                self._renew()
            except Unavailable as error:
                log.warning("queue away", extra={"reason": error.message})

    def _renew(self) -> None:
        with self._guard:
            if time.monotonic() - self._held_since > PROGRESS_SECONDS:
                return
            held = list(self._held)
        by_stream: dict[str, list[str]] = {}
        for name, entry in held:
            by_stream.setdefault(name, []).append(entry)
        with self.server.guard() as client:
            for name, entries in by_stream.items():
                client.eval(streams.RENEW, 1, streams.stream_key(name), self.name, *entries)
