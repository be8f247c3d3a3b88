"""Work that a process repeats in the background, and whether it makes progress."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

STALLED_SECONDS: Final = 30.0
"""Time without a completed run after which a task counts as stalled: servers have timeouts of a few
seconds."""


class PeriodicTask:
    """Calls a function again and again, from its own thread, until it is stopped.

    An error of the function is logged, and the next call is made as if there had been none.

    Args:
        name: Name of the task in logs and in readiness.
        function: What is called.
        seconds: Time between two calls.
        stalled_seconds: Time without a completed call after which the task is stalled.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[], object],
        seconds: float,
        *,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        self.name = name
        self._function = function
        self._seconds = seconds
        self._stalled_seconds = stalled_seconds
        self._completed_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first call comes after one interval."""
        self._completed_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Make no more calls, and wait for the one in progress."""
        self._stopping.set()
        self._thread.join()

    @property
    def is_stalled(self) -> bool:
        """Whether it was started, and no call was completed for too long."""
        completed_at = self._completed_at
        return completed_at is not None and (
            time.monotonic() - completed_at > self._stalled_seconds + self._seconds
        )

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                self._function()
            except Exception as error:
                log.error("background task failed", exc_info=error, extra={"task": self.name})
            else:
                self._completed_at = time.monotonic()
