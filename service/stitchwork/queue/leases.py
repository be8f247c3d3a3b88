"""The leases of a worker on its jobs: renewed while it makes progress, released when it hangs."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from stitchwork.background import PeriodicTask
from stitchwork.errors import UnavailableError
from stitchwork.queue import scripts
from stitchwork.queue.outages import log_outage
from stitchwork.queue.shards import QueueShard, answering

log = logging.getLogger(__name__)

RELEASED_IDLE_MS: Final = 24 * 3600 * 1000
"""An idle time beyond every lease."""

Entry = tuple[int, str, str]
"""The number of a shard, a stream in it, and the id of an entry there."""


class Leases:
    """Renews leases from its own thread, as long as the work makes progress.

    Args:
        shards: The shards of the queue.
        name: The worker's name in the consumer groups.
        lease: Seconds after which a job whose lease is not renewed goes to another worker.
        hang: Seconds without progress after which the work counts as hanging.
        on_hang: Called, from the thread, once the work hangs and its jobs are released.

    Attributes:
        task: Its background task.
    """

    def __init__(
        self,
        shards: Sequence[QueueShard],
        name: str,
        *,
        lease: float,
        hang: float,
        on_hang: Callable[[], None],
    ) -> None:
        self._shards = shards
        self._name = name
        self._lease = lease
        self._hang = hang
        self._on_hang = on_hang
        self._lock = threading.Lock()
        self._entries: set[Entry] = set()
        self._due = float("inf")
        self.task = PeriodicTask("leases", self._run, min(lease, hang) / 4)

    @property
    def is_overdue(self) -> bool:
        """Whether there are jobs, and no progress within the time allowed."""
        with self._lock:
            return bool(self._entries) and time.monotonic() > self._due

    def start(self) -> None:
        """Begin to renew."""
        self.task.start()

    def stop(self) -> None:
        """Renew nothing more."""
        self.task.stop()

    def add(self, entries: Iterable[Entry]) -> None:
        """Renew the leases on entries that were just delivered."""
        with self._lock:
            self._entries.update(entries)
        self.progress()

    def discard(self, entries: Iterable[Entry]) -> None:
        """Renew them no longer: they are answered, or left to other workers."""
        with self._lock:
            self._entries.difference_update(entries)
        self.progress()

    def progress(self, allowance: float = 0.0) -> None:
        """Report progress.

        Args:
            allowance: Seconds until the next report, in addition to `hang`.
        """
        with self._lock:
            self._due = time.monotonic() + self._hang + allowance

    def release(self) -> None:
        """End all leases at once, so that other workers need not wait until they expire."""
        with self._lock:
            entries, self._entries = self._entries, set()
        self._renew_all(entries, RELEASED_IDLE_MS)

    def _run(self) -> None:
        """Renew all leases, or release them if the work hangs."""
        with self._lock:
            entries = set(self._entries)
        hangs = self.is_overdue
        try:
            if hangs:
                log.critical("forward pass timed out", extra={"effect": "its jobs are released"})
                self.release()
            else:
                self._renew_all(entries, 0)
        except UnavailableError as error:
            log_outage(error)
        if hangs:
            self._on_hang()

    def _renew_all(self, entries: set[Entry], idle_ms: int) -> None:
        """Set the idle time of entries, on all shards that answer."""
        by_shard: dict[int, dict[str, list[str]]] = {}
        for number, name, entry in entries:
            by_shard.setdefault(number, {}).setdefault(name, []).append(entry)
        failure: UnavailableError | None = None
        for shard in answering(self._shards):
            try:
                self._renew(shard, by_shard.get(shard.number, {}), idle_ms)
            except UnavailableError as error:
                failure = error
        if failure is not None:
            raise failure

    def _renew(self, shard: QueueShard, streams: dict[str, list[str]], idle_ms: int) -> None:
        for name, ids in streams.items():
            keys = (shard.keys.stream(name),)
            shard.run_script(scripts.RENEW, keys, self._name, idle_ms, *ids)
