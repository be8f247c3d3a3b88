"""What labelled samples taught about confidence: one calibration for each way to a head.

It belongs to versions: of the head, of both spaces, and to a bridge. Kept beside the head, it goes
with the version of the head, and is not looked at once a space has another.
"""

from collections import OrderedDict
from typing import Any, Final

from stitchwork.errors import NotReadyError, RegistryUnavailableError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.calibration import Calibration
from stitchwork.redis.client import Check, Command, RedisClient
from stitchwork.registry.repository import Repository
from stitchwork.resources import Head, Record, Space

MOST_KEPT: Final = 1024
"""Calibrations of one head; beyond this the first ones go."""
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

    def __init__(self, server: RedisClient, heads: Repository[Head], *, promise: int) -> None:
        self._server = server
        self._heads = heads
        self._promise = promise
        self._known: OrderedDict[tuple[str, str], Calibration | None] = OrderedDict()

    def get(
        self, source: Space, target: Space, head: Head, bridge: BridgeName
    ) -> Calibration | None:
        """What holds for these versions; while the registry is away, what held when last seen."""
        field = _field(source, target, head, bridge)
        try:
            (data,) = self._server.execute(("HGET", self._key(head), field))
        except RegistryUnavailableError:
            return self._known.get((head.id, field))
        kept = StoredCalibration.model_validate_json(data) if data else None
        found = Calibration(kept.slope, kept.offset) if kept else None
        self._known[head.id, field] = found
        self._known.move_to_end((head.id, field))
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return found

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
        kept = StoredCalibration(slope=fitted.slope, offset=fitted.offset, samples=samples)
        command: Command = (
            "HSET",
            self._key(head),
            _field(source, target, head, bridge),
            kept.model_dump_json().encode(),
        )
        commands = [*self._outdated(target, head), command]
        checks: list[Check] = [self._heads.unchanged(entry)]
        if entry.version != head.version or not self._server.commit(
            checks, commands, promise=self._promise
        ):
            raise NotReadyError(
                f"head {head.id} was declared anew while its confidence was calibrated"
            )

    def _outdated(self, target: Space, head: Head) -> list[Command]:
        """What drops those of other versions of the head or its space, and of many the first."""
        key, current = self._key(head), f"{head.version}:{target.version}:"
        with self._server.session() as client:
            fields: Any = client.hkeys(key)
        names = [field.decode() for field in fields]
        living = [name for name in names if name.startswith(current)]
        gone = [name for name in names if not name.startswith(current)]
        gone += living[: max(0, len(living) - MOST_KEPT + 1)]
        return [("HDEL", key, name) for name in gone]

    def _key(self, head: Head) -> str:
        return self._heads.key(head.id, "calibrations")


def _field(source: Space, target: Space, head: Head, bridge: BridgeName) -> str:
    return f"{head.version}:{target.version}:{source.version}:{bridge}"
