"""Calibrations of confidence on labelled samples: one for each way from a space to a head.

A calibration belongs to a version of the head, versions of both spaces, and a bridge. It is stored
beside the head, is deleted with the version of the head, and is not read once a space is replaced.
"""

import logging
import threading
from typing import Any, Final

from cachetools import LRUCache

from stitchwork.errors import IncompatibleFormatError, NotReadyError, RegistryUnavailableError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.calibration import Calibration
from stitchwork.redis.client import Check, Command, RedisClient
from stitchwork.registry.repository import Repository
from stitchwork.registry.stored_records import dump_record, load_record
from stitchwork.resources import Head, Record, Space

log = logging.getLogger(__name__)

MAX_CALIBRATIONS: Final = 1024
"""Calibrations of one head; if there are more, some are dropped."""
MAX_CACHED: Final = 10_000


class StoredCalibration(Record):
    """One calibration as it is stored."""

    slope: float
    offset: float
    samples: int


class Calibrations:
    """Calibrations of heads on the registry server.

    Args:
        server: The registry server.
        heads: The repository of the heads.
        aof_timeout_ms: Milliseconds to wait for the append-only file; 0 does not wait.
    """

    def __init__(
        self, server: RedisClient, heads: Repository[Head], *, aof_timeout_ms: int
    ) -> None:
        self._server = server
        self._heads = heads
        self._aof_timeout_ms = aof_timeout_ms
        self._lock = threading.Lock()
        self._cached: LRUCache[tuple[str, str], Calibration | None] = LRUCache(MAX_CACHED)

    def get(
        self, source: Space, target: Space, head: Head, bridge: BridgeName
    ) -> Calibration | None:
        """The calibration of these versions; the last known while the registry is unavailable."""
        try:
            (data,) = self._server.execute(
                ("HGET", self._key(head), _field(source, target, head, bridge))
            )
        except RegistryUnavailableError:
            return self.last_known(source, target, head, bridge)
        return self.parse(source, target, head, bridge, data)

    def parse(
        self, source: Space, target: Space, head: Head, bridge: BridgeName, data: bytes | None
    ) -> Calibration | None:
        """The calibration of these versions, from what the server stores for them."""
        calibration = _load(data, head.id) if data else None
        with self._lock:
            self._cached[head.id, _field(source, target, head, bridge)] = calibration
        return calibration

    def last_known(
        self, source: Space, target: Space, head: Head, bridge: BridgeName
    ) -> Calibration | None:
        """The calibration of these versions when it was last read here."""
        with self._lock:
            return self._cached.get((head.id, _field(source, target, head, bridge)))

    def put(
        self,
        source: Space,
        target: Space,
        head: Head,
        bridge: BridgeName,
        calibration: Calibration,
        samples: int,
    ) -> None:
        """Store a calibration, in place of an earlier one of the same versions.

        Raises:
            NotReadyError: If the head is no longer the one that was measured.
            RegistryUnavailableError: If the registry is unavailable, or did not confirm the write.
        """
        (entry,) = self._heads.read(head.id)
        field = _field(source, target, head, bridge)
        stored = StoredCalibration(
            slope=calibration.slope, offset=calibration.offset, samples=samples
        )
        command: Command = ("HSET", self._key(head), field, dump_record(stored))
        commands = [*self._outdated(target, head, field), command]
        checks: list[Check] = [self._heads.unchanged(entry)]
        if entry.version != head.version or not self._server.commit(
            checks, commands, aof_timeout_ms=self._aof_timeout_ms
        ):
            raise NotReadyError(
                f"head {head.id} was declared anew while its confidence was calibrated"
            )

    def _outdated(self, target: Space, head: Head, field: str) -> list[Command]:
        """Commands that drop calibrations of other versions, and some if there are too many.

        The server keeps no order of them, so any may be dropped but the one that is replaced.
        """
        key, current = self._key(head), f"{head.version}:{target.version}:"
        with self._server.session() as client:
            fields: Any = client.hkeys(key)
        names = [name.decode() for name in fields]
        living = [name for name in names if name.startswith(current) and name != field]
        outdated = [name for name in names if not name.startswith(current)]
        outdated += living[: max(0, len(living) - MAX_CALIBRATIONS + 1)]
        return [("HDEL", key, name) for name in outdated]

    def _key(self, head: Head) -> str:
        return self._heads.key(head.id, "calibrations")


def _load(data: bytes, head: str) -> Calibration | None:
    """A stored calibration; None for one that cannot be read, as if there were none."""
    try:
        stored = load_record(StoredCalibration, data, f"a calibration of head {head}")
    except IncompatibleFormatError as error:
        log.error("calibration unreadable", extra={"head": head, "reason": error.message})
        return None
    return Calibration(stored.slope, stored.offset)


def _field(source: Space, target: Space, head: Head, bridge: BridgeName) -> str:
    return f"{head.version}:{target.version}:{source.version}:{bridge}"
