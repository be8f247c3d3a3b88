"""Blocks of rows: how one is translated, and what a checkpoint keeps of it."""

from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.store import Batch, Id

BLOCK_ROWS: Final = 8192
Uncovered: TypeAlias = Literal["keep", "reject"]
NOT_FINITE: Final = "a number that is not finite"
ZERO: Final = "all its numbers are zero"
NO_DIRECTION: Final = "equals the mean of the source space, so it has no direction"
NOT_COVERED: Final = "not covered by the anchors of the source space"


class BlockSummary(NamedTuple):
    """What a checkpoint keeps of a block that is written.

    Attributes:
        cursor: Position in the source after it.
        rows: Rows that were read.
        rejects: Ids of the rows that were left out, with the reasons.
        uncovered: Rows that were written although the anchors do not cover them.
        mismatched: Rows that were written although their lengths do not fit the anchors.
        length_warning: The lengths of those.
    """

    cursor: Any
    rows: int
    rejects: list[tuple[Id, str]]
    uncovered: int
    mismatched: int
    length_warning: str


def translate_block(
    batch: Batch, offline_map: OfflineMap, uncovered: str
) -> tuple[Batch, BlockSummary]:
    """The rows of a block to write, and its summary.

    Args:
        batch: The rows of the source.
        offline_map: The map.
        uncovered: What happens to rows that the anchors do not cover: `keep` or `reject`.
    """
    mapped = offline_map.apply(batch.vectors)
    reasons: dict[int, str] = {}
    if uncovered == "reject":
        reasons |= dict.fromkeys(_indices(~mapped.covered), NOT_COVERED)
    reasons |= dict.fromkeys(_indices(~mapped.defined), NO_DIRECTION)
    reasons |= dict.fromkeys(_indices(mapped.zero), ZERO)
    reasons |= dict.fromkeys(_indices(~mapped.finite), NOT_FINITE)
    reasons |= batch.faults
    rows, accepted = replace(batch, vectors=mapped.rows), batch.vectors
    covered = mapped.covered
    if reasons:
        mask = np.ones(len(batch), bool)
        mask[list(reasons)] = False
        selected = np.flatnonzero(mask)
        rows = replace(batch.select(selected), vectors=mapped.rows[selected])
        accepted, covered = batch.vectors[selected], covered[selected]
    lengths = offline_map.length_report(accepted)
    summary = BlockSummary(
        cursor=batch.cursor,
        rows=len(batch),
        rejects=[(batch.ids[row], reasons[row]) for row in sorted(reasons)],
        uncovered=int(np.count_nonzero(~covered)),
        mismatched=lengths.mismatched,
        length_warning="".join(lengths.warnings),
    )
    return rows, summary


def _indices(mask: NDArray[np.bool_]) -> list[int]:
    indices: list[int] = np.flatnonzero(mask).tolist()
    return indices
