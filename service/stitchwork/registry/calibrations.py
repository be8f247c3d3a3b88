"""What labelled samples taught about confidence: one calibration for each way to a head.

It belongs to versions: of the head, of both spaces, and to a bridge. Kept beside the head, it goes
with the version of the head, and is not looked at once a space has another.
"""

import threading
from typing import Any, Final

from cachetools import LRUCache

from stitchwork.errors import NotReadyError, RegistryUnavailableError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.calibration import Calibration
from stitchwork.redis.client import Check, Command, RedisClient
from stitchwork.registry.repository import Repository
from stitchwork.resources import Head, Record, Space

MAX_CALIBRATIONS: Final = 1024
"""Calibrations of one head; if there are more, some are dropped."""
KNOWN: Final = 10_000


class StoredCalibration(Record):
    """One calibration as it is stored."""

    slope: float
    offset: float
    samples: int


class Calibrations:
    """Calibrations of heads on the registry server.

    Args:
        server: The registry server.
        heads: The table of the heads that they belong to.
        promise: Milliseconds a write may take to reach the append-only file; 0 does not ask.
    """

    def __init__(
        self, server: RedisClient, heads: Repository[Head], *, aof_timeout_ms: int
    ) -> None:
        self._server = server
        self._heads = heads
        self._aof_timeout_ms = aof_timeout_ms
        self._lock = threading.Lock()
        self._known: LRUCache[tuple[str, str], Calibration | None] = LRUCache(KNOWN)

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
        stored = StoredCalibration.model_validate_json(data) if data else None
        calibration = Calibration(stored.slope, stored.offset) if stored else None
        with self._lock:
            self._known[head.id, _field(source, target, head, bridge)] = calibration
        return calibration

    def last_known(
        self, source: Space, target: Space, head: Head, bridge: BridgeName
    ) -> Calibration | None:
        """The calibration of these versions when it was last read here."""
        with self._lock:
            return self._known.get((head.id, _field(source, target, head, bridge)))

    def put(
        self,
        source: Space,
        target: Space,
        head: Head,
        bridge: BridgeName,
        fitted: Calibration,
        samples: int,
    ) -> None:
        """Keep a calibration, in place of an earlier one of the same versions.

        Raises:
            NotReadyError: If the head is no longer the one that was measured.
            RegistryUnavailableError: If the registry is away, or would not promise the write.
        """
        (entry,) = self._heads.read(head.id)
        field = _field(source, target, head, bridge)
        stored = StoredCalibration(slope=fitted.slope, offset=fitted.offset, samples=samples)
        command: Command = (
            "HSET",
            self._key(head),
            field,
            stored.model_dump_json().encode(),
        )
        commands = [*self._outdated(target, head, field), command]
        checks: list[Check] = [self._heads.unchanged(entry)]
        if entry.version != head.version or not self._server.commit(
            checks, commands, aof_timeout_ms=self._aof_timeout_ms
        ):
            raise NotReadyError(
                f"head {head.id} was declared anew while its confidence was calibrated"
            )

    def _outdated(self, target: Space, head: Head, field: str) -> list[Command]:
        """Commands that drop calibrations of other versions, and some where there are too many.

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


def _field(source: Space, target: Space, head: Head, bridge: BridgeName) -> str:
    return f"{head.version}:{target.version}:{source.version}:{bridge}"
