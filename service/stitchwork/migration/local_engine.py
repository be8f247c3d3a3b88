"""Moves a store, a block after the other."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.base_store import BaseStore
from stitchwork.migration.blocks import BLOCK_ROWS, BlockSummary, Uncovered, translate_block
from stitchwork.migration.checkpoints import REJECTS, Checkpoint, Move
from stitchwork.migration.file_store import FileStore
from stitchwork.migration.move_locks import exclusive_move
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.overlap import read_ahead, write_behind
from stitchwork.migration.re_embedding import Embed, TextEmbedder
from stitchwork.migration.store import Batch, VectorStore


class Engine(Protocol):
    """Writes the blocks of a move."""

    def check_stores(self, source: VectorStore, target: VectorStore) -> None:
        """Check that the engine can read and write two stores, before a move begins.

        Raises:
            InvalidInputError: If it cannot.
        """

    def write_blocks(
        self,
        source: VectorStore,
        target: VectorStore,
        offline_map: OfflineMap,
        checkpoint: Checkpoint,
        re_embed: Embed | None,
        progress: Callable[[int], None],
    ) -> None:
        """Write the blocks that a checkpoint lacks.

        Args:
            source: The store to read.
            target: The store to write, which is created.
            offline_map: The map.
            checkpoint: What is written; each block is added to it, in their order.
            re_embed: Embeds rows that cannot be translated; None leaves them out.
            progress: Called with the rows that are done.
        """


class LocalEngine:
    """Writes blocks in this process, one after the other.

    Files are read and written in threads, beside the translation.
    """

    def check_stores(self, source: VectorStore, target: VectorStore) -> None:
        """All stores can be read and written."""

    def write_blocks(
        self,
        source: VectorStore,
        target: VectorStore,
        offline_map: OfflineMap,
        checkpoint: Checkpoint,
        re_embed: Embed | None,
        progress: Callable[[int], None],
    ) -> None:
        """Write the blocks that a checkpoint lacks."""
        move = checkpoint.move

        def write(rows: Batch, summary: BlockSummary) -> None:
            target.write(checkpoint.progress.blocks, rows)
            checkpoint.add(summary)
            progress(checkpoint.progress.rows)

        with ExitStack() as stack:
            batches = source.scan(move.block_rows, checkpoint.progress.cursor)
            if isinstance(source, FileStore) and isinstance(target, FileStore):
                # The clients of other stores may not be used by several threads.
                batches = stack.enter_context(read_ahead(batches))
                write = stack.enter_context(write_behind(write))
            for batch in batches:
                write(*translate_block(batch, offline_map, move.uncovered, re_embed))


LOCAL: Final = LocalEngine()
LEFT_OUT: Final = "left out"


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
        versions: Spaces, versions and bridge of the map.
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


def move(
    source: VectorStore,
    target: VectorStore,
    offline_map: OfflineMap,
    folder: Path,
    *,
    uncovered: Uncovered = "keep",
    re_embed: Embed | None = None,
    block_rows: int = BLOCK_ROWS,
    progress: Callable[[int, int], None] = lambda done, total: None,
    engine: Engine = LOCAL,
) -> MoveResult:
    """Translate all rows of a store into another, which is created.

    A move that ended early goes on after its last complete block when it is called again with the
    same arguments.

    Args:
        source: The store to read; it is not changed.
        target: The store to create.
        offline_map: The map, of the current versions of both spaces.
        folder: Where the checkpoint is, on this machine; it is made.
        uncovered: Whether rows that the anchors do not cover are translated, or treated as those
            that cannot be.
        re_embed: Embeds rows that cannot be translated; without it, and without a text, they are
            left out.
        block_rows: Rows of a block.
        progress: Called with the rows that are done and all rows.
        engine: What writes the blocks; the result is the same.

    Raises:
        ConflictError: If the target exists, the move has begun with other versions, another
            bridge, other options or another content of the source, another move to the target or
            with the same folder is running, or the target has not the rows that were written.
        InvalidInputError: If the source has no rows, or vectors of another width than the map.
    """
    if block_rows < 1:
        raise InvalidInputError(f"expected at least 1 row in a block, got {block_rows}")
    with exclusive_move(folder, target.name):
        is_part = isinstance(target, BaseStore) and target.is_part_of(source)
        current = Move(
            source.name,
            target.name,
            offline_map.versions,
            block_rows,
            uncovered,
            LEFT_OUT if re_embed is None else "embedded anew",
            "" if is_part else source.revision(),
            re_embed.texts.origin() if isinstance(re_embed, TextEmbedder) else "",
        )
        return _move(source, target, offline_map, folder, current, re_embed, progress, engine)


def _move(
    source: VectorStore,
    target: VectorStore,
    offline_map: OfflineMap,
    folder: Path,
    current: Move,
    re_embed: Embed | None,
    progress: Callable[[int, int], None],
    engine: Engine,
) -> MoveResult:
    start = time.perf_counter()
    engine.check_stores(source, target)
    checkpoint = Checkpoint.read(folder)
    if checkpoint is None:
        if isinstance(re_embed, TextEmbedder):
            re_embed.texts.check(source)
        checkpoint = _begin(source, target, offline_map, folder, current)
    else:
        checkpoint.check(current, target_exists=target.exists())
        # Byte for byte the same map: one of the same versions may be rounded differently.
        offline_map = checkpoint.offline_map()
    resumed_at = checkpoint.progress.rows
    total, has_changed = source.count(), False
    if checkpoint.progress.is_complete:
        _check_complete_target(target, checkpoint)
    else:
        try:
            _write(source, target, offline_map, checkpoint, total, re_embed, progress, engine)
        except Exception:
            if not checkpoint.progress.blocks and not target.exists():
                # So that the corrected command begins anew.
                checkpoint.remove()
            raise
        has_changed = bool(current.revision) and source.revision() != current.revision
    seconds = time.perf_counter() - start
    return _result(target, checkpoint, total, resumed_at, seconds, has_changed=has_changed)


def _write(
    source: VectorStore,
    target: VectorStore,
    offline_map: OfflineMap,
    checkpoint: Checkpoint,
    total: int,
    re_embed: Embed | None,
    progress: Callable[[int, int], None],
    engine: Engine,
) -> None:
    if isinstance(source, BaseStore):
        source.requires_payload = re_embed is not None
    stamp = offline_map.versions._asdict()
    target.create(source, offline_map.target_width, checkpoint.folder, stamp)
    progress(checkpoint.progress.rows, total)
    engine.write_blocks(
        source,
        target,
        offline_map,
        checkpoint,
        re_embed,
        lambda rows: progress(rows, max(total, rows)),
    )
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


def _result(
    target: VectorStore,
    checkpoint: Checkpoint,
    total: int,
    resumed_at: int,
    seconds: float,
    *,
    has_changed: bool,
) -> MoveResult:
    state, current = checkpoint.progress, checkpoint.move
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
            f"{f'in {current.texts}' if current.texts else 'to embed'}, or no id; {REJECTS} lists "
            f"them{'' if state.re_embedded else '. No row was embedded anew'}"
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
        re_embedded=state.re_embedded,
        uncovered=state.uncovered,
        mismatched=state.mismatched,
        rejects=checkpoint.folder / REJECTS,
        resumed_at=resumed_at,
        seconds=seconds,
        versions=current.versions._asdict(),
        warnings=warnings,
    )
