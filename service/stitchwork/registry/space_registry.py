"""The rules for spaces: declared with their anchors, or with an encoder that embeds the set's."""

from dataclasses import replace
from typing import Final

import numpy as np

from stitchwork.errors import AnchorSetMismatchError, InvalidInputError, NotReadyError
from stitchwork.geometry.diagnostics.row_precision import RowPrecision
from stitchwork.geometry.diagnostics.space_metrics import (
    agreement,
    has_unit_rows,
    row_distance,
)
from stitchwork.geometry.frame import Frame
from stitchwork.registry.declarations import (
    SpaceDeclaration,
    anchor_set_record,
    in_order,
    space_record,
)
from stitchwork.registry.entries import ANY, Condition, Entry, Outcome, Write
from stitchwork.registry.registration_parts import read_parts
from stitchwork.registry.repository import Repository
from stitchwork.registry.sent_anchors import check_sent_anchors, is_comparable
from stitchwork.registry.space_checks import due
from stitchwork.registry.transitions import (
    MAX_HEAD_DISTANCE,
    begin_registration,
    check_current,
    check_distance,
    check_heads,
    is_declared,
    make_ready,
)
from stitchwork.resources import (
    AnchorSet,
    BridgeParameters,
    DtypePrecision,
    Floats,
    Registration,
    Space,
    computed_version,
    digest,
)

MAX_COMPARED: Final = 8
"""Spaces of the same set whose anchors are compared with those of a new space."""


class SpaceRegistry:
    """Declares and completes spaces.

    Args:
        anchor_sets: The repository of anchor sets.
        spaces: The repository of spaces.
    """

    def __init__(self, anchor_sets: Repository[AnchorSet], spaces: Repository[Space]) -> None:
        self._anchor_sets = anchor_sets
        self._spaces = spaces

    def declare(
        self, declaration: SpaceDeclaration, condition: Condition = ANY
    ) -> tuple[Outcome, Entry[Space]]:
        """Register a space by its anchors, or by an encoder that embeds the items of its set.

        The first space that names an unknown set and has anchors creates the set. Where the
        encoder can embed the items of the set, a worker compares its rows with anchors that are
        sent before the space is ready.

        Raises:
            UnknownResourceError: If the set is unknown and there are no anchors to create it from.
            AnchorSetMismatchError: If the set has another number of anchors, or no items to embed.
            InvalidInputError: If ids are missing or unknown, or the anchors span nothing.
            ResourceInUseError: If heads depend on it and the encoder or the width changes.
        """
        set_entry = self._anchor_sets.readable(declaration.anchor_set)
        if declaration.anchors is None:
            return self._begin(declaration, set_entry, condition)
        if declaration.encoder is not None and declaration.encoder.dtype == "auto":
            raise InvalidInputError(
                "dtype: auto is resolved by the worker that embeds the anchors; with anchors of "
                "yours, name the data type that they were computed in",
                pointer="/encoder/dtype",
            )
        anchor_set = set_entry.record or anchor_set_record(
            declaration.anchor_set,
            declaration.encoder.modality if declaration.encoder else "vector",
            None,
            declaration.ids,
            len(declaration.anchors),
            size_field="anchors",
        )
        anchors = in_order(declaration.anchors, declaration.ids, anchor_set)
        # The version must not depend on the order in which the rows were sent.
        unit = has_unit_rows(anchors) if declaration.unit is None else declaration.unit
        declaration = replace(declaration, anchors=anchors, ids=None, unit=unit)
        if is_comparable(declaration.encoder, set_entry.record):
            Frame.from_anchors(anchors)  # Anchors that span nothing are refused at once.
            return self._begin(declaration, set_entry, condition)
        record = self._measure(declaration, anchor_set, anchors, declaration.version(anchor_set))
        if declaration.encoder is not None:
            record = record.model_copy(update={"dtype": declaration.encoder.dtype})
        return self._put(record, anchors, condition, creates=anchor_set)

    def complete(self, registration: Registration) -> tuple[Outcome, Entry[Space]]:
        """Make a registration whose items are all embedded the ready version.

        Raises:
            NotReadyError: If the registration is no longer the current one.
            InvalidInputError: If the anchors span nothing.
            AnchorSetMismatchError: If the anchors that were sent are not the encoder's.
        """
        declaration = SpaceDeclaration(
            registration.id,
            registration.declared["anchor_set"],
            registration.encoder,
            parameters=BridgeParameters.model_validate(registration.declared["parameters"]),
            unit=registration.declared.get("unit"),
        )
        (anchor_set,), _ = self._anchor_sets.ready(declaration.anchor_set)
        anchors = np.concatenate([part["rows"] for part in read_parts(self._spaces, registration)])
        files_digest = registration.files_digest
        # The encoder is pinned by now; the registration's version is the declaration's digest.
        dtype = registration.encoder.dtype if registration.encoder else None
        if registration.declared.get("dim") is None:
            names = ("libraries", "dtype")
            computed = {name: registration.declared.get(name) for name in names}
            version = computed_version(registration.version, files_digest, computed)
            if self._embeds_elsewhere(registration, anchor_set, anchors):
                # As on another processor.
                version = digest({"version": version}, {"anchors": anchors})
            digest_of_declaration = registration.version
        else:
            sent = self._spaces.inputs(registration.id, registration.version)["anchors"]
            check_sent_anchors(sent, anchors, anchor_set.ids, registration.encoder)
            # The declaration has the anchors, whatever the files.
            anchors, version, digest_of_declaration = sent, registration.version, None
        record = self._measure(declaration, anchor_set, anchors, version)
        precision = _precision(registration)
        update = {
            "files_digest": files_digest,
            "declaration": digest_of_declaration,
            "dtype": dtype,
            "precision": precision,
            "label_names": tuple(registration.declared.get("label_names", ())),
            "warnings": (*record.warnings, *_precision_warnings(dtype, precision)),
        }
        record = record.model_copy(update=update)
        return self._put(record, anchors, ANY, registration)

    def bind_files(self, space: Space, files_digest: str) -> str:
        """Record the files of an encoder that was verified to reproduce a space.

        Args:
            space: The space. The version of one whose anchors were sent does not depend on files.
            files_digest: The files' digest.

        Returns:
            The digest of the files that the space now has: of other ones, if another worker was
            first.
        """

        def bound(entry: Entry[Space]) -> str | None:
            record = entry.record
            if record is None or record.version != space.version:
                return files_digest  # It was replaced, and only jobs in progress use it.
            return record.files_digest

        def decide(entry: Entry[Space]) -> Write[Space]:
            record = entry.record
            if record is None:
                raise NotReadyError(f"space {space.id} was deleted while its encoder was verified")
            if bound(entry) is None:
                record = record.model_copy(update={"files_digest": files_digest})
            return Write(Outcome.SAME, record, entry.registration)

        current = bound(self._spaces.readable(space.id))
        if current is None:
            current = bound(self._spaces.put(space.id, decide)[1])
        return current or files_digest

    def frame(self, space: Space) -> Frame:
        """The space's own mean, scale and unit anchors."""
        return Frame.from_anchors(self._spaces.arrays(space.id, space.version)["anchors"])

    def _begin(
        self, declaration: SpaceDeclaration, set_entry: Entry[AnchorSet], condition: Condition
    ) -> tuple[Outcome, Entry[Space]]:
        anchor_set, encoder = self._anchor_sets.ready_record(set_entry), declaration.encoder
        if encoder is None:
            raise InvalidInputError(
                "expected anchors, or an encoder that embeds the items of the set; got neither",
                pointer="/anchors",
            )
        if not anchor_set.has_items or anchor_set.modality != encoder.modality:
            content = f"{anchor_set.modality} items" if anchor_set.has_items else "no items"
            raise AnchorSetMismatchError(
                f"encoder {encoder.model} embeds {encoder.modality} items, anchor set "
                f"{anchor_set.id} holds {content}; send the anchors, or declare a set with items"
            )
        declared = Registration(
            kind="space",
            id=declaration.id,
            version=declaration.version(anchor_set),
            encoder=encoder,
            parent=f"anchor-set:{anchor_set.id}",
            declared={
                "anchor_set": anchor_set.id,
                "parameters": declaration.parameters.model_dump(),
                "unit": declaration.unit,
                "dim": None if declaration.anchors is None else declaration.anchors.shape[1],
                "dtype_choice": encoder.dtype,
            },
            total=anchor_set.size,
        )

        inputs = None if declaration.anchors is None else {"anchors": declaration.anchors}

        def decide(current: Entry[Space]) -> Write[Space]:
            check_heads(current, encoder, declared.declared["dim"])
            checks = [self._anchor_sets.unchanged(set_entry)]
            registration = declared
            if current.record and current.record.encoder and is_declared(current, declared):
                # A model of a hub stays at the commit that it was first loaded at, and in the data
                # type that was chosen for it.
                before = current.record.encoder
                dtype = before.dtype if encoder.dtype == "auto" else encoder.dtype
                update = {"revision": encoder.revision or before.revision, "dtype": dtype}
                pinned = encoder.model_copy(update=update)
                registration = declared.model_copy(update={"encoder": pinned})
            return begin_registration(current, registration, checks, inputs, reads_files=True)

        return self._spaces.put(declaration.id, decide, condition)

    def _put(
        self,
        record: Space,
        anchors: Floats,
        condition: Condition,
        registration: Registration | None = None,
        creates: AnchorSet | None = None,
    ) -> tuple[Outcome, Entry[Space]]:
        def decide(current: Entry[Space]) -> Write[Space]:
            check_current(current, registration)
            check_heads(current, record.encoder, record.dim)
            if registration is not None:
                self._check_distance(current, record, anchors)
            set_entry = self._anchor_sets.readable(record.anchor_set)
            check = self._anchor_sets.unchanged(set_entry)
            if set_entry.record is None and creates:
                creation = self._anchor_sets.creation(creates)
                commands = [*creation, due(self._spaces.server, record.id)]
                write = make_ready(current, record, {"anchors": anchors}, check, commands)
                note = (
                    f"anchor set {creates.id} was not declared; it was created with the "
                    f"{creates.size} anchors of this space"
                )
                return replace(write, notes=(note,))
            if set_entry.version != record.anchor_set_version:
                raise AnchorSetMismatchError(
                    f"anchor set {record.anchor_set} is no longer the one this space was made for"
                )
            if current.record and current.version == record.version and record.encoder:
                # Its encoder may have other files by now, which are verified or yet to be bound.
                names = ("files_digest", "encoder", "dtype", "label_names")
                verified = {name: getattr(record, name) for name in names}
                update = verified if registration else {"files_digest": None}
                same = current.record.model_copy(update=update)
                return Write(Outcome.SAME, same, checks=[check])
            return make_ready(
                current, record, {"anchors": anchors}, check, [due(self._spaces.server, record.id)]
            )

        return self._spaces.put(record.id, decide, condition)

    def _embeds_elsewhere(
        self, registration: Registration, anchor_set: AnchorSet, anchors: Floats
    ) -> bool:
        """Whether a space of the same declaration and files has other anchors."""
        names = self._anchor_sets.dependents(anchor_set.id)
        ids = [name.split(":", 1)[1] for name in names if name.startswith("space:")]
        return any(
            self._distance(entry.record, anchors) > MAX_HEAD_DISTANCE
            for entry in (self._spaces.read(*ids) if ids else [])
            if entry.record
            and entry.record.anchor_set_version == anchor_set.version
            and (entry.record.declaration or entry.record.version) == registration.version
            and entry.record.files_digest == registration.files_digest
        )

    def _check_distance(self, current: Entry[Space], record: Space, anchors: Floats) -> None:
        before = current.record
        if before is None or not current.dependents:
            return
        # Anchors of other sets cannot be compared.
        if before.anchor_set_version == record.anchor_set_version:
            check_distance(current, self._distance(before, anchors))

    def _distance(self, space: Space, anchors: Floats) -> float:
        """The distance of other anchors of the same set to those of a space."""
        stored = self._spaces.arrays(space.id, space.version)["anchors"]
        if stored.shape != anchors.shape:
            return float("inf")
        return row_distance(anchors, stored, Frame.from_anchors(stored).scale)

    def _measure(
        self, declaration: SpaceDeclaration, anchor_set: AnchorSet, anchors: Floats, version: str
    ) -> Space:
        frame = Frame.from_anchors(anchors)
        names = self._anchor_sets.dependents(anchor_set.id)
        others = [name.split(":", 1)[1] for name in names if name != f"space:{declaration.id}"]
        entries = self._spaces.read(*others[:MAX_COMPARED]) if others else []
        agreements = [
            agreement(frame, self.frame(entry.record))
            for entry in entries
            if entry.record and entry.record.anchor_set_version == anchor_set.version
        ]
        best = max(agreements, default=None)
        return space_record(declaration, anchor_set, anchors, frame, best, version)


def _precision(registration: Registration) -> DtypePrecision | None:
    """What a worker found when it compared the encoder with float32."""
    fields = registration.declared.get("precision")
    return None if fields is None else DtypePrecision.model_validate(fields)


def _precision_warnings(dtype: str | None, precision: DtypePrecision | None) -> list[str]:
    if precision is None or dtype == "float32":
        return []
    if RowPrecision(precision.min_cosine, precision.same_nearest).is_equivalent:
        return []
    return [
        f"rows in {dtype} differ from those in float32: on {precision.rows} anchors, the smallest "
        f"cosine is {precision.min_cosine:.5f} and {precision.same_nearest:.0%} have the same "
        "nearest anchor"
    ]
