"""The records that this process has read last, for use without another look at the server."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic

from cachetools import LRUCache

from stitchwork.registry.change_log import Position
from stitchwork.registry.entries import R
from stitchwork.registry.read_lease import ReadLease

MAX_CACHED: Final = 10_000


@dataclass(slots=True)
class CachedRecord(Generic[R]):
    """A record as this process read it last.

    Attributes:
        record: The ready version.
        stored: The bytes it was read from.
        time: When it was last known to be current, by the monotonic clock; not used while it is.
        is_current: Whether no change to it has been applied since, so that it may be used under
            the lease.
    """

    record: R
    stored: bytes
    time: float
    is_current: bool = False


class RecordCache(Generic[R]):
    """The last records of one kind; the first ones are dropped when there are too many.

    Args:
        kind: The kind, by which changes name it.
        lease: The lease under which records may be used without a read.
    """

    def __init__(self, kind: str, lease: ReadLease) -> None:
        self._lease = lease
        # Not an LRUCache: a lookup on the path of every request must not write, nor take a lock.
        self._records: dict[str, CachedRecord[R]] = {}
        self._unreadable: LRUCache[str, tuple[bytes, bytes]] = LRUCache(MAX_CACHED)
        self._lock = threading.Lock()
        lease.attach(kind, self)

    def current(self, id_: str) -> R | None:
        """The current record of an id, if the lease is valid and it has been read under it."""
        cached = self._records.get(id_)
        return cached.record if cached is not None and cached.is_current else None

    def get(
        self, id_: str, *, stored: bytes | None = None, max_age: float | None = None
    ) -> R | None:
        """The last record of an id.

        Args:
            id_: The id.
            stored: If given, only a record that was read from these bytes.
            max_age: If given, only a record that was current in the last so many seconds.
        """
        cached = self._records.get(id_)
        if cached is None or stored not in (None, cached.stored):
            return None
        if max_age is not None:
            last = max(cached.time, self._lease.verified if cached.is_current else cached.time)
            if time.monotonic() - last > max_age:
                return None
        return cached.record

    def put(self, id_: str, record: R, stored: bytes, position: Position | None = None) -> None:
        """Cache a record that was just read.

        Args:
            id_: Its id.
            record: The record.
            stored: The bytes it was read from.
            position: The end of the log of changes when it was read; None if that is not known.
        """
        with self._lease.lock:
            previous = self._records.pop(id_, None)
            is_current = position is not None and self._lease.covers(position)
            if previous is not None and previous.stored == stored:
                is_current = is_current or previous.is_current
            if len(self._records) >= MAX_CACHED:
                del self._records[next(iter(self._records))]
            self._records[id_] = CachedRecord(record, stored, time.monotonic(), is_current)

    def remove(self, id_: str) -> None:
        """Drop the record of an id."""
        with self._lease.lock:
            self._records.pop(id_, None)

    def outdate(self, ids: Iterable[str] | None, verified: float) -> None:
        """Use the records of these ids, or of all, without a read no more; under the lock."""
        for id_ in self._records if ids is None else ids:
            cached = self._records.get(id_)
            if cached is not None and cached.is_current:
                cached.is_current, cached.time = False, max(cached.time, verified)

    def is_new_failure(self, id_: str, stored: tuple[bytes, bytes]) -> bool:
        """Whether these bytes could not be read for the first time, so that it is logged once."""
        with self._lock:
            is_new = self._unreadable.get(id_) != stored
            self._unreadable[id_] = stored
        return is_new
