"""Blocks of rows: how one is translated, and what a checkpoint keeps of it."""

from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import ConflictError
from stitchwork.migration.base_store import NO_ID, BaseStore
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.re_embedding import Embed
from stitchwork.migration.store import Batch, Id, VectorStore

BLOCK_ROWS: Final = 8192
Uncovered: TypeAlias = Literal["keep", "reject"]
NOT_FINITE: Final = "a number that is not finite"
ZERO: Final = "all its numbers are zero"
NO_DIRECTION: Final = "equals the mean of the source space, so it has no direction"
NOT_COVERED: Final = "not covered by the anchors of the source space"


class Reject(NamedTuple):
    """A row that was not translated.

    Attributes:
        id: Its id.
        reason: The reason.
        is_embedded: Whether it was embedded anew; otherwise it was left out.
    """

    id: Id
    reason: str
    is_embedded: bool


class BlockSummary(NamedTuple):
    """What a checkpoint keeps of a block that is written.

    Attributes:
        cursor: Position in the source after it.
        rows: Rows that were read.
        rejects: The rows that were not translated.
        uncovered: Rows that were written although the anchors do not cover them.
        mismatched: Rows that were written although their lengths do not fit the anchors.
        length_warning: The lengths of those.
        truncated: Rows whose texts were truncated.
        rounded: Numbers of the payload that the target has rounded.
    """

    cursor: Any
    rows: int
    rejects: list[Reject]
    uncovered: int = 0
    mismatched: int = 0
    length_warning: str = ""
    truncated: int = 0
    rounded: int = 0


def written_summary(summary: BlockSummary, target: VectorStore) -> BlockSummary:
    """The summary of a block that a store has just written."""
    rounded = target.take_rounded() if isinstance(target, BaseStore) else 0
    return summary._replace(rounded=rounded)


def translate_block(
    batch: Batch, offline_map: OfflineMap, uncovered: str, re_embed: Embed | None = None
) -> tuple[Batch, BlockSummary]:
    """The rows of a block to write, and its summary.

    Args:
        batch: The rows of the source.
        offline_map: The map.
        uncovered: What happens to rows that the anchors do not cover: `keep` or `reject`.
        re_embed: Embeds rows that are not translated; None leaves them out.

    Raises:
        ConflictError: If its embeddings have another width than the target space.
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
    covered, embedded = mapped.covered, dict[int, NDArray[np.float32]]()
    if reasons:
        translated = np.ones(len(batch), bool)
        translated[list(reasons)] = False
        accepted, covered = batch.vectors[translated], covered[translated]
        if re_embed is not None:
            embedded = _embed_rejects(batch, reasons, re_embed, offline_map)
        for row, vector in embedded.items():
            mapped.rows[row], translated[row] = vector, True
        selected = np.flatnonzero(translated)
        rows = replace(batch.select(selected), vectors=mapped.rows[selected], faults={})
    lengths = offline_map.length_report(accepted)
    summary = BlockSummary(
        cursor=batch.cursor,
        rows=len(batch),
        rejects=[
            Reject(batch.ids[row], reasons[row], is_embedded=row in embedded)
            for row in sorted(reasons)
        ],
        uncovered=int(np.count_nonzero(~covered)),
        mismatched=lengths.mismatched,
        length_warning="".join(lengths.warnings),
    )
    return rows, summary


def _embed_rejects(
    batch: Batch, reasons: dict[int, str], re_embed: Embed, offline_map: OfflineMap
) -> dict[int, NDArray[np.float32]]:
    """Embeddings of rows that are not translated, by their indices; rows without an id have none.

    The reasons of those that are not embedded say why.
    """
    rows = [row for row in sorted(reasons) if not reasons[row].startswith(NO_ID)]
    if not rows:
        return {}
    records = batch.payload.select(np.array(rows, np.intp)).records()
    embedded = dict[int, NDArray[np.float32]]()
    results = re_embed([batch.ids[row] for row in rows], records)
    for row, vector in zip(rows, results, strict=True):
        if isinstance(vector, str):
            reasons[row] = f"{reasons[row]}; {vector}"
            continue
        if vector.shape != (offline_map.target_width,):
            raise ConflictError(
                f"expected embeddings of {offline_map.target_width} numbers in the space "
                f"{offline_map.versions.target}, got {len(vector)}"
            )
        embedded[row] = vector
    return embedded


def _indices(mask: NDArray[np.bool_]) -> list[int]:
    indices: list[int] = np.flatnonzero(mask).tolist()
    return indices
