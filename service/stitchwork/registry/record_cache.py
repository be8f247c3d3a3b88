"""The records that this process has read last, for use without another look at the server."""

import threading
import time
from dataclasses import dataclass
from typing import Final, Generic

from cachetools import LRUCache

from stitchwork.registry.entries import R

MAX_CACHED: Final = 10_000


@dataclass(frozen=True, slots=True)
class CachedRecord(Generic[R]):
    """A record as this process read it last.

    Attributes:
        record: The ready version.
        stored: The bytes it was read from.
        time: When, by the monotonic clock.
    """

    record: R
    stored: bytes
    time: float


class RecordCache(Generic[R]):
    """The last records of one kind, the least recently used of them dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: LRUCache[str, CachedRecord[R]] = LRUCache(MAX_CACHED)
        self._unreadable: LRUCache[str, tuple[bytes, bytes]] = LRUCache(MAX_CACHED)

    def get(
        self, id_: str, *, stored: bytes | None = None, max_age: float | None = None
    ) -> R | None:
        """The last record of an id.

        Args:
            id_: The id.
            stored: If given, only a record that was read from these bytes.
            max_age: If given, only a record that was read in the last so many seconds.
        """
        with self._lock:
            cached = self._records.get(id_)
        if cached is None or stored not in (None, cached.stored):
            return None
        if max_age is not None and time.monotonic() - cached.time > max_age:
            return None
        return cached.record

    def put(self, id_: str, record: R, stored: bytes) -> None:
        """Cache a record that was just read from these bytes."""
        with self._lock:
            self._records[id_] = CachedRecord(record, stored, time.monotonic())

    def remove(self, id_: str) -> None:
        """Drop the record of an id."""
        with self._lock:
            self._records.pop(id_, None)

    def is_new_failure(self, id_: str, stored: tuple[bytes, bytes]) -> bool:
        """Whether these bytes could not be read for the first time, so that it is logged once."""
        with self._lock:
            is_new = self._unreadable.get(id_) != stored
            self._unreadable[id_] = stored
        return is_new
