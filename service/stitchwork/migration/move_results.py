"""What a move has done, and what is doubtful about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stitchwork.migration.block_transforms import EncoderVersions
from stitchwork.migration.checkpoints import REJECTS, Checkpoint
from stitchwork.migration.store import VectorStore

LEFT_OUT: Final = "left out"
"""What happens to rows that cannot be translated, where they are not embedded anew."""
EMBEDDED_ANEW: Final = "embedded anew"


@dataclass(frozen=True, slots=True)
class MoveResult:
    """What a move has done.

    Attributes:
        source: Name of the source store.
        target: Name of the target store.
        rows: Rows that were read.
        written: Rows that were written.
        rejected: Rows that were left out; the file `rejects` lists them.
        re_embedded: Rows that were embedded anew instead; the same file lists them too.
        uncovered: Rows that were written although the anchors do not cover them.
        mismatched: Rows that were written although their lengths do not fit the anchors.
        rejects: The file of the rows that were not translated.
        resumed_at: Row that this call began at; 0 for a move that was not resumed.
        seconds: Time that this call took.
        versions: Spaces, versions and bridge of the map; of embeddings, space and version.
        warnings: What is doubtful.
    """

    source: str
    target: str
    rows: int
    written: int
    rejected: int
    re_embedded: int
    uncovered: int
    mismatched: int
    rejects: Path
    resumed_at: int
    seconds: float
    versions: dict[str, str]
    warnings: list[str]


def to_result(
    target: VectorStore,
    checkpoint: Checkpoint,
    total: int,
    resumed_at: int,
    seconds: float,
    *,
    has_changed: bool,
) -> MoveResult:
    """The result of a move.

    Args:
        target: The store that was written.
        checkpoint: The state of the move, which is complete.
        total: Rows that the source has.
        resumed_at: Row that this call began at.
        seconds: Time that this call took.
        has_changed: Whether the source has changed during the move.
    """
    state, current = checkpoint.progress, checkpoint.move
    versions = current.versions
    is_embedding = isinstance(versions, EncoderVersions)
    space = versions.space if isinstance(versions, EncoderVersions) else versions.source
    written, stored = state.written, target.count()
    warnings = []
    if stored > written:
        warnings.append(
            f"{target.name} has {stored} rows, and the move wrote {written}: rows were added since"
        )
    if has_changed:
        warnings.append(
            f"{current.source} has changed during the move: rows that were written behind the "
            "place that it had reached are not in the target"
        )
    elif total != state.rows:
        warnings.append(
            f"{current.source} has {total} rows now, and {state.rows} were read: it changed during "
            "the move or since"
        )
    if state.rejected and current.rejects != LEFT_OUT:
        warnings.append(
            f"{state.rejected} of {state.rows} rows were left out, as they have no text "
            f"{f'in {current.texts}' if current.texts else 'to embed'}, "
            f"a text that was refused, or no id; {REJECTS} lists them"
            f"{'' if state.re_embedded else '. No row was embedded anew'}"
        )
    elif state.rejected and is_embedding:
        warnings.append(
            f"{state.rejected} of {state.rows} rows were left out, as they could not be embedded; "
            f"{REJECTS} lists them"
        )
    if state.truncated:
        warnings.append(
            f"the texts of {state.truncated} of {written} rows were truncated to the length that "
            f"the encoder of {space} accepts"
        )
    if state.rounded:
        warnings.append(
            f"{state.rounded} numbers in payloads were rounded to floats of 64 bits: "
            f"{current.target} has no place for all of their digits"
        )
    if state.uncovered:
        warnings.append(
            f"{state.uncovered} of {written} rows are not covered by the anchors of "
            f"{space}: their translations are unreliable"
        )
    if state.mismatched:
        warnings.append(
            f"the lengths of {state.mismatched} of {written} rows do not fit the space "
            f"{space}; in the first block with such rows, {state.length_warning}"
        )
    return MoveResult(
        source=current.source,
        target=current.target,
        rows=state.rows,
        written=written,
        rejected=state.rejected,
        re_embedded=state.re_embedded,
        uncovered=state.uncovered,
        mismatched=state.mismatched,
        rejects=checkpoint.folder / REJECTS,
        resumed_at=resumed_at,
        seconds=seconds,
        versions=versions._asdict(),
        warnings=warnings,
    )
