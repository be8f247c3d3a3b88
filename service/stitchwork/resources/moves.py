"""Records of moves of stores, as the commands that run them report them."""

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints

from stitchwork.addresses import without_password
from stitchwork.ids import ID_PATTERN
from stitchwork.resources.record import Record

MAX_STORE_NAME: Final = 500
"""Characters of the name of a store."""
MAX_TEXT: Final = 1000
"""Characters of a sentence."""
MAX_REASON: Final = 200
"""Characters of a reason for which rows are not translated."""
MAX_REASONS: Final = 20
MAX_WARNINGS: Final = 10
MAX_COUNT: Final = 2**53
"""Integers up to it are exact in every parser of JSON."""

MoveStatus: TypeAlias = Literal["running", "finished", "failed", "interrupted"]
Action: TypeAlias = Literal[
    "check-space", "separate-rows", "choose-anchors", "re-embed", "translate-then-re-embed",
    "translate",
]  # fmt: skip
"""What to do with a store. In this order: the first that applies is the advice."""


def _check_public(name: str) -> str:
    if without_password(name) != name:
        # The message does not repeat it.
        raise ValueError("expected the URL of a store without its password, got one with it")
    return name


StoreName = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=MAX_STORE_NAME),
    AfterValidator(_check_public),
]
Sentence = Annotated[str, StringConstraints(strict=True, max_length=MAX_TEXT)]
Reason = Annotated[str, StringConstraints(strict=True, max_length=MAX_REASON)]
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Interval: TypeAlias = tuple[Share, Share]
Version = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=128)]
SpaceId = Annotated[str, StringConstraints(strict=True, pattern=ID_PATTERN)]


class MoveVersions(Record):
    """What the map of a move is of."""

    source: SpaceId = Field(description="Id of the space of the source's vectors.")
    source_version: Version
    target: SpaceId = Field(description="Id of the space of the target's vectors.")
    target_version: Version
    bridge: Version


class MoveReport(Record):
    """How far a move is, or how it ended."""

    status: MoveStatus = Field(
        description="`interrupted`: by its user, or no report came for a minute; the same command "
        "goes on."
    )
    source: StoreName = Field(description="The store that is read, without passwords.")
    target: StoreName = Field(description="The store that is written, without passwords.")
    versions: MoveVersions
    engine: Literal["local", "ray"] = "local"
    shard: Annotated[str, StringConstraints(strict=True, pattern=r"^\d{1,9}/\d{1,9}$")] | None = (
        Field(None, description="The share of the files, as INDEX/COUNT.")
    )
    rows: Count = Field(description="Rows that were read.")
    total: Count = Field(description="All rows of the source.")
    written: Count = Field(description="Rows that were written.")
    rejected: Count = Field(0, description="Rows that were left out.")
    re_embedded: Count = Field(0, description="Rows that were embedded anew instead.")
    uncovered: Count = Field(
        0, description="Rows that were written although the anchors do not cover them."
    )
    mismatched: Count = Field(
        0, description="Rows that were written although their lengths do not fit the anchors."
    )
    reasons: dict[Reason, Count] = Field(
        {},
        max_length=MAX_REASONS,
        description="Rows that were not translated, by the reason: those that were left out and "
        "those that were embedded anew.",
    )
    rows_per_second: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = Field(
        None, description="Since the command was called; null if it had nothing to move."
    )
    reason: Sentence | None = Field(None, description="Why it failed.")
    warnings: tuple[Sentence, ...] = Field((), max_length=MAX_WARNINGS)


class MoveAssessment(Record):
    """What to do with the rows that a move has written, and their recall."""

    action: Action | None = Field(
        None, description="What to do; null without texts, from which recall is measured."
    )
    reasons: tuple[Sentence, ...] = Field((), max_length=MAX_WARNINGS)
    sample: Count = Field(description="Rows of the sample.")
    other_than_translated_share: Share | None = Field(
        None, description="Share of the sample whose moved rows are not their translations."
    )
    recall_at_10_translated_queries: Share | None = Field(
        None,
        description="Recall@10 before the move: of the new model's queries, translated into the "
        "space of the source.",
    )
    recall_at_10_translated_queries_interval: Interval | None = Field(
        None, description="95% interval of it."
    )
    recall_at_10_translated_store: Share | None = Field(
        None, description="Recall@10 after it: of the new model's queries in the target."
    )
    recall_at_10_translated_store_interval: Interval | None = Field(
        None, description="95% interval of it."
    )
