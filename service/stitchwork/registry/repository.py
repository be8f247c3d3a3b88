"""One kind of record in the registry: ids, what serves, what is being prepared, arrays, dependents.

Keys, all under `stitchwork:`, for a kind such as `space`:

    space                       sorted set of ids, for paging
    space:{id}                  hash: `record` (what serves), `registration` (a registration)
    space:{id}:arrays:{version} hash of blocks: the arrays of one version; a replaced one outlives
                                its last user
    space:{id}:inputs:{version} hash of blocks: what a draft works on
    space:{id}:parts:{version}  hash: what a draft has embedded so far
    space:{id}:dependents       set of `kind:id` that would break without it
    head:{id}:calibrations      hash: what labelled samples taught about the version that serves
    drafts                      sorted set of `kind:id` by the time of their last progress
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, cast

from stitchwork.errors import (
    ConflictError,
    ErrorCode,
    NotReadyError,
    RegistryUnavailableError,
    ResourceInUseError,
    UnknownResourceError,
)
from stitchwork.redis import chunked_arrays
from stitchwork.redis.client import PREFIX, Check, Command, RedisClient
from stitchwork.redis.serialization import pack, unpack
from stitchwork.registry.entries import ANY, Condition, Entry, Outcome, Page, R, Write
from stitchwork.resources import Arrays, Registration

DRAFTS: Final = PREFIX + "drafts"
KEEP_SECONDS: Final = 3600
"""How long a replaced version stays readable, and an upload waits for its commit: far longer than
any request may take."""
ATTEMPTS: Final = 20
PARTS: Final = 64
"""Stretches of a draft's work that are read at once."""
KNOWN_RECORDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Known(Generic[R]):
    """A record as this process saw it last.

    Attributes:
        record: What served.
        stored: The bytes it was read from.
        seen: When, by the monotonic clock.
    """

    record: R
    stored: bytes
    seen: float


class Repository(Generic[R]):
    """The records of one kind.

    Args:
        server: The registry server.
        kind: Singular name, `anchor-set`, `space` or `head`.
        model: The record's class.
        promise: Milliseconds a write may take to reach the append-only file; 0 does not ask.
        stale_seconds: How long the last known records serve while the server is away.
    """

    def __init__(
        self,
        server: RedisClient,
        kind: str,
        model: type[R],
        *,
        aof_timeout_ms: int,
        stale_seconds: float,
    ) -> None:
        self.kind = kind
        self._server = server
        self._model: type[R] = model
        self._aof_timeout_ms = aof_timeout_ms
        self._stale_seconds = stale_seconds
        self._known: dict[str, Known[R]] = {}

    def key(self, *parts: str) -> str:
        """The key of an id, or of something kept beside it."""
        return PREFIX + ":".join((self.kind, *parts))

    def read(self, *ids: str) -> list[Entry[R]]:
        """The entries of these ids, in one round trip; an unknown id gives an empty entry."""
        counts = (("SCARD", self.key(id_, "dependents")) for id_ in ids)
        answers = self._server.execute(*self._stored(ids), *counts)
        return [
            self._entry(id_, stored, dependents)
            for id_, stored, dependents in zip(
                ids, answers[: len(ids)], answers[len(ids) :], strict=True
            )
        ]

    def _stored(self, ids: Sequence[str]) -> list[Command]:
        return [("HMGET", self.key(id_), "record", "draft") for id_ in ids]

    def get(self, id_: str) -> Entry[R]:
        """The entry of this id.

        Raises:
            UnknownResourceError: If nothing is registered under it.
        """
        (entry,) = self.read(id_)
        if entry.record is None and entry.registration is None:
            raise self._unknown(id_)
        return entry

    def ready(self, *ids: str) -> tuple[list[R], bool]:
        """The versions that serve now, read together, and whether they are only the last known.

        Raises:
            UnknownResourceError: If nothing is registered under an id.
            NotReadyError: If an id has no version that serves yet.
            RegistryUnavailableError: If the registry is away and the last known are too old.
        """
        try:
            answers = self._server.execute(*self._stored(ids))
        except RegistryUnavailableError:
            return [self.last_known(id_) for id_ in ids], True
        entries = [self._entry(id_, stored, 0) for id_, stored in zip(ids, answers, strict=True)]
        return [self.serving(entry) for entry in entries], False

    def parse(self, id_: str, stored: list[bytes | None]) -> R:
        """The record that serves, from what the server stores under its id.

        Raises:
            UnknownResourceError: If nothing is registered under it.
            NotReadyError: If it has no version that serves yet.
        """
        return self.serving(self._entry(id_, stored, 0))

    def last(self, id_: str) -> R | None:
        """The record that this process saw last, without asking; it may be out of date."""
        known = self._known.get(id_)
        return known.record if known else None

    def page(self, limit: int, cursor: str | None = None) -> Page[R]:
        """Up to `limit` entries with ids after the cursor."""
        start = f"({cursor}" if cursor else "-"
        with self._server.session() as client:
            found = client.zrangebylex(PREFIX + self.kind, start, "+", start=0, num=limit + 1)
        ids = [raw.decode() for raw in cast(list[bytes], found)]
        entries = self.read(*ids[:limit]) if ids else []
        shown = [entry for entry in entries if entry.record or entry.registration]
        return Page(shown, ids[limit - 1] if len(ids) > limit else None)

    def count(self) -> int:
        """How many ids there are."""
        with self._server.session() as client:
            found: Any = client.zcard(PREFIX + self.kind)
        return int(found)

    def arrays(self, id_: str, version: str) -> Arrays:
        """The arrays of one version.

        Raises:
            UnknownResourceError: If that version was never stored, or was replaced long ago.
        """
        return self._fetch(self.key(id_, "arrays", version))

    def inputs(self, id_: str, version: str) -> Arrays:
        """What a draft works on.

        Raises:
            UnknownResourceError: If that draft has none.
        """
        return self._fetch(self.key(id_, "inputs", version))

    def dependents(self, id_: str) -> list[str]:
        """What depends on it, as `kind:id`, sorted."""
        with self._server.session() as client:
            found = cast(set[bytes], client.smembers(self.key(id_, "dependents")))
        return sorted(raw.decode() for raw in found)

    def creation(self, record: R) -> list[Command]:
        """What puts a record without arrays where nothing stands, as part of another's commit."""
        return [
            ("ZADD", PREFIX + self.kind, 0, record.id),
            ("HSET", self.key(record.id), "record", record.model_dump_json().encode()),
        ]

    def unchanged(self, entry: Entry[R]) -> Check:
        """Holds as long as the record of this entry is the one that serves."""
        return Check(("HGET", self.key(entry.id), "record"), entry.stored[0])

    def put(
        self, id_: str, decide: Callable[[Entry[R]], Write[R]], condition: Condition = ANY
    ) -> tuple[Outcome, Entry[R]]:
        """Replace what stands under an id, atomically.

        Args:
            id_: The id.
            decide: Given what stands, says what is to stand, or raises. It is called again if
                something changed meanwhile, and so must be free of effects.
            condition: What the caller demands of the version that stands.

        Returns:
            What was done, and what stands now. Once this returns no reader sees the old version
            and, where the server promises it, no loss of power brings it back.
        """
        for _ in range(ATTEMPTS):
            before: Entry[R] = self.read(id_)[0]
            condition.check(f"{self.kind} {id_}", before.tag)
            write: Write[R] = decide(before)
            checks = [*self._untouched(before), *write.checks]
            commands = [*write.commands, *self._commands(before, write)]
            for key, arrays in self._uploads(id_, write).items():
                checks.append(chunked_arrays.write(self._server, key, arrays, KEEP_SECONDS))
                commands.append(("PERSIST", key))
            # A write that changes nothing is still written: its promise must be as good.
            if self._server.commit(checks, commands, aof_timeout_ms=self._aof_timeout_ms):
                return write.outcome, Entry(
                    id_, write.record, write.registration, before.dependents
                )
        raise ConflictError(f"{self.kind} {id_} kept changing while it was written; try again")

    def delete(self, id_: str, condition: Condition = ANY) -> None:
        """Remove an id; its arrays stay readable until work under way has long ended.

        Raises:
            UnknownResourceError: If nothing is registered under it.
            ResourceInUseError: If something depends on it.
        """
        for _ in range(ATTEMPTS):
            before: Entry[R] = self.get(id_)
            condition.check(f"{self.kind} {id_}", before.tag)
            if before.dependents:
                names = ", ".join(self.dependents(id_)[:10])
                raise ResourceInUseError(
                    f"{self.kind} {id_} is needed by {before.dependents} others: {names}"
                )
            commands: list[Command] = [
                *self._commands(before, Write(Outcome.SAME)),
                ("DEL", self.key(id_)),
                ("ZREM", PREFIX + self.kind, id_),
            ]
            if self._server.commit(
                self._untouched(before), commands, aof_timeout_ms=self._aof_timeout_ms
            ):
                self._known.pop(id_, None)
                return
        raise ConflictError(f"{self.kind} {id_} kept changing while it was deleted; try again")

    def save_part(self, registration: Registration, advanced: Registration, arrays: Arrays) -> bool:
        """Keep one stretch of a draft's work, and the draft as it is after it.

        Returns:
            False, with nothing kept, if the draft was replaced or someone else got further.
        """
        (entry,) = self.read(registration.id)
        if entry.registration is None or entry.registration != registration:
            return False
        parts = self.key(registration.id, "parts", registration.version)
        return self._server.commit(
            [Check(("HGET", self.key(registration.id), "draft"), entry.stored[1])],
            [
                ("HSET", parts, registration.done, pack(arrays)),
                ("HSET", self.key(registration.id), "draft", advanced.model_dump_json().encode()),
                ("ZADD", DRAFTS, self._server.now_ms(), f"{self.kind}:{registration.id}"),
            ],
        )

    def parts(self, registration: Registration) -> Iterator[Arrays]:
        """All that `save_part` kept for this draft, in the order of their starts.

        Raises:
            NotReadyError: If it is removed meanwhile, since the draft was replaced or completed.
        """
        key = self.key(registration.id, "parts", registration.version)
        with self._server.session() as client:
            starts = sorted(cast(list[bytes], client.hkeys(key)), key=int)
        for at in range(0, len(starts), PARTS):
            with self._server.session() as client:
                found = cast(list[bytes | None], client.hmget(key, starts[at : at + PARTS]))
            for data in found:
                if data is None:
                    raise NotReadyError(
                        f"{self.kind} {registration.id} was declared anew, or is ready"
                    )
                yield unpack(data)[0]

    def _commands(self, before: Entry[R], write: Write[R]) -> list[Command]:
        id_, key, me = before.id, self.key(before.id), f"{self.kind}:{before.id}"
        after: Entry[R] = Entry(id_, write.record, write.registration)
        commands: list[Command] = [("ZADD", PREFIX + self.kind, 0, id_)]
        for parent in before.parents - after.parents:
            commands.append(("SREM", f"{PREFIX}{parent}:dependents", me))
        for parent in after.parents:
            commands.append(("SADD", f"{PREFIX}{parent}:dependents", me))
        for field, part in (("record", write.record), ("draft", write.registration)):
            if part is None:
                commands.append(("HDEL", key, field))
            else:
                commands.append(("HSET", key, field, part.model_dump_json().encode()))
        if before.record and before.version != after.version:
            commands.append(
                ("EXPIRE", self.key(id_, "arrays", before.record.version), KEEP_SECONDS)
            )
            commands.append(("DEL", self.key(id_, "calibrations")))
        if before.registration and (
            write.registration is None or write.registration.version != before.registration.version
        ):
            commands.append(("DEL", self.key(id_, "parts", before.registration.version)))
            commands.append(("DEL", self.key(id_, "inputs", before.registration.version)))
        if write.registration and write.registration.status == "pending":
            commands.append(("ZADD", DRAFTS, self._server.now_ms(), me))
        else:
            commands.append(("ZREM", DRAFTS, me))
        return commands

    def _uploads(self, id_: str, write: Write[R]) -> dict[str, Arrays]:
        uploads = {}
        if write.record and write.arrays is not None:
            uploads[self.key(id_, "arrays", write.record.version)] = write.arrays
        if write.registration and write.inputs is not None:
            uploads[self.key(id_, "inputs", write.registration.version)] = write.inputs
        return uploads

    def _untouched(self, entry: Entry[R]) -> list[Check]:
        return [
            self.unchanged(entry),
            Check(("HGET", self.key(entry.id), "draft"), entry.stored[1]),
            Check(("SCARD", self.key(entry.id, "dependents")), entry.dependents),
        ]

    def _entry(self, id_: str, stored: list[bytes | None], dependents: int) -> Entry[R]:
        record, registration = (field or b"" for field in stored)
        return Entry(
            id_,
            self._parsed(id_, record) if record else None,
            Registration.model_validate_json(registration) if registration else None,
            dependents,
            (record, registration),
        )

    def _parsed(self, id_: str, stored: bytes) -> R:
        """A record, which is only read again if its bytes are other than the last ones."""
        known = self._known.get(id_)
        if known is not None and known.stored == stored:
            return known.record
        return self._model.model_validate_json(stored)

    def serving(self, entry: Entry[R]) -> R:
        """The record of an entry that was just read.

        Raises:
            UnknownResourceError: If nothing is registered under its id.
            NotReadyError: If it has no version that serves yet.
        """
        if entry.record is None:
            self._known.pop(entry.id, None)
            if entry.registration is None:
                raise self._unknown(entry.id)
            if entry.registration.status == "failed":
                raise ConflictError(
                    f"the registration of {self.kind} {entry.id} failed: "
                    f"{entry.registration.reason}",
                    code=ErrorCode.REGISTRATION_FAILED,
                )
            told = f"{entry.registration.done} of {entry.registration.total} inputs are embedded"
            raise NotReadyError(f"{self.kind} {entry.id} is still being prepared: {told}")
        while len(self._known) >= KNOWN_RECORDS:
            self._known.pop(next(iter(self._known)), None)
        self._known[entry.id] = Known(entry.record, entry.stored[0], time.monotonic())
        return entry.record

    def last_known(self, id_: str) -> R:
        """The record that served last, for use while the registry is unavailable.

        Raises:
            RegistryUnavailableError: If it was not used here, or too long ago.
        """
        known = self._known.get(id_)
        if known is None or time.monotonic() - known.seen > self._stale_seconds:
            raise RegistryUnavailableError(
                f"the registry is away and {self.kind} {id_} was not used here in the last "
                f"{self._stale_seconds:g} seconds"
            )
        return known.record

    def _fetch(self, key: str) -> Arrays:
        found = chunked_arrays.read(self._server, key)
        if found is None:
            raise UnknownResourceError(f"nothing is stored under {key.removeprefix(PREFIX)}")
        return found

    def _unknown(self, id_: str) -> UnknownResourceError:
        return UnknownResourceError(f"no {self.kind} {id_} is registered")
