"""What a comparison of two spaces on one anchor set says about their anchors."""

from typing import TypeAlias

from pydantic import Field

from stitchwork.resources.record import Record

AnchorName: TypeAlias = str | int
"""An anchor's id or, in a set without ids, its index."""


class ShiftedRows(Record):
    """Consecutive anchors that are shifted alike."""

    first: int = Field(description="Index of the first anchor, to the precision of a block of 64.")
    last: int = Field(description="Index of the last anchor, to the precision of a block of 64.")
    shift: int = Field(description="How many rows later they fit; negative: earlier.")


class SpaceCheck(Record):
    """A space's anchors, compared with those of another space on the same set."""

    space: str = Field(description="Id of the other space.")
    version: str = Field(description="Version of the other space.")
    agreement: float = Field(
        description="Correlation of the cosines of the two spaces' anchors: near 0 for anchors "
        "that are shuffled or foreign."
    )
    anchors: int = Field(description="Number of anchors that were compared.")
    shifts: tuple[ShiftedRows, ...] = Field(
        (), description="Anchors that fit those of the other space some rows later or earlier."
    )
    misaligned_count: int = Field(
        0, description="Number of anchors that probably do not correspond."
    )
    misaligned: tuple[AnchorName, ...] = Field(
        (), description="Ids or indices of these, most probable first; at most 1,000."
    )
    warning: str | None = Field(None, description="What seems wrong; null: nothing.")
