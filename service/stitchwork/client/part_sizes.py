"""Sizes of the parts of a large call, by the time that the service takes for them."""

import threading
from typing import Final

FIRST_ITEMS: Final = 16
"""Raw inputs of the first part: those of a slow encoder must fit the timeout too."""
MAX_ITEMS: Final = 256
"""Raw inputs of a part, at most."""
TARGET_SECONDS: Final = 6.0
"""Time in which the service is to answer a part behind all others that are in progress. It is less
than the wait that a service accepts by default, and enough for a worker to go on meanwhile."""
TIMEOUT_SHARE: Final = 0.25
"""The same as a share of the timeout, so that no part reaches it if the service becomes slower."""
MAX_GROWTH: Final = 4


class PartSizes:
    """Chooses the size of the next part, from the times of those before it.

    Threads may share it.

    Args:
        max_items: Maximum number of raw inputs in a part.
        max_parts: Parts in progress at the same time.
        timeout: Seconds until the deadline of a part.
    """

    def __init__(self, max_items: int, max_parts: int, timeout: float) -> None:
        self._max_items = min(MAX_ITEMS, max_items)
        self._part_seconds = min(TARGET_SECONDS, TIMEOUT_SHARE * timeout) / max_parts
        self._size = min(FIRST_ITEMS, self._max_items)
        self._in_progress = 0
        self._seconds_per_item = 0.0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """The number of raw inputs of the next part."""
        return self._size

    def begin(self, items: int) -> int:
        """A part is sent; returns the inputs of all parts that are in progress, with its own."""
        with self._lock:
            self._in_progress += items
            return self._in_progress

    def end(self, items: int) -> None:
        """A part is no longer in progress."""
        with self._lock:
            self._in_progress -= items

    def record(self, in_progress: int, seconds: float) -> None:
        """Take the time of a part.

        Args:
            in_progress: The inputs in progress when it was sent: the service did these meanwhile.
            seconds: The time of its last attempt.
        """
        measured = seconds / in_progress
        with self._lock:
            if measured > self._seconds_per_item:
                self._seconds_per_item = measured
            else:
                self._seconds_per_item = (self._seconds_per_item + measured) / 2
            size = int(self._part_seconds / max(self._seconds_per_item, 1e-9))
            self._size = max(1, min(size, self._max_items, MAX_GROWTH * self._size))

    def limit(self, size: int) -> None:
        """Send no larger parts than this until times say that they fit."""
        with self._lock:
            self._size = max(1, min(self._size, size))
