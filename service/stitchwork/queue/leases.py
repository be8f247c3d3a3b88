"""What a worker holds on to while it makes progress, and lets go of when it hangs."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from stitchwork.errors import UnavailableError
from stitchwork.queue import streams
from stitchwork.redis.client import RedisClient

log = logging.getLogger(__name__)

# KEYS stream · ARGV worker, idle ms, entries
# What another worker has claimed meanwhile is left to it: asked and claimed in one step.
CLAIM: Final = """
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], 'workers', ARGV[i], ARGV[i], 1, ARGV[1]) > 0 then
    redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, ARGV[i], 'IDLE', ARGV[2], 'JUSTID')
  end
end
return 1
"""
LONG_IDLE_MS: Final = 24 * 3600 * 1000

Entry = tuple[str, str]
"""A stream and the id of an entry in it."""


class Leases:
    """Renews what is held, from a thread of its own, as long as the work makes progress.

    Args:
        server: The queue server.
        name: The worker's name in the consumer groups.
        lease: Seconds after which a job that is not renewed goes to another worker.
        hang: Seconds without progress after which the work is taken to hang.
        on_hang: Called, from the thread, once the work hangs and its jobs are let go of.
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
        self._guard = threading.Lock()
        self._held: set[Entry] = set()
        self._due = float("inf")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew nothing more."""
        self._stopping.set()
        self._thread.join()

    def add(self, entry: Entry) -> None:
        """Hold on to an entry that was just delivered."""
        with self._guard:
            self._held.add(entry)
        self.progress()

    def discard(self, entry: Entry) -> None:
        """Hold on to it no longer: it is answered, or left to others."""
        with self._guard:
            self._held.discard(entry)
        self.progress()

    def progress(self, allowance: float = 0.0) -> None:
        """Say that work goes on, and for how many seconds beyond the limit it may be silent."""
        with self._guard:
            self._due = time.monotonic() + self._hang + allowance

    def release(self) -> None:
        """Hand everything back at once, so that nobody has to wait for the lease to run out."""
        with self._guard:
            held, self._held = self._held, set()
        self._claim(held, LONG_IDLE_MS)

    def _run(self) -> None:
        while not self._stopping.wait(min(self._lease, self._hang) / 4):
            with self._guard:
                held = set(self._held)
                hangs = bool(held) and time.monotonic() > self._due
            try:
                if hangs:
                    log.critical(
                        "forward pass timed out", extra={"effect": "its jobs are released"}
                    )
                    self.release()
                else:
                    self._claim(held, 0)
            except UnavailableError as error:
                log.warning(
                    "server unavailable", extra={"server": "queue", "reason": error.message}
                )
            if hangs:
                self._on_hang()

    def _claim(self, held: set[Entry], idle_ms: int) -> None:
        by_stream: dict[str, list[str]] = {}
        for name, entry in held:
            by_stream.setdefault(name, []).append(entry)
        for name, entries in by_stream.items():
            self._server.run_script(
                CLAIM, (streams.stream_key(name),), self._name, idle_ms, *entries
            )
