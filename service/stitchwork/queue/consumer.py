"""The worker's side of the queue: turns, batches, redelivery, answers."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from stitchwork.errors import (
    CorruptDataError,
    DeadlineExceededError,
    IncompatibleFormatError,
    JobFailedError,
    QueueUnavailableError,
    StitchworkError,
    UnavailableError,
)
from stitchwork.queue import dead_letters
from stitchwork.queue.answers import Answer, answer_command, answer_words
from stitchwork.queue.deliveries import Delivery, StreamEntry, parse_entry
from stitchwork.queue.keys import GROUP
from stitchwork.queue.leases import Leases
from stitchwork.queue.messages import Job, Reply, unpack_address, unpack_job
from stitchwork.queue.outages import log_outage
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.queue.shards import QueueShard, leave_shard
from stitchwork.queue.stream_reader import BLOCK_MS, StreamReader
from stitchwork.queue.streams import EncoderStreams
from stitchwork.queue.turns import EncoderTurns
from stitchwork.telemetry import Telemetry, bind_callers
from stitchwork.telemetry.metrics import DeadLetterReason

log = logging.getLogger(__name__)

MAX_DELIVERIES: Final = 3
PAUSE_SECONDS: Final = BLOCK_MS / 1000 / 5
"""How long the worker waits where nothing can be waited for at a server."""

EXPIRED: Final = (
    "the job waited until its deadline (request_timeout_seconds, or less if the request says so)"
)


class Consumer:
    """Takes the waiting jobs of one encoder as one batch, and answers each job once.

    Args:
        shards: The shards of the queue.
        name: The worker's name.
        items_per_batch: Inputs of a full batch.
        lease: Seconds after which a job whose lease is not renewed goes to another worker.
        hang: Seconds without progress after which this worker releases its jobs.
        takes: Whether this worker takes jobs of an encoder, given its key and what they require.
        patience: Seconds that jobs of an encoder wait before this worker takes them: none if it
            is loaded, longer if another would have to be unloaded for it.
        on_dead_letter: Called with each job that was delivered too often.
        on_hang: Called once the work hangs and its jobs are released.
        telemetry: Records jobs, and how long they waited.
        clock: Returns the time in seconds, by which encoders share the worker.
    """

    def __init__(
        self,
        shards: Sequence[QueueShard],
        name: str,
        *,
        items_per_batch: int,
        lease: float = 10.0,
        hang: float = 20.0,
        takes: Callable[[str, ModelRequirement], bool] = lambda encoder, requirement: True,
        patience: Callable[[str], float] = lambda encoder: 0.0,
        on_dead_letter: Callable[[Job], None] = lambda _: None,
        on_hang: Callable[[], None] = lambda: None,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.shards = shards
        self.leases = Leases(shards, name, lease=lease, hang=hang, on_hang=on_hang)
        self._lease = lease
        self._stopping = threading.Event()
        self._telemetry = telemetry or Telemetry()
        self._metrics = self._telemetry.metrics
        self._on_dead_letter = on_dead_letter
        turns = EncoderTurns(shards, takes, patience, clock)
        self._reader = StreamReader(shards, name, turns, items_per_batch, self._stopping)
        self._arrived: deque[tuple[EncoderStreams, list[StreamEntry]]] = deque()
        self._reclaimed = 0.0

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
            log_outage(error, "unanswered jobs are redelivered when their leases expire")
        self._reader.close()

    def take(self) -> list[Delivery]:
        """The next batch: jobs of one encoder, those of each class of callers in their order.

        Encoders take turns, those that are loaded first; none waits for ever.

        Returns:
            Jobs whose deadline has not passed; empty if nothing came for half a second. A job
            that was delivered to another worker, which did not answer it, comes alone.

        Raises:
            QueueUnavailableError: If the queue server is unavailable.
        """
        try:
            return self._take()
        except QueueUnavailableError as error:
            if len(self.shards) == 1 or not any(shard.is_answering for shard in self.shards):
                raise
            log_outage(error, "the other shards are served")
            self._stopping.wait(PAUSE_SECONDS)
            return []

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
        self.leases.discard(delivery.key for delivery, _, _ in answers)
        by_shard: dict[int, dict[tuple[str, str], list[int]]] = {}
        for i, (delivery, _, _) in enumerate(answers):
            groups = by_shard.setdefault(delivery.shard, {})
            groups.setdefault((delivery.stream, delivery.job.reply_to or ""), []).append(i)
        results = [False] * len(answers)
        for number, groups in by_shard.items():
            shard = self.shards[number]
            commands = [
                answer_command(shard.keys, *group, [answers[i] for i in members])
                for group, members in groups.items()
            ]
            for members, replies in zip(groups.values(), shard.execute(*commands), strict=True):
                for i, sent in zip(members, replies, strict=True):
                    results[i] = bool(sent)
        for (_, reply, _), sent in zip(answers, results, strict=True):
            self._metrics.jobs[_outcome(reply) if sent else "lost"].inc()
        return results

    def fail(self, delivery: Delivery, error: StitchworkError) -> bool:
        """Answer a job with an error."""
        reply = Reply(delivery.job.id, error=error) if delivery.job.reply_to else None
        return self.answer(delivery, reply)

    def _take(self) -> list[Delivery]:
        """The next batch, as `take` returns it."""
        # A shard may deliver a job after the worker has got work elsewhere.
        self._add_arrivals(self._reader.read_late())
        redelivered = self._reclaim()
        if redelivered:
            return redelivered
        if self._arrived:
            return self._fill(*self._arrived.popleft())
        self._reader.turns.refresh()
        if not self._reader.turns:
            self._stopping.wait(BLOCK_MS / 1000)
            return []
        waiting = self._reader.read_waiting()
        if waiting:
            return self._unpack(waiting)
        immediate = self._reader.turns.immediate()
        if not immediate:
            self._stopping.wait(PAUSE_SECONDS)
            return []
        # Entries of further encoders that arrive with the first wait for the next turns.
        self._add_arrivals(self._reader.read_arriving(immediate))
        return self._fill(*self._arrived.popleft()) if self._arrived else []

    def _add_arrivals(self, arrivals: Sequence[tuple[EncoderStreams, list[StreamEntry]]]) -> None:
        for _, entries in arrivals:
            self.leases.add(entry.key for entry in entries)
        self._arrived.extend(arrivals)

    def _fill(self, encoder: EncoderStreams, entries: list[StreamEntry]) -> list[Delivery]:
        """Entries that arrived, and what else waits for their encoder, up to a full batch."""
        try:
            more = self._reader.read_more(encoder, entries)
        except UnavailableError:
            self._abandon(entries)
            raise
        return self._unpack([*entries, *more])

    def _unpack(self, entries: list[StreamEntry]) -> list[Delivery]:
        """The jobs of entries that were just delivered, without those past their deadline."""
        if not entries:
            return []
        self.leases.add(entry.key for entry in entries)
        try:
            return self._deliveries(entries)
        except UnavailableError:
            self._abandon(entries)
            raise

    def _deliveries(self, entries: Sequence[StreamEntry]) -> list[Delivery]:
        """The jobs of entries, without those past their deadline, which are answered."""
        payloads = self._read_payloads(entries)
        now_ms = self._reader.now_ms(entries[0].shard)
        deliveries = []
        for entry in entries:
            delivery = self._parse(entry, payloads.get(entry.payload, entry.data))
            if delivery is None:
                continue
            if not delivery.job.registration:
                waited_ms = max(0.0, now_ms - int(entry.id.partition("-")[0]))
                self._telemetry.record_queue_wait(delivery.job.caller, waited_ms / 1000)
            if entry.deadline_ms <= now_ms:
                self.fail(delivery, DeadlineExceededError(EXPIRED))
            else:
                deliveries.append(delivery)
        return deliveries

    def _read_payloads(self, entries: Sequence[StreamEntry]) -> dict[str, bytes | None]:
        """The jobs that are not in their entries, by the names of their payloads."""
        names = [entry.payload for entry in entries if entry.payload]
        if not names:
            return {}
        shard = self.shards[entries[0].shard]
        (replies,) = shard.execute(("MGET", *map(shard.keys.payload, names)))
        return dict(zip(names, replies, strict=True))

    def _abandon(self, entries: Sequence[StreamEntry]) -> None:
        """Leave entries to other workers, which get them when their leases expire."""
        self.leases.discard(entry.key for entry in entries)

    def _parse(self, entry: StreamEntry, data: bytes | None) -> Delivery | None:
        """A delivery; None for a job that cannot be read, which is deleted."""
        job, api, reply = "", "", b""
        if data is not None:
            try:
                unpacked = unpack_job(data)
                return Delivery(
                    *(entry.stream, entry.id, *unpacked),
                    *(entry.size, entry.cost, entry.payload),
                    caller=entry.caller,
                    inputs=entry.items,
                    shard=entry.shard,
                )
            except CorruptDataError as error:
                self._dead_letter(entry, data, DeadLetterReason.CORRUPT, error.message)
            except IncompatibleFormatError as error:
                reason = DeadLetterReason.INCOMPATIBLE_FORMAT
                self._dead_letter(entry, data, reason, error.message)
                job, api = unpack_address(data) or ("", "")
                failure = JobFailedError(error.message, code=error.code)
                reply = Reply(job, error=failure).pack()
        # Without data, it was deleted while it was pending, for example by a caller who gave up.
        self.leases.discard([entry.key])
        size = entry.size, entry.cost, entry.items
        unread = (entry.id, reply, *size, entry.caller, entry.payload, 0.0)
        shard = self.shards[entry.shard]
        shard.execute(answer_words(shard.keys, entry.stream, api, [unread]))
        return None

    def _reclaim(self) -> list[Delivery]:
        """A job whose lease expired, alone; one that was delivered too often is dead-lettered.

        A shard that refuses, such as one that takes no writes, is left alone.
        """
        if time.monotonic() - self._reclaimed < self._lease / 4:
            return []
        self._reader.turns.refresh()
        failed = set[int]()
        for encoder, name in [(one, name) for one in self._reader.turns for name in one.names]:
            if encoder.shard in failed:
                continue
            shard = self.shards[encoder.shard]
            try:
                deliveries = self._claim(shard, name)
            except QueueUnavailableError as error:
                failed.add(shard.number)
                # Even if there is no other shard, new jobs are read before the next attempt.
                self._reclaimed = time.monotonic()
                leave_shard(self.shards, shard, error)
                continue
            if deliveries:
                return deliveries
        self._reclaimed = time.monotonic()
        return []

    def _claim(self, shard: QueueShard, name: str) -> list[Delivery]:
        """The first job of a stream whose lease expired, unless it is dead-lettered."""
        key, idle_ms = shard.keys.stream(name), int(self._lease * 1000)
        claim = ("XAUTOCLAIM", key, GROUP, self.name, idle_ms, "0-0", "COUNT", 1)
        try:
            (seconds, micros), (_, entries, *_) = shard.execute(("TIME",), claim)
        except QueueUnavailableError as error:
            self._reader.clear_turns(error)
            return []
        if not entries:
            return []
        self._reader.set_clock(shard.number, int(seconds) * 1000 + int(micros) // 1000)
        entry = parse_entry(name, entries[0][0], entries[0][1], shard.number)
        ((*_, count),) = shard.execute(("XPENDING", key, GROUP, entry.id, entry.id, 1))[0] or (
            (1,),
        )
        deliveries = self._unpack([entry])
        self._metrics.redelivered_jobs.inc()
        with bind_callers(*(delivery.job.caller for delivery in deliveries)):
            if count <= MAX_DELIVERIES:
                log.warning("job redelivered", extra={"entry": entry.id, "deliveries": count})
                return deliveries
            failure = JobFailedError(
                f"{MAX_DELIVERIES} workers failed at this job; it was given up"
            )
            try:
                for delivery in deliveries:
                    data = delivery.job.pack(delivery.items)
                    self._dead_letter(entry, data, DeadLetterReason.DELIVERED_TOO_OFTEN)
                    self._on_dead_letter(delivery.job)
                    self.fail(delivery, failure)
            except UnavailableError:
                self._abandon([entry])
                raise
        return []

    def _dead_letter(
        self, entry: StreamEntry, data: bytes, reason: DeadLetterReason, detail: str = ""
    ) -> None:
        extra = {"entry": entry.id, "reason": reason, "detail": detail}
        log.error("job dead-lettered", extra=extra)
        dead_letters.add(self.shards[entry.shard], entry.stream, entry.id, data, reason)
        self._metrics.dead_lettered_jobs[reason].inc()


def _outcome(reply: Reply | None) -> str:
    if reply is None or reply.error is None:
        return "done"
    return "expired" if isinstance(reply.error, DeadlineExceededError) else "failed"
