"""The state of one id in the registry, conditions on it, and changes to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

from stitchwork.errors import IncompatibleFormatError, VersionMismatchError
from stitchwork.redis.client import Check
from stitchwork.redis.commands import Command
from stitchwork.resources import AnchorSet, Arrays, Head, Registration, Space

R = TypeVar("R", AnchorSet, Space, Head)


class Outcome(Enum):
    """The effect of a PUT."""

    CREATED = "created"
    REPLACED = "replaced"
    SAME = "same"
    ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Condition:
    """The version that the caller expects: If-Match and If-None-Match.

    Attributes:
        match: Versions of which one must be current; `*` stands for any.
        absent: Whether nothing may be registered.
    """

    match: frozenset[str] | None = None
    absent: bool = False

    def check(self, name: str, version: str | None) -> None:
        """Raise unless the condition holds.

        Args:
            name: What it is, for the error.
            version: The current version; None if nothing is registered.

        Raises:
            VersionMismatchError: If it does not hold.
        """
        if self.absent and version is not None:
            raise VersionMismatchError(f"{name} exists already, at version {version}")
        if self.match is not None and (version is None or not self.match & {version, "*"}):
            current = f"version {version} stands" if version else "nothing is registered"
            expected = " or ".join(sorted(self.match)) or "none"
            raise VersionMismatchError(f"{name}: version {expected} was expected, {current}")


ANY: Final = Condition()


@dataclass(frozen=True, slots=True)
class Entry(Generic[R]):
    """The state of one id: the version that is ready, and the one that is being registered.

    Attributes:
        id: The id.
        record: The version that is ready.
        registration: The version that is pending, or whose registration failed.
        dependents: How many resources depend on it.
        stored: The bytes of both; empty if there is none.
        error: Why one of them cannot be read.
        has_wrong_type: Whether that is because a key holds another type than this service stores.
        notes: What the change that led to this state did beside it.
    """

    id: str
    record: R | None = None
    registration: Registration | None = None
    dependents: int = 0
    stored: tuple[bytes, bytes] = (b"", b"")
    error: IncompatibleFormatError | None = None
    notes: Sequence[str] = ()
    has_wrong_type: bool = False

    @property
    def version(self) -> str | None:
        """The version that is ready."""
        return self.record.version if self.record else None

    @property
    def tag(self) -> str | None:
        """The version that is ready or, before there is one, that is being registered."""
        return self.version or (self.registration.version if self.registration else None)

    @property
    def parents(self) -> set[str]:
        """What it depends on, as `kind:id`."""
        parents = {part.parent for part in (self.record, self.registration) if part}
        return {parent for parent in parents if parent}


@dataclass(frozen=True, slots=True)
class Write(Generic[R]):
    """A change to one id.

    Attributes:
        outcome: The effect.
        record: The version that is ready afterwards.
        registration: The registration afterwards.
        arrays: Arrays of the record, if they are new.
        inputs: Inputs of the registration, if they are new.
        checks: What must still hold when it is written.
        commands: Further writes of the same commit.
        notes: What those commands do, in sentences.
    """

    outcome: Outcome
    record: R | None = None
    registration: Registration | None = None
    arrays: Arrays | None = None
    inputs: Arrays | None = None
    checks: Sequence[Check] = ()
    commands: Sequence[Command] = ()
    notes: Sequence[str] = ()

    def entry_after(self, before: Entry[R]) -> Entry[R]:
        """The state after this change."""
        return Entry(before.id, self.record, self.registration, before.dependents, notes=self.notes)


class Page(NamedTuple, Generic[R]):
    """A page of a list.

    Attributes:
        entries: The entries, in the order of their ids.
        cursor: The cursor of the next page; None on the last one.
        unreadable: Ids of entries that cannot be read, see `Entry.error`.
    """

    entries: list[Entry[R]]
    cursor: str | None
    unreadable: list[str]
