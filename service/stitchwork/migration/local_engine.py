"""Moves a store on this machine, a block after the other."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.inference.length_report import LengthReport
from stitchwork.migration.checkpoints import REJECTS, Checkpoint, Move, MoveProgress
from stitchwork.migration.move_locks import exclusive_move
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.store import Batch, Id, VectorStore

BLOCK_ROWS: Final = 8192
Uncovered: TypeAlias = Literal["keep", "reject"]
NOT_FINITE: Final = "a number that is not finite"
ZERO: Final = "all its numbers are zero"
NO_DIRECTION: Final = "equals the mean of the source space, so it has no direction"
NOT_COVERED: Final = "not covered by the anchors of the source space"


@dataclass(frozen=True, slots=True)
class MoveResult:
    """What a move has done.

    Attributes:
        source: Name of the source store.
        target: Name of the target store.
        rows: Rows that were read.
        written: Rows that were written.
        rejected: Rows that were left out; the file `rejects` lists them.
        uncovered: Rows that were written although the anchors do not cover them.
        mismatched: Rows that were written although their lengths do not fit the anchors.
        rejects: The file of the rows that were left out.
        resumed_at: Row that this call began at; 0 for a move that was not resumed.
        seconds: Time that this call took.
        versions: Spaces, versions and bridge of the map.
        warnings: What is doubtful.
    """

    source: str
    target: str
    rows: int
    written: int
    rejected: int
    uncovered: int
    mismatched: int
    rejects: Path
    resumed_at: int
    seconds: float
    versions: dict[str, str]
    warnings: list[str]


def move(
    source: VectorStore,
    target: VectorStore,
    offline_map: OfflineMap,
    folder: Path,
    *,
    uncovered: Uncovered = "keep",
    block_rows: int = BLOCK_ROWS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MoveResult:
    """Translate all rows of a store into another, which is created.

    A move that ended early goes on after its last complete block when it is called again with the
    same arguments.

    Args:
        source: The store to read; it is not changed.
        target: The store to create.
        offline_map: The map, of the current versions of both spaces.
        folder: Where the checkpoint is, on this machine; it is made.
        uncovered: Whether rows that the anchors do not cover are written or left out.
        block_rows: Rows of a block.
        progress: Called with the rows that are done and all rows.

    Raises:
        ConflictError: If the target exists, the move has begun with other versions, another
            bridge, other options or another content of the source, another move to the target or
            with the same folder is running, or the target has not the rows that were written.
        InvalidInputError: If the source has no rows, or vectors of another width than the map.
    """
    if block_rows < 1:
        raise InvalidInputError(f"expected at least 1 row in a block, got {block_rows}")
    with exclusive_move(folder, target.name):
        return _move(source, target, offline_map, folder, uncovered, block_rows, progress)


def _move(
    source: VectorStore,
    target: VectorStore,
    offline_map: OfflineMap,
    folder: Path,
    uncovered: Uncovered,
    block_rows: int,
    progress: Callable[[int, int], None],
) -> MoveResult:
    start = time.perf_counter()
    current = Move(
        source.name, target.name, offline_map.versions, block_rows, uncovered, source.revision()
    )
    checkpoint = Checkpoint.read(folder)
    if checkpoint is None:
        checkpoint = _begin(source, target, offline_map, folder, current)
    else:
        checkpoint.check(current)
        # Byte for byte the same map: one of the same versions may be rounded differently.
        offline_map = checkpoint.offline_map()
    resumed_at = checkpoint.progress.rows
    total = source.count()
    if checkpoint.progress.is_complete:
        _check_complete_target(target, checkpoint)
    else:
        try:
            _write(source, target, offline_map, checkpoint, total, progress)
        except Exception:
            if not checkpoint.progress.blocks and not target.exists():
                # So that the corrected command begins anew.
                checkpoint.remove()
            raise
    return _result(target, checkpoint, total, resumed_at, time.perf_counter() - start)


def _write(
    source: VectorStore,
    target: VectorStore,
    offline_map: OfflineMap,
    checkpoint: Checkpoint,
    total: int,
    progress: Callable[[int, int], None],
) -> None:
    stamp = offline_map.versions._asdict()
    target.create(source, offline_map.target_width, checkpoint.folder, stamp)
    _write_blocks(source, target, offline_map, checkpoint, total, progress)
    target.finish()
    expected, actual = checkpoint.progress.written, target.count()
    if actual != expected:
        raise ConflictError(
            f"{target.name}: expected {expected} rows, it has {actual}. Either rows of the source "
            "with the same id have replaced one another, or something else has removed or added "
            f"rows, or parts in {checkpoint.folder}, during the move. Remove the target and that "
            "folder to move anew"
        )
    checkpoint.complete()


def _check_complete_target(target: VectorStore, checkpoint: Checkpoint) -> None:
    folder, expected = checkpoint.folder, checkpoint.progress.written
    if not target.exists():
        raise ConflictError(
            f"{target.name} does not exist, and by {folder} the move to it is complete: it was "
            "removed since. To move again, remove that folder"
        )
    if (actual := target.count()) < expected:
        raise ConflictError(
            f"{target.name}: expected {expected} rows, which the move to it wrote, it has "
            f"{actual}: rows were removed since. To move again, remove it and {folder}"
        )


def _begin(
    source: VectorStore, target: VectorStore, offline_map: OfflineMap, folder: Path, current: Move
) -> Checkpoint:
    if target.exists():
        raise ConflictError(
            f"{target.name} exists already, and {folder} has no checkpoint of a move to it: choose "
            "another target"
        )
    width, expected = source.dimension(), offline_map.source_width
    if width != expected:
        raise InvalidInputError(
            f"{source.name}: expected vectors of {expected} numbers, which the space "
            f"{current.versions.source} has, got {width}"
        )
    if not source.count():
        raise InvalidInputError(f"{source.name}: expected rows, got none")
    # An unreadable source is refused before anything is written.
    next(source.scan(current.block_rows), None)
    return Checkpoint.begin(folder, current, offline_map)


def _write_blocks(
    source: VectorStore,
    target: VectorStore,
    offline_map: OfflineMap,
    checkpoint: Checkpoint,
    total: int,
    progress: Callable[[int, int], None],
) -> None:
    state = checkpoint.progress
    progress(state.rows, total)
    for batch in source.scan(checkpoint.move.block_rows, state.cursor):
        translation = _translate(batch, offline_map, checkpoint.move.uncovered)
        target.write(state.blocks, translation.rows)
        lengths = translation.lengths
        state = MoveProgress(
            blocks=state.blocks + 1,
            cursor=batch.cursor,
            rows=state.rows + len(batch),
            rejected=state.rejected + len(translation.rejects),
            uncovered=state.uncovered + translation.uncovered,
            mismatched=state.mismatched + lengths.mismatched,
            length_warning=state.length_warning or "".join(lengths.warnings),
            rejects_bytes=checkpoint.add_rejects(translation.rejects),
        )
        checkpoint.save(state)
        progress(state.rows, max(total, state.rows))


class _Translation(NamedTuple):
    """A block: the rows to write, those to leave out with the reasons, and what is doubtful."""

    rows: Batch
    rejects: list[tuple[Id, str]]
    uncovered: int
    lengths: LengthReport


def _translate(batch: Batch, offline_map: OfflineMap, uncovered: str) -> _Translation:
    mapped = offline_map.apply(batch.vectors)
    reasons: dict[int, str] = {}
    if uncovered == "reject":
        reasons |= dict.fromkeys(_indices(~mapped.covered), NOT_COVERED)
    reasons |= dict.fromkeys(_indices(~mapped.defined), NO_DIRECTION)
    reasons |= dict.fromkeys(_indices(mapped.zero), ZERO)
    reasons |= dict.fromkeys(_indices(~mapped.finite), NOT_FINITE)
    reasons |= batch.faults
    rejects = [(batch.ids[row], reasons[row]) for row in sorted(reasons)]
    if not rejects:
        rows = replace(batch, vectors=mapped.rows)
        count = int(np.count_nonzero(~mapped.covered))
        return _Translation(rows, rejects, count, offline_map.length_report(batch.vectors))
    accepted = np.ones(len(batch), bool)
    accepted[list(reasons)] = False
    selected = np.flatnonzero(accepted)
    rows = replace(batch.select(selected), vectors=mapped.rows[selected])
    count = int(np.count_nonzero(~mapped.covered[selected]))
    lengths = offline_map.length_report(batch.vectors[selected])
    return _Translation(rows, rejects, count, lengths)


def _indices(mask: NDArray[np.bool_]) -> list[int]:
    indices: list[int] = np.flatnonzero(mask).tolist()
    return indices


def _result(
    target: VectorStore, checkpoint: Checkpoint, total: int, resumed_at: int, seconds: float
) -> MoveResult:
    state, current = checkpoint.progress, checkpoint.move
    written, stored = state.written, target.count()
    warnings = []
    if stored > written:
        warnings.append(
            f"{target.name} has {stored} rows, and the move wrote {written}: rows were added since"
        )
    if total != state.rows:
        warnings.append(
            f"{current.source} has {total} rows now, and {state.rows} were read: it changed during "
            "the move or since"
        )
    if state.uncovered:
        warnings.append(
            f"{state.uncovered} of {written} rows are not covered by the anchors of "
            f"{current.versions.source}: their translations are unreliable"
        )
    if state.mismatched:
        warnings.append(
            f"the lengths of {state.mismatched} of {written} rows do not fit the space "
            f"{current.versions.source}; in the first block with such rows, {state.length_warning}"
        )
    return MoveResult(
        source=current.source,
        target=current.target,
        rows=state.rows,
        written=written,
        rejected=state.rejected,
        uncovered=state.uncovered,
        mismatched=state.mismatched,
        rejects=checkpoint.folder / REJECTS,
        resumed_at=resumed_at,
        seconds=seconds,
        versions=current.versions._asdict(),
        warnings=warnings,
    )
