"""The truth: anchor sets, spaces and heads, and the rules that hold between them.

What is declared is checked against what stands, and written in one commit. A space with given
anchors and a head with given weights serve at once; whatever needs a model becomes a draft that a
worker completes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from stitchwork.errors import (
    AnchorSetMismatchError,
    ConflictError,
    ErrorCode,
    InvalidInputError,
    NotReadyError,
)
from stitchwork.geometry.classifier import Classifier
from stitchwork.geometry.diagnostics.space_metrics import agreement
from stitchwork.geometry.frame import Frame
from stitchwork.redis.client import RedisClient
from stitchwork.registry.api_keys import ApiKeyRepository
from stitchwork.registry.calibrations import Calibrations
from stitchwork.registry.declarations import (
    SpaceDeclaration,
    anchor_set_record,
    classifier_of,
    head_record,
    in_order,
    layer_arrays,
    space_record,
)
from stitchwork.registry.entries import ANY, Condition, Entry, Outcome, Write
from stitchwork.registry.repository import DRAFTS, Repository
from stitchwork.registry.transitions import begin, keep_heads, serve, still_current
from stitchwork.resources import (
    AnchorSet,
    Arrays,
    BridgeParameters,
    EncoderSpec,
    Floats,
    Head,
    Item,
    Modality,
    Registration,
    Space,
    digest,
    pack_items,
)

PATIENCE: Final = 0.75
"""The part of a call's time in which a write is to reach the append-only file."""
COMPARED: Final = 8
"""Spaces of the same set whose anchors a new space's are compared with."""


class Registry:
    """Anchor sets, spaces and heads on one registry server.

    Args:
        server: The registry server.
        durable: Acknowledge a write only once the server's append-only file has it.
        stale_seconds: How long the last known records serve while the server is away.
    """

    def __init__(self, server: RedisClient, *, durable: bool, stale_seconds: float) -> None:
        # Shorter than a call may take: a server that says in time that its file lags is not gone.
        aof_timeout_ms = int(server.timeout * 1000 * PATIENCE) if durable else 0
        self.server = server
        self.durable = durable
        self.anchor_sets = Repository(
            server,
            "anchor-set",
            AnchorSet,
            aof_timeout_ms=aof_timeout_ms,
            stale_seconds=stale_seconds,
        )
        self.spaces = Repository(
            server, "space", Space, aof_timeout_ms=aof_timeout_ms, stale_seconds=stale_seconds
        )
        self.heads = Repository(
            server, "head", Head, aof_timeout_ms=aof_timeout_ms, stale_seconds=stale_seconds
        )
        self.calibrations = Calibrations(server, self.heads, aof_timeout_ms=aof_timeout_ms)
        self.keys = ApiKeyRepository(server, aof_timeout_ms=aof_timeout_ms)

    def declare_anchor_set(
        self,
        id_: str,
        modality: Modality,
        *,
        items: Sequence[Item] | None = None,
        ids: tuple[str, ...] | None = None,
        size: int | None = None,
        condition: Condition = ANY,
    ) -> tuple[Outcome, Entry[AnchorSet]]:
        """Declare k ordered anchors: by their items, by their ids, or only by their number.

        Raises:
            InvalidInputError: If the numbers contradict each other, there are fewer than two, or
            two
                ids are equal.
            ConflictError: If the id is taken by a set of other content.
        """
        arrays = pack_items(items) if items is not None else None
        record = anchor_set_record(id_, modality, arrays, ids, size)

        def decide(stands: Entry[AnchorSet]) -> Write[AnchorSet]:
            if stands.record is None:
                return Write(Outcome.CREATED, record, arrays=arrays)
            if stands.version != record.version:
                raise ConflictError(
                    f"anchor set {id_} holds other content, at version {stands.version}; "
                    "anchor sets never change, register another id",
                    code=ErrorCode.ANCHOR_SET_IMMUTABLE,
                )
            return Write(Outcome.SAME, record)

        return self.anchor_sets.put(id_, decide, condition)

    def declare_space(
        self, declared: SpaceDeclaration, condition: Condition = ANY
    ) -> tuple[Outcome, Entry[Space]]:
        """Register a space by its anchors, or by an encoder that is to embed its set's items.

        A first space that names an unknown set and brings its anchors creates the set.

        Raises:
            UnknownResourceError: If the set is unknown and there are no anchors to create it from.
            AnchorSetMismatchError: If the set has another number of anchors, or no items to embed.
            InvalidInputError: If ids are missing or unknown, or the anchors span nothing.
            ResourceInUseError: If heads depend on it and the encoder or the width changes.
        """
        (set_entry,) = self.anchor_sets.read(declared.anchor_set)
        if declared.anchors is None:
            return self._draft_space(declared, set_entry, condition)
        anchor_set = set_entry.record or anchor_set_record(
            declared.anchor_set,
            declared.encoder.modality if declared.encoder else "vector",
            None,
            declared.ids,
            len(declared.anchors),
        )
        anchors = in_order(declared.anchors, declared.ids, anchor_set)
        # From here on only what is kept counts: the version must not depend on the rows' order.
        declared = replace(declared, anchors=anchors, ids=None)
        record = self._measure(declared, anchor_set, anchors, declared.version(anchor_set))
        return self._put_space(record, anchors, condition, creates=anchor_set)

    def complete_space(self, registration: Registration) -> tuple[Outcome, Entry[Space]]:
        """Turn a draft whose items are all embedded into the version that serves.

        Raises:
            NotReadyError: If the draft is no longer the one that is being prepared.
            InvalidInputError: If the anchors span nothing.
        """
        declared = SpaceDeclaration(
            registration.id,
            registration.declared["anchor_set"],
            registration.encoder,
            parameters=BridgeParameters.model_validate(registration.declared["parameters"]),
        )
        (anchor_set,), _ = self.anchor_sets.ready(declared.anchor_set)
        anchors = np.concatenate([part["rows"] for part in self.spaces.parts(registration)])
        # The encoder is pinned by now, and the version is that of what was declared.
        record = self._measure(declared, anchor_set, anchors, registration.version)
        return self._put_space(record, anchors, ANY, registration)

    def declare_head(
        self,
        id_: str,
        space: str,
        classifier: Classifier,
        labels: Sequence[str],
        condition: Condition = ANY,
    ) -> tuple[Outcome, Entry[Head]]:
        """Register a head by its weights.

        Raises:
            UnknownResourceError: If the space is not registered.
            InvalidInputError: If widths or the number of labels do not fit.
        """
        arrays = layer_arrays(classifier)
        declared = {"space": space, "labels": labels, "activation": classifier.activation}
        version = digest(declared, arrays)
        record = head_record(id_, space, classifier, labels, version, "weights")
        return self._put_head(record, arrays, condition)

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
        """Register a head that a worker is to fit, or to take out of a pretrained model.

        Args:
            id_: The head's id.
            space: Id of its space.
            declared: What the worker needs to know, as JSON; part of the version.
            inputs: What it is fitted on; part of the version.
            encoder: What embeds those inputs, or holds the classifier.
            total: How many inputs there are to embed.
            condition: What the caller demands of the version that stands.

        Raises:
            UnknownResourceError: If the space is not registered.
            NotReadyError: If the space has no version that serves yet.
        """
        known = encoder.model_dump() if encoder else None
        registration = Registration(
            kind="head",
            id=id_,
            version=digest({"space": space, "encoder": known, **declared}, inputs),
            encoder=encoder,
            parent=f"space:{space}",
            declared={"space": space, **declared},
            total=total,
        )

        def decide(stands: Entry[Head]) -> Write[Head]:
            (parent,) = self.spaces.read(space)
            self.spaces.serving(parent)
            return begin(stands, registration, [self.spaces.unchanged(parent)], inputs)

        return self.heads.put(id_, decide, condition)

    def complete_head(
        self,
        registration: Registration,
        classifier: Classifier,
        labels: Sequence[str],
        train: tuple[int, float] | None = None,
    ) -> tuple[Outcome, Entry[Head]]:
        """Turn a draft into the head that serves.

        Args:
            registration: The registration.
            classifier: The head's layers.
            labels: One label for each class.
            train: Rows it was fitted on and accuracy there, if it was fitted.

        Raises:
            NotReadyError: If the draft is no longer the one that is being prepared.
            InvalidInputError: If the classifier does not fit the space.
        """
        space, source = registration.declared["space"], registration.declared["source"]
        record = head_record(
            registration.id, space, classifier, labels, registration.version, source, train
        )
        return self._put_head(record, layer_arrays(classifier), ANY, registration)

    def table(self, kind: str) -> Repository[Any]:
        """The table that holds drafts of this kind, `space` or `head`."""
        return self.spaces if kind == "space" else self.heads

    def registration(self, kind: str, id_: str, version: str) -> Registration | None:
        """The draft of this version, if it is still the one to be prepared."""
        registration: Registration | None = self.table(kind).read(id_)[0].registration
        current = (
            registration is not None
            and registration.version == version
            and registration.status == "pending"
        )
        return registration if current else None

    def fail(self, registration: Registration, reason: str) -> None:
        """Mark a draft as failed, for good unless it is declared again; what serves still serves.

        Raises:
            NotReadyError: If the draft is no longer the one that is being prepared.
        """
        failed = registration.model_copy(update={"status": "failed", "reason": reason})

        def decide(stands: Entry[Any]) -> Write[Any]:
            still_current(stands, registration)
            return Write(Outcome.SAME, stands.record, failed)

        self.table(registration.kind).put(registration.id, decide)

    def retry_registration(self, kind: str, id_: str, version: str) -> Registration:
        """Take up a draft again that has failed, with all that was done for it.

        Raises:
            NotReadyError: If it is no longer the one that is being prepared.
            UnknownResourceError: If it was removed.
        """

        def decide(stands: Entry[Any]) -> Write[Any]:
            if stands.registration is None or stands.registration.version != version:
                raise NotReadyError(f"{kind} {id_} was declared anew, or is ready")
            again = stands.registration.model_copy(update={"status": "pending", "reason": None})
            return Write(Outcome.ACCEPTED, stands.record, again)

        self.table(kind).get(id_)
        _, entry = self.table(kind).put(id_, decide)
        revived: Registration = entry.registration  # type: ignore[assignment]
        return revived

    def stalled_registrations(self, seconds: float) -> list[Registration]:
        """Drafts that nobody has worked on for a while: their job may have been lost."""
        before = self.server.now_ms() - int(seconds * 1000)
        with self.server.session() as client:
            names: Any = client.zrangebyscore(DRAFTS, "-inf", before, start=0, num=100)
        found = []
        for raw in names:
            kind, id_ = raw.decode().split(":", 1)
            found.append(self.table(kind).read(id_)[0].registration)
        return [
            registration
            for registration in found
            if registration and registration.status == "pending"
        ]

    def stitch(self, source_id: str, head_id: str) -> tuple[Space, Space, Head, bool]:
        """A source, the head's own space, the head, and whether they are only the last known.

        Raises:
            UnknownResourceError: If the space or the head is not registered.
            NotReadyError: If one of them has no version that serves yet.
            RegistryUnavailableError: If the registry is away and the last known are too old.
        """
        (head,), head_stale = self.heads.ready(head_id)
        (source, target), stale = self.spaces.ready(source_id, head.space)
        return source, target, head, stale or head_stale

    def frame(self, space: Space) -> Frame:
        """The space's own mean, scale and unit anchors."""
        return Frame.from_anchors(self.spaces.arrays(space.id, space.version)["anchors"])

    def classifier(self, head: Head) -> Classifier:
        """The head's layers, float32 numpy."""
        return classifier_of(self.heads.arrays(head.id, head.version), head.activation)

    def _draft_space(
        self, declared: SpaceDeclaration, set_entry: Entry[AnchorSet], condition: Condition
    ) -> tuple[Outcome, Entry[Space]]:
        anchor_set, encoder = self.anchor_sets.serving(set_entry), declared.encoder
        if encoder is None:
            raise InvalidInputError(
                "expected anchors, or an encoder that embeds the items of the set; got neither",
                pointer="/anchors",
            )
        if not anchor_set.has_items or anchor_set.modality != encoder.modality:
            held = f"{anchor_set.modality} items" if anchor_set.has_items else "no items"
            raise AnchorSetMismatchError(
                f"encoder {encoder.model} embeds {encoder.modality} items, anchor set "
                f"{anchor_set.id} holds {held}; send the anchors, or declare a set with items"
            )
        registration = Registration(
            kind="space",
            id=declared.id,
            version=declared.version(anchor_set),
            encoder=encoder,
            parent=f"anchor-set:{anchor_set.id}",
            declared={
                "anchor_set": anchor_set.id,
                "parameters": declared.parameters.model_dump(),
            },
            total=anchor_set.size,
        )

        def decide(stands: Entry[Space]) -> Write[Space]:
            keep_heads(stands, encoder, None)
            return begin(stands, registration, [self.anchor_sets.unchanged(set_entry)])

        return self.spaces.put(declared.id, decide, condition)

    def _put_space(
        self,
        record: Space,
        anchors: Floats,
        condition: Condition,
        registration: Registration | None = None,
        creates: AnchorSet | None = None,
    ) -> tuple[Outcome, Entry[Space]]:
        def decide(stands: Entry[Space]) -> Write[Space]:
            still_current(stands, registration)
            keep_heads(stands, record.encoder, record.dim)
            (set_entry,) = self.anchor_sets.read(record.anchor_set)
            check = self.anchor_sets.unchanged(set_entry)
            if set_entry.record is None and creates:
                created = self.anchor_sets.creation(creates)
                return serve(stands, record, {"anchors": anchors}, check, created)
            if set_entry.version != record.anchor_set_version:
                raise AnchorSetMismatchError(
                    f"anchor set {record.anchor_set} is no longer the one this space was made for"
                )
            return serve(stands, record, {"anchors": anchors}, check)

        return self.spaces.put(record.id, decide, condition)

    def _put_head(
        self,
        record: Head,
        arrays: Arrays,
        condition: Condition,
        registration: Registration | None = None,
    ) -> tuple[Outcome, Entry[Head]]:
        def decide(stands: Entry[Head]) -> Write[Head]:
            still_current(stands, registration)
            (parent,) = self.spaces.read(record.space)
            space = self.spaces.serving(parent)
            if space.dim != record.dim:
                raise InvalidInputError(
                    f"space {space.id} is {space.dim} wide, the head takes {record.dim}",
                    pointer="/weight" if len(record.layers) == 2 else "/layers/0",
                    code=ErrorCode.WRONG_WIDTH,
                )
            return serve(stands, record, arrays, self.spaces.unchanged(parent))

        return self.heads.put(record.id, decide, condition)

    def _measure(
        self, declared: SpaceDeclaration, anchor_set: AnchorSet, anchors: Floats, version: str
    ) -> Space:
        seen = Frame.from_anchors(anchors)
        names = self.anchor_sets.dependents(anchor_set.id)
        others = [name.split(":", 1)[1] for name in names if name != f"space:{declared.id}"]
        entries = self.spaces.read(*others[:COMPARED]) if others else []
        agreed = [
            agreement(seen, self.frame(entry.record))
            for entry in entries
            if entry.record and entry.record.anchor_set_version == anchor_set.version
        ]
        best = max(agreed, default=None)
        return space_record(declared, anchor_set, anchors, seen, best, version)
