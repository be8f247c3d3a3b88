"""The registry: anchor sets, spaces and heads, and the rules that hold between them.

A declaration is checked against the current state and written in one commit. A space with anchors
and a head with weights are ready at once; everything that needs a model becomes a registration that
a worker completes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from stitchwork.errors import ConflictError, ErrorCode, NotReadyError
from stitchwork.geometry.classifier import Classifier
from stitchwork.geometry.frame import Frame
from stitchwork.redis.client import RedisClient
from stitchwork.registry.api_keys import ApiKeyRepository
from stitchwork.registry.calibrations import Calibrations
from stitchwork.registry.change_log import ChangeLog
from stitchwork.registry.changes import REGISTRATIONS
from stitchwork.registry.declarations import SpaceDeclaration, anchor_set_record
from stitchwork.registry.entries import ANY, Condition, Entry, Outcome, Write
from stitchwork.registry.head_records import HeadDefinition
from stitchwork.registry.head_registry import HeadRegistry
from stitchwork.registry.move_store import MoveStore
from stitchwork.registry.read_lease import LeaseKeeper, ReadLease
from stitchwork.registry.report_store import ReportStore
from stitchwork.registry.repository import Repository
from stitchwork.registry.space_checks import SpaceChecks, due
from stitchwork.registry.space_registry import SpaceRegistry
from stitchwork.registry.transitions import check_current
from stitchwork.resources import (
    AnchorSet,
    Arrays,
    EncoderSpec,
    Head,
    Input,
    Modality,
    Registration,
    Space,
    pack_items,
)
from stitchwork.resources.training_inputs import Digests

AOF_TIMEOUT_RATIO: Final = 0.75
"""The share of a call's timeout that a write may take to reach the append-only file."""
MAX_STALLED: Final = 100
"""Stalled registrations that are listed at once."""


class Registry:
    """Anchor sets, spaces and heads on one registry server.

    Args:
        server: The registry server.
        durable: Acknowledge a write only once the server's append-only file has it.
        stale_seconds: How long the last known records serve while the server is unavailable.

    Attributes:
        changes: The log of changes, by which writes are acknowledged.
        lease: The lease under which records in memory are used without a read.
        lease_keeper: Renews the lease once it is started; only an API process does.
    """

    def __init__(self, server: RedisClient, *, durable: bool, stale_seconds: float) -> None:
        # Shorter than a call may take: a server that reports in time that its file lags is up.
        milliseconds = int(server.timeout * 1000 * AOF_TIMEOUT_RATIO) if durable else 0
        self.server = server
        self.durable = durable
        self.changes = changes = ChangeLog(server, aof_timeout_ms=milliseconds)
        self.lease = lease = ReadLease()
        self.lease_keeper = LeaseKeeper(changes, lease)
        stale: Any = {"stale_seconds": stale_seconds}
        self.anchor_sets = Repository(changes, "anchor-set", AnchorSet, lease, **stale)
        make_due = partial(due, server)
        self.spaces = Repository(changes, "space", Space, lease, on_delete=make_due, **stale)
        self.heads = Repository(changes, "head", Head, lease, **stale)
        self.calibrations = Calibrations(changes, self.heads, lease)
        self.keys = ApiKeyRepository(server, aof_timeout_ms=milliseconds)
        self._space_registry = SpaceRegistry(self.anchor_sets, self.spaces)
        self.space_checks = SpaceChecks(server, self.anchor_sets, self.spaces)
        self.reports = ReportStore(server)
        self.moves = MoveStore(server)
        self._head_registry = HeadRegistry(self.spaces, self.heads)

    def declare_anchor_set(
        self,
        id_: str,
        modality: Modality,
        *,
        items: Sequence[Input] | None = None,
        ids: tuple[str, ...] | None = None,
        size: int | None = None,
        condition: Condition = ANY,
    ) -> tuple[Outcome, Entry[AnchorSet]]:
        """Register k ordered anchors: by their items, by their ids, or only by their number.

        Raises:
            InvalidInputError: If the numbers contradict each other, there are fewer than two, or
                two ids are equal.
            ConflictError: If the id is taken by a set of other content.
        """
        arrays = pack_items(items) if items is not None else None
        record = anchor_set_record(id_, modality, arrays, ids, size)

        def decide(current: Entry[AnchorSet]) -> Write[AnchorSet]:
            if current.record is None:
                return Write(Outcome.CREATED, record, arrays=arrays)
            if current.version != record.version:
                raise ConflictError(
                    f"anchor set {id_} holds other content, at version {current.version}; "
                    "anchor sets never change, register another id",
                    code=ErrorCode.ANCHOR_SET_IMMUTABLE,
                )
            return Write(Outcome.SAME, record)

        return self.anchor_sets.put(id_, decide, condition)

    def declare_space(
        self, declaration: SpaceDeclaration, condition: Condition = ANY
    ) -> tuple[Outcome, Entry[Space]]:
        """Register a space, see `SpaceRegistry.declare`."""
        return self._space_registry.declare(declaration, condition)

    def complete_space(self, registration: Registration) -> tuple[Outcome, Entry[Space]]:
        """Make the registration of a space ready, see `SpaceRegistry.complete`."""
        return self._space_registry.complete(registration)

    def bind_files(self, space: Space, files_digest: str) -> str:
        """Record the files of a space's encoder, see `SpaceRegistry.bind_files`."""
        return self._space_registry.bind_files(space, files_digest)

    def declare_head(
        self,
        id_: str,
        space: str,
        head: HeadDefinition,
        condition: Condition = ANY,
    ) -> tuple[Outcome, Entry[Head]]:
        """Register a head by its weights, see `HeadRegistry.declare`."""
        return self._head_registry.declare(id_, space, head, condition)

    def begin_head(
        self,
        id_: str,
        space: str,
        declared: dict[str, Any],
        *,
        inputs: Arrays | None = None,
        encoder: EncoderSpec | None = None,
        total: int = 0,
        condition: Condition = ANY,
    ) -> tuple[Outcome, Entry[Head]]:
        """Register a head that a worker fits or extracts, see `HeadRegistry.begin`."""
        return self._head_registry.begin(
            id_,
            space,
            declared,
            inputs=inputs,
            encoder=encoder,
            total=total,
            condition=condition,
        )

    def complete_head(
        self,
        registration: Registration,
        head: HeadDefinition,
        train: tuple[int, float] | None = None,
        files_digest: str | None = None,
        inputs: Digests | None = None,
    ) -> tuple[Outcome, Entry[Head]]:
        """Make the registration of a head ready, see `HeadRegistry.complete`."""
        return self._head_registry.complete(registration, head, train, files_digest, inputs)

    def training_inputs(self, head: Head) -> Digests:
        """See `HeadRegistry.training_inputs`."""
        return self._head_registry.training_inputs(head)

    def repository(self, kind: str) -> Repository[Any]:
        """The repository of registrations of this kind, `space` or `head`."""
        return self.spaces if kind == "space" else self.heads

    def pending_registration(self, kind: str, id_: str, version: str) -> Registration | None:
        """The registration of this version, if it is still the current one and pending."""
        current: Registration | None = self.repository(kind).read(id_)[0].registration
        if current is None or current.version != version or current.status != "pending":
            return None
        return current

    def fail(self, registration: Registration, reason: str) -> None:
        """Mark a registration as failed; the ready version stays ready.

        Raises:
            NotReadyError: If the registration is no longer the current one.
        """
        failed = registration.model_copy(update={"status": "failed", "reason": reason})

        def decide(current: Entry[Any]) -> Write[Any]:
            check_current(current, registration)
            return Write(Outcome.SAME, current.record, failed)

        self.repository(registration.kind).put(registration.id, decide)

    def confirm(self, registration: Registration) -> None:
        """End a registration whose declaration and files are those of the ready version.

        Raises:
            NotReadyError: If the registration is no longer the current one.
        """

        def decide(current: Entry[Any]) -> Write[Any]:
            check_current(current, registration)
            return Write(Outcome.SAME, current.record)

        self.repository(registration.kind).put(registration.id, decide)

    def retry_registration(self, kind: str, id_: str, version: str) -> Registration:
        """Make a failed registration pending again, with its progress so far.

        Raises:
            NotReadyError: If it is no longer the current one.
            UnknownResourceError: If it was removed.
        """

        def decide(current: Entry[Any]) -> Write[Any]:
            if current.registration is None or current.registration.version != version:
                raise NotReadyError(f"{kind} {id_} was declared anew, or is ready")
            update = {"status": "pending", "reason": None}
            return Write(
                Outcome.ACCEPTED, current.record, current.registration.model_copy(update=update)
            )

        self.repository(kind).get(id_)
        _, entry = self.repository(kind).put(id_, decide)
        pending: Registration = entry.registration  # type: ignore[assignment]
        return pending

    def stalled_registrations(self, seconds: float) -> list[Registration]:
        """Registrations without progress for so many seconds: their jobs may have been lost."""
        before = self.server.now_ms() - int(seconds * 1000)
        with self.server.session() as client:
            names: Any = client.zrangebyscore(
                self.server.key(REGISTRATIONS), "-inf", before, start=0, num=MAX_STALLED
            )
        entries = []
        for raw in names:
            kind, _, id_ = raw.decode(errors="backslashreplace").partition(":")
            if kind in ("space", "head"):
                entries += self.repository(kind).read(id_)
        registrations = [entry.registration for entry in entries if entry.registration]
        return [entry for entry in registrations if entry.status == "pending"]

    def frame(self, space: Space) -> Frame:
        """The space's own mean, scale and unit anchors."""
        return self._space_registry.frame(space)

    def classifier(self, head: Head) -> Classifier:
        """The head's layers, float32 numpy."""
        return self._head_registry.classifier(head)
