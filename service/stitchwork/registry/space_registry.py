"""The rules for spaces: declared with their anchors, or with an encoder that embeds the set's."""

from dataclasses import replace
from typing import Final

import numpy as np

from stitchwork.errors import AnchorSetMismatchError, InvalidInputError
from stitchwork.geometry.diagnostics.space_metrics import agreement, has_unit_rows
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
from stitchwork.registry.transitions import (
    begin_registration,
    check_current,
    check_heads,
    make_ready,
)
from stitchwork.resources import AnchorSet, BridgeParameters, Floats, Registration, Space

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

        The first space that names an unknown set and has anchors creates the set.

        Raises:
            UnknownResourceError: If the set is unknown and there are no anchors to create it from.
            AnchorSetMismatchError: If the set has another number of anchors, or no items to embed.
            InvalidInputError: If ids are missing or unknown, or the anchors span nothing.
            ResourceInUseError: If heads depend on it and the encoder or the width changes.
        """
        set_entry = self._anchor_sets.readable(declaration.anchor_set)
        if declaration.anchors is None:
            return self._begin(declaration, set_entry, condition)
        anchor_set = set_entry.record or anchor_set_record(
            declaration.anchor_set,
            declaration.encoder.modality if declaration.encoder else "vector",
            None,
            declaration.ids,
            len(declaration.anchors),
        )
        anchors = in_order(declaration.anchors, declaration.ids, anchor_set)
        # The version must not depend on the order in which the rows were sent.
        unit = has_unit_rows(anchors) if declaration.unit is None else declaration.unit
        declaration = replace(declaration, anchors=anchors, ids=None, unit=unit)
        record = self._measure(declaration, anchor_set, anchors, declaration.version(anchor_set))
        return self._put(record, anchors, condition, creates=anchor_set)

    def complete(self, registration: Registration) -> tuple[Outcome, Entry[Space]]:
        """Make a registration whose items are all embedded the ready version.

        Raises:
            NotReadyError: If the registration is no longer the current one.
            InvalidInputError: If the anchors span nothing.
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
        # The encoder is pinned by now, and the version is that of the declaration.
        record = self._measure(declaration, anchor_set, anchors, registration.version)
        return self._put(record, anchors, ANY, registration)

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
        registration = Registration(
            kind="space",
            id=declaration.id,
            version=declaration.version(anchor_set),
            encoder=encoder,
            parent=f"anchor-set:{anchor_set.id}",
            declared={
                "anchor_set": anchor_set.id,
                "parameters": declaration.parameters.model_dump(),
                "unit": declaration.unit,
            },
            total=anchor_set.size,
        )

        def decide(current: Entry[Space]) -> Write[Space]:
            check_heads(current, encoder, None)
            checks = [self._anchor_sets.unchanged(set_entry)]
            return begin_registration(current, registration, checks)

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
            set_entry = self._anchor_sets.readable(record.anchor_set)
            check = self._anchor_sets.unchanged(set_entry)
            if set_entry.record is None and creates:
                creation = self._anchor_sets.creation(creates)
                return make_ready(current, record, {"anchors": anchors}, check, creation)
            if set_entry.version != record.anchor_set_version:
                raise AnchorSetMismatchError(
                    f"anchor set {record.anchor_set} is no longer the one this space was made for"
                )
            return make_ready(current, record, {"anchors": anchors}, check)

        return self._spaces.put(record.id, decide, condition)

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
