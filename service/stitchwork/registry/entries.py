"""What stands under an id, what is to stand there, and what a caller demands of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

from stitchwork.errors import VersionMismatchError
from stitchwork.redis.client import Check, Command
from stitchwork.resources import AnchorSet, Arrays, Head, Registration, Space

R = TypeVar("R", AnchorSet, Space, Head)


class Outcome(Enum):
    """What a PUT did."""

    CREATED = "created"
    REPLACED = "replaced"
    SAME = "same"
    ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Condition:
    """What the caller demands of the version that stands: If-Match and If-None-Match."""

    match: frozenset[str] | None = None
    absent: bool = False

    def check(self, name: str, current: str | None) -> None:
        """Raise VersionMismatchError unless the current version (None: nothing stands) will do."""
        if self.absent and current is not None:
            raise VersionMismatchError(f"{name} exists already, at version {current}")
        if self.match is not None and (current is None or not self.match & {current, "*"}):
            stands = f"version {current} stands" if current else "nothing is registered"
            expected = " or ".join(sorted(self.match)) or "none"
            raise VersionMismatchError(f"{name}: version {expected} was expected, {stands}")


ANY: Final = Condition()


@dataclass(frozen=True, slots=True)
class Entry(Generic[R]):
    """All that stands under one id: what serves, and what is being prepared."""

    id: str
    record: R | None = None
    registration: Registration | None = None
    dependents: int = 0
    stored: tuple[bytes, bytes] = (b"", b"")

    @property
    def version(self) -> str | None:
        """The version that serves."""
        return self.record.version if self.record else None

    @property
    def tag(self) -> str | None:
        """The version that serves or, before there is one, that is being prepared."""
        return self.version or (self.registration.version if self.registration else None)

    @property
    def parents(self) -> set[str]:
        """What it depends on, as `kind:id`."""
        found = {part.parent for part in (self.record, self.registration) if part}
        return {parent for parent in found if parent}


@dataclass(frozen=True, slots=True)
class Write(Generic[R]):
    """What is to stand under an id, and what must still hold when it is written."""

    outcome: Outcome
    record: R | None = None
    registration: Registration | None = None
    arrays: Arrays | None = None
    inputs: Arrays | None = None
    checks: Sequence[Check] = ()
    commands: Sequence[Command] = ()


class Page(NamedTuple, Generic[R]):
    """Some entries in the order of their ids, and the cursor that continues after them."""

    entries: list[Entry[R]]
    cursor: str | None
