"""Calibrations of confidence on labelled samples: one for each way from a space to a head.

A calibration belongs to a version of the head, versions of both spaces, and a bridge. It is stored
beside the head, is deleted with the version of the head, and is not read once a space is replaced.
"""

import logging
import threading
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias

from cachetools import LRUCache

from stitchwork.errors import IncompatibleFormatError, NotReadyError, RegistryUnavailableError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.calibration import Calibration
from stitchwork.redis.client import Check
from stitchwork.redis.commands import Command
from stitchwork.registry.change_log import ChangeLog, Position
from stitchwork.registry.read_lease import ReadLease
from stitchwork.registry.repository import Repository
from stitchwork.registry.stored_records import dump_record, load_record
from stitchwork.resources import Head, Record, Space

log = logging.getLogger(__name__)

MAX_CALIBRATIONS: Final = 1024
MAX_CACHED: Final = 10_000

Versions: TypeAlias = tuple[str, str, str, BridgeName]
"""Versions of the head, the target and the source, and the bridge."""


class StoredCalibration(Record):
    """One calibration as it is stored."""

    slope: float
    offset: float
    samples: int


class CurrentCalibration(NamedTuple):
    """What is known to be stored for the versions of a request; None if nothing is."""

    calibration: Calibration | None


class Calibrations:
    """Calibrations of heads on the registry server.

    Args:
        changes: The log of the registry's changes.
        heads: The repository of the heads.
        lease: The lease under which they may be used without a read.
        max_per_head: Calibrations of one head; if there are more, some are dropped.
    """

    def __init__(
        self,
        changes: ChangeLog,
        heads: Repository[Head],
        lease: ReadLease,
        *,
        max_per_head: int = MAX_CALIBRATIONS,
    ) -> None:
        self._changes = changes
        self._server = changes.server
        self._heads = heads
        self._lease = lease
        self._max_per_head = max_per_head
        self._lock = threading.Lock()
        self._cached: LRUCache[tuple[str, str], Calibration | None] = LRUCache(MAX_CACHED)
        # By head, since a change of a head or of its calibrations names the head.
        self._current: dict[str, dict[Versions, CurrentCalibration]] = {}
        self._size = 0
        lease.attach(heads.kind, self)

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

    def current(
        self, source: Space, target: Space, head: Head, bridge: BridgeName
    ) -> CurrentCalibration | None:
        """What is stored for these versions, if the lease is valid and it was read under it."""
        versions = (head.version, target.version, source.version, bridge)
        return self._current.get(head.id, {}).get(versions)

    def parse(
        self,
        source: Space,
        target: Space,
        head: Head,
        bridge: BridgeName,
        data: bytes | None,
        position: Position | None = None,
    ) -> Calibration | None:
        """The calibration of these versions, from what the server stores for them.

        Args:
            source: The space of the inputs.
            target: The head's space.
            head: The head.
            bridge: The bridge.
            data: What is stored; None for nothing.
            position: The end of the log of changes when it was read; None if that is not known.
        """
        calibration = _load(data, head.id) if data else None
        with self._lock:
            self._cached[head.id, _field(source, target, head, bridge)] = calibration
        with self._lease.lock:
            if position is not None and self._lease.covers(position):
                if self._size >= MAX_CACHED:
                    self._current, self._size = {}, 0
                versions = (head.version, target.version, source.version, bridge)
                self._current.setdefault(head.id, {})[versions] = CurrentCalibration(calibration)
                self._size += 1
        return calibration

    def outdate(self, ids: Iterable[str] | None, verified: float) -> None:
        """Use the calibrations of these heads, or of all, without a read no more."""
        for head in list(self._current) if ids is None else ids:
            self._size -= len(self._current.pop(head, ()))

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
        changed = [self._heads.change(head.id)]
        if entry.version != head.version or not self._changes.commit(checks, commands, changed):
            raise NotReadyError(
                f"head {head.id} was declared anew while its confidence was calibrated"
            )

    def _outdated(self, target: Space, head: Head, field: str) -> list[Command]:
        """Commands that drop calibrations of other versions, and some if there are too many.

        The server keeps no order of them, so any may be dropped but the one that is replaced.
        """
        key, current = self._key(head), f"{head.version}:{target.version}:".encode()
        with self._server.session() as client:
            names: Any = client.hkeys(key)
        living = [name for name in names if name.startswith(current) and name != field.encode()]
        outdated = [name for name in names if not name.startswith(current)]
        outdated += living[: max(0, len(living) - self._max_per_head + 1)]
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
