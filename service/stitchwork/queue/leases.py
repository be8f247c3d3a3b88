"""The leases of a worker on its jobs: renewed while it makes progress, released when it hangs."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from stitchwork.background import PeriodicTask
from stitchwork.errors import UnavailableError
from stitchwork.queue import scripts
from stitchwork.queue.keys import SHARD
from stitchwork.queue.outages import log_outage
from stitchwork.redis.client import RedisClient

log = logging.getLogger(__name__)

RELEASED_IDLE_MS: Final = 24 * 3600 * 1000
"""An idle time beyond every lease."""

Entry = tuple[str, str]
"""A stream and the id of an entry in it."""


class Leases:
    """Renews leases from its own thread, as long as the work makes progress.

    Args:
        server: The queue server.
        name: The worker's name in the consumer groups.
        lease: Seconds after which a job whose lease is not renewed goes to another worker.
        hang: Seconds without progress after which the work counts as hanging.
        on_hang: Called, from the thread, once the work hangs and its jobs are released.

    Attributes:
        task: Its background task.
    """

    def __init__(
        self,
        server: RedisClient,
        name: str,
        *,
        lease: float,
        hang: float,
        on_hang: Callable[[], None],
    ) -> None:
        self._server = server
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
        self._renew(entries, RELEASED_IDLE_MS)

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
                self._renew(entries, 0)
        except UnavailableError as error:
            log_outage(error)
        if hangs:
            self._on_hang()

    def _renew(self, entries: set[Entry], idle_ms: int) -> None:
        by_stream: dict[str, list[str]] = {}
        for name, entry in entries:
            by_stream.setdefault(name, []).append(entry)
        for name, ids in by_stream.items():
            keys = (SHARD.stream(name),)
            self._server.run_script(scripts.RENEW, keys, self._name, idle_ms, *ids)
