"""The records of one kind: ids, ready versions, registrations, arrays, dependents.

Keys, all under `stitchwork:`, for a kind such as `space`:

    space                       sorted set of ids, for paging
    space:{id}                  hash: `record` (the ready version), `draft` (the registration)
    space:{id}:arrays:{version} hash of blocks: the arrays of one version; those of a replaced one
                                stay until its last user has ended
    space:{id}:inputs:{version} hash of blocks: the inputs of a registration
    space:{id}:parts:{version}  hash: the embeddings of a registration so far
    space:{id}:dependents       set of `kind:id` that would break without it
    head:{id}:calibrations      hash: the calibrations of the ready version
    drafts                      sorted set of registrations, `kind:id`, by their last progress

`draft` and `drafts` are the names of release 0.1.0.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, cast

from stitchwork.errors import (
    ConflictError,
    IncompatibleFormatError,
    RegistryUnavailableError,
    ResourceInUseError,
    UnknownResourceError,
)
from stitchwork.ids import is_id
from stitchwork.redis import chunked_arrays
from stitchwork.redis.client import Check
from stitchwork.redis.commands import Command
from stitchwork.registry.change_log import ChangeLog, Position
from stitchwork.registry.changes import REPLACED_SECONDS, changes, unreadable_removal, uploads
from stitchwork.registry.entries import ANY, Condition, Entry, Outcome, Page, R, Write
from stitchwork.registry.read_lease import ReadLease
from stitchwork.registry.record_cache import RecordCache
from stitchwork.registry.stored_records import dump_record, load_record
from stitchwork.registry.transitions import not_ready_error
from stitchwork.registry.unknown_ids import unknown_id
from stitchwork.resources import Arrays, Registration

log = logging.getLogger(__name__)

ATTEMPTS: Final = 20


class Repository(Generic[R]):
    """The records of one kind; `registration_parts` has the embeddings of a registration.

    Args:
        changes: The log of the registry's changes.
        kind: Singular name, `anchor-set`, `space` or `head`.
        model: The record's class.
        lease: The lease under which records may be used without a read.
        stale_seconds: How long the last known records serve while the server is unavailable.
        on_delete: A further command of the commit that deletes an id.
    """

    def __init__(
        self,
        changes: ChangeLog,
        kind: str,
        model: type[R],
        lease: ReadLease,
        *,
        stale_seconds: float,
        on_delete: Callable[[str], Command] | None = None,
    ) -> None:
        self.kind, self.noun = kind, kind.replace("-", " ")
        self._changes = changes
        self.server = changes.server
        self._model: type[R] = model
        self._stale_seconds, self._on_delete = stale_seconds, on_delete
        self._cache: RecordCache[R] = RecordCache(kind, lease)

    def key(self, *parts: str) -> str:
        """The key of an id, or of something stored beside it."""
        return self.server.key(self.kind, *parts)

    def change(self, id_: str) -> str:
        """The name of a change of an id in the log."""
        return f"{self.kind}:{id_}"

    def current(self, id_: str) -> R | None:
        """The ready version in memory, if the lease is valid and it was read under it."""
        return self._cache.current(id_)

    def read(self, *ids: str) -> list[Entry[R]]:
        """The entries of these ids, in one round trip; an unknown id gives an empty entry."""
        counts = (("SCARD", self.key(id_, "dependents")) for id_ in ids)
        replies = self.server.execute(*self._reads(ids), *counts, allow_wrong_type=True)
        stored, dependents = replies[: len(ids)], replies[len(ids) :]
        return list(map(self._entry, ids, stored, dependents))

    def readable(self, id_: str) -> Entry[R]:
        """The entry of this id, which is empty if nothing is registered.

        Raises:
            IncompatibleFormatError: If it cannot be read.
        """
        (entry,) = self.read(id_)
        if entry.error:
            raise entry.error
        return entry

    def get(self, id_: str) -> Entry[R]:
        """The entry of this id.

        Raises:
            UnknownResourceError: If nothing is registered under it.
            IncompatibleFormatError: If it cannot be read.
        """
        entry = self.readable(id_)
        if entry.record is None and entry.registration is None:
            raise unknown_id(self.server, self.key(), self.noun, id_)
        return entry

    def ready(self, *ids: str) -> tuple[list[R], bool]:
        """The ready versions, read together, and whether they are only the last known.

        Raises:
            UnknownResourceError: If nothing is registered under an id.
            NotReadyError: If an id has no ready version yet.
            IncompatibleFormatError: If one of them cannot be read.
            RegistryUnavailableError: If the registry is unavailable and the last known versions
                are too old.
        """
        try:
            replies = self.server.execute(*self._reads(ids))
        except RegistryUnavailableError:
            return [self.last_known(id_) for id_ in ids], True
        return [self.parse(id_, stored) for id_, stored in zip(ids, replies, strict=True)], False

    def parse(self, id_: str, stored: list[bytes | None], position: Position | None = None) -> R:
        """The ready version, from what the server stores under its id.

        Args:
            id_: The id.
            stored: The record and the registration.
            position: The end of the log of changes when they were read; None if that is not known.

        Raises:
            UnknownResourceError: If nothing is registered under it.
            NotReadyError: If it has no ready version yet.
            IncompatibleFormatError: If it cannot be read.
        """
        return self.ready_record(self._entry(id_, stored, 0), position)

    def ready_record(self, entry: Entry[R], position: Position | None = None) -> R:
        """The ready version of an entry that was just read.

        Args:
            entry: The entry.
            position: The end of the log of changes when it was read; None if that is not known.

        Raises:
            UnknownResourceError: If nothing is registered under its id.
            NotReadyError: If it has no ready version yet.
            IncompatibleFormatError: If it cannot be read.
        """
        record, registration = entry.record, entry.registration
        if record is None:
            self._cache.remove(entry.id)
            if entry.error:
                raise entry.error
            if registration is None:
                raise unknown_id(self.server, self.key(), self.noun, entry.id)
            raise not_ready_error(registration)
        self._cache.put(entry.id, record, entry.stored[0], position)
        return record

    def last(self, id_: str) -> R | None:
        """The record that this process read last, without a call; it may be out of date."""
        return self._cache.get(id_)

    def last_known(self, id_: str) -> R:
        """The record that this process read last, for use while the registry is unavailable.

        Raises:
            RegistryUnavailableError: If it was not used here, or too long ago.
        """
        record = self._cache.get(id_, max_age=self._stale_seconds)
        if record is None:
            raise RegistryUnavailableError(
                f"the registry is unavailable and {self.noun} {id_} was not used here in the last "
                f"{self._stale_seconds:g} seconds"
            )
        return record

    def page(self, limit: int, cursor: str | None = None) -> Page[R]:
        """Up to `limit` entries with ids after the cursor.

        Entries that cannot be read are left out, listed beside them and logged.
        """
        start = f"({cursor}" if cursor else "-"
        with self.server.session() as client:
            reply = client.zrangebylex(self.key(), start, "+", start=0, num=limit + 1)
        # An id that is not valid is read as one that is not, and named as unreadable.
        ids = [raw.decode(errors="backslashreplace") for raw in cast(list[bytes], reply)]
        entries = self.read(*ids[:limit]) if ids else []
        next_cursor = ids[limit - 1] if len(ids) > limit else None
        unreadable = [entry.id for entry in entries if entry.error or not is_id(entry.id)]
        present = [entry for entry in entries if not entry.error and entry.tag]
        return Page(present, next_cursor, unreadable)

    def count(self) -> int:
        """The number of ids."""
        return int(self.server.execute(("ZCARD", self.key()))[0])

    def arrays(self, id_: str, version: str) -> Arrays:
        """The arrays of one version.

        Raises:
            UnknownResourceError: If that version was never stored, or was replaced long ago.
        """
        return self._fetch(id_, "arrays", version)

    def inputs(self, id_: str, version: str) -> Arrays:
        """The inputs of a registration.

        Raises:
            UnknownResourceError: If it has none.
        """
        return self._fetch(id_, "inputs", version)

    def dependents(self, id_: str) -> list[str]:
        """What depends on it, as `kind:id`, sorted."""
        (members,) = self.server.execute(("SMEMBERS", self.key(id_, "dependents")))
        return sorted(raw.decode() for raw in members)

    def creation(self, record: R) -> list[Command]:
        """Commands that create a record without arrays, as part of the commit of another."""
        return [
            ("ZADD", self.key(), 0, record.id),
            ("HSET", self.key(record.id), "record", dump_record(record)),
        ]

    def unchanged(self, entry: Entry[R]) -> Check:
        """A check that holds as long as the record of this entry is the ready one."""
        return Check(("HGET", self.key(entry.id), "record"), entry.stored[0])

    def put(
        self, id_: str, decide: Callable[[Entry[R]], Write[R]], condition: Condition = ANY
    ) -> tuple[Outcome, Entry[R]]:
        """Change the state of an id atomically.

        Args:
            id_: The id.
            decide: Returns the change to the current state, or raises. It is called again if
                something changed meanwhile, and so must be free of effects.
            condition: The version that the caller expects.

        Returns:
            The effect, and the state after it. Once this returns no process uses the old version
            and, where the server confirms it, no loss of power brings it back.
        """
        for _ in range(ATTEMPTS):
            before: Entry[R] = self.readable(id_)
            condition.check(f"{self.noun} {id_}", before.tag)
            write: Write[R] = decide(before)
            checks = [*self._unchanged_entry(before), *write.checks]
            commands = [*write.commands, *changes(self.server, self.kind, before, write)]
            for key, arrays in uploads(self.key(id_), write).items():
                checks.append(chunked_arrays.write(self.server, key, arrays, REPLACED_SECONDS))
                commands.append(("PERSIST", key))
            after = dump_record(write.record) if write.record else b""
            changed = [self.change(id_)] if after != before.stored[0] else []
            # A write that changes nothing is still written, so that it is as durable.
            if self._changes.commit(checks, commands, changed):
                return write.outcome, write.entry_after(before)
        raise ConflictError(f"{self.noun} {id_} kept changing while it was written; try again")

    def delete(self, id_: str, condition: Condition = ANY) -> None:
        """Delete an id; its arrays stay readable until work in progress has long ended.

        What cannot be read is deleted with everything that is stored under its id.

        Raises:
            UnknownResourceError: If nothing is registered under it.
            ResourceInUseError: If something depends on it.
        """
        for _ in range(ATTEMPTS):
            before: Entry[R] = self.read(id_)[0]
            if before.tag is None and before.error is None:
                raise unknown_id(self.server, self.key(), self.noun, id_)
            condition.check(f"{self.noun} {id_}", before.tag or "unreadable")
            if before.dependents:
                names = ", ".join(self.dependents(id_)[:10])
                raise ResourceInUseError(
                    f"{self.noun} {id_} is needed by {before.dependents} others: {names}"
                )
            removal: Write[R] = Write(Outcome.SAME)
            commands: list[Command] = [
                ("DEL", self.key(id_)),
                *(unreadable_removal(self.server, self.kind, id_) if before.error else ()),
                *changes(self.server, self.kind, before, removal),
                ("ZREM", self.key(), id_),
                *([self._on_delete(id_)] if self._on_delete else []),
            ]
            checks = self._unchanged_entry(before)
            if self._changes.commit(checks, commands, [self.change(id_)]):
                self._cache.remove(id_)
                return
        raise ConflictError(f"{self.noun} {id_} kept changing while it was deleted; try again")

    def _reads(self, ids: Sequence[str]) -> list[Command]:
        return [("HMGET", self.key(id_), "record", "draft") for id_ in ids]

    def _entry(self, id_: str, stored: Any, dependents: Any) -> Entry[R]:
        """The entry of an id, from the replies of the server, which may be errors."""
        name = f"{self.noun} {id_}"
        record = registration = error = None
        refusal = next((part for part in (stored, dependents) if isinstance(part, Exception)), None)
        if refusal:
            stored, dependents = (str(refusal).encode(), None), 0
        data, pending = (field or b"" for field in stored)
        try:
            if refusal:
                raise IncompatibleFormatError(f"what is stored of {name} cannot be read: {refusal}")
            # Parsed again only if the bytes have changed.
            record = self._cache.get(id_, stored=data)
            if data and record is None:
                record = load_record(self._model, data, name)
            if pending:
                registration = load_record(Registration, pending, name)
        except IncompatibleFormatError as failure:
            error = failure
            if self._cache.is_new_failure(id_, (data, pending)):
                log.error("record unreadable", extra={"record": name, "reason": error.message})
        return Entry(
            *(id_, record, registration, dependents, (data, pending), error),
            has_wrong_type=refusal is not None,
        )

    def _unchanged_entry(self, entry: Entry[R]) -> list[Check]:
        if entry.has_wrong_type:
            return []
        return [
            self.unchanged(entry),
            Check(("HGET", self.key(entry.id), "draft"), entry.stored[1]),
            Check(("SCARD", self.key(entry.id, "dependents")), entry.dependents),
        ]

    def _fetch(self, id_: str, name: str, version: str) -> Arrays:
        if (arrays := chunked_arrays.read(self.server, self.key(id_, name, version))) is None:
            raise UnknownResourceError(f"{self.noun} {id_} has no {name} of version {version}")
        return arrays
