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
from stitchwork.migration.checkpoints import Checkpoint, Move
from stitchwork.migration.file_store import FileStore
from stitchwork.migration.move_locks import exclusive_move
from stitchwork.migration.move_results import LEFT_OUT, MoveResult, to_result
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


def move(
    source: VectorStore,
    target: VectorStore,
    offline_map: OfflineMap,
    folder: Path,
    *,
    uncovered: Uncovered = "keep",
    re_embed: Embed | None = None,
    block_rows: int = BLOCK_ROWS,
    allows_empty: bool = False,
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
        allows_empty: Whether a source without rows is moved, to a target without rows.
        progress: Called with the rows that are done and all rows.
        engine: What writes the blocks; the result is the same.

    Raises:
        ConflictError: If the target exists, the move has begun with other versions, another
            bridge, other options or another content of the source, another move to the target or
            with the same folder is running, or the target has not the rows that were written.
        InvalidInputError: If the source has no rows and may not be empty, or its vectors have
            another width than the map.
    """
    return StoreMove(
        source,
        target,
        offline_map,
        folder,
        uncovered=uncovered,
        re_embed=re_embed,
        block_rows=block_rows,
        allows_empty=allows_empty,
        progress=progress,
        engine=engine,
    ).run()


@dataclass(frozen=True, slots=True, eq=False)
class StoreMove:
    """A move of a store to another, with all that it depends on.

    Attributes:
        source: The store to read.
        target: The store to create.
        offline_map: The map, of the current versions of both spaces.
        folder: Where the checkpoint is.
        uncovered: What happens to rows that the anchors do not cover.
        re_embed: Embeds rows that cannot be translated.
        block_rows: Rows of a block.
        allows_empty: Whether a source without rows is moved.
        progress: Called with the rows that are done and all rows.
        engine: What writes the blocks.

    Raises:
        InvalidInputError: If blocks have no rows.
    """

    source: VectorStore
    target: VectorStore
    offline_map: OfflineMap
    folder: Path
    uncovered: Uncovered
    re_embed: Embed | None
    block_rows: int
    allows_empty: bool
    progress: Callable[[int, int], None]
    engine: Engine

    def __post_init__(self) -> None:
        if self.block_rows < 1:
            raise InvalidInputError(f"expected at least 1 row in a block, got {self.block_rows}")

    def run(self) -> MoveResult:
        """Move the rows that are not moved yet; see `move`."""
        start = time.perf_counter()
        with exclusive_move(self.folder, self.target.name):
            self.engine.check_stores(self.source, self.target)
            current = self._identity()
            checkpoint = Checkpoint.read(self.folder)
            if checkpoint is None:
                checkpoint = self._begin(current)
            else:
                checkpoint.check(current, target_exists=self.target.exists())
            resumed_at = checkpoint.progress.rows
            total, has_changed = self.source.count(), False
            if checkpoint.progress.is_complete:
                _check_complete_target(self.target, checkpoint)
            else:
                self._complete(checkpoint, total)
                revision = current.revision
                has_changed = bool(revision) and self.source.revision() != revision
        seconds = time.perf_counter() - start
        return to_result(
            self.target, checkpoint, total, resumed_at, seconds, has_changed=has_changed
        )

    def _identity(self) -> Move:
        """What a checkpoint keeps of this move, by which it is resumed."""
        is_part = isinstance(self.target, BaseStore) and self.target.is_part_of(self.source)
        re_embed = self.re_embed
        return Move(
            self.source.name,
            self.target.name,
            self.offline_map.versions,
            self.block_rows,
            self.uncovered,
            LEFT_OUT if re_embed is None else "embedded anew",
            "" if is_part else self.source.revision(),
            re_embed.texts.origin() if isinstance(re_embed, TextEmbedder) else "",
        )

    def _begin(self, current: Move) -> Checkpoint:
        """The checkpoint of a move that begins; what it cannot read is refused before."""
        if isinstance(self.re_embed, TextEmbedder):
            self.re_embed.texts.check(self.source)
        if self.target.exists():
            raise ConflictError(
                f"{self.target.name} exists already, and {self.folder} has no checkpoint of a move "
                "to it: choose another target"
            )
        if self.source.count():
            check_dimension(self.source, self.offline_map)
            # An unreadable source is refused before anything is written.
            next(self.source.scan(self.block_rows), None)
        elif not self.allows_empty:
            raise InvalidInputError(f"{self.source.name}: expected rows, got none")
        return Checkpoint.begin(self.folder, current, self.offline_map)

    def _complete(self, checkpoint: Checkpoint, total: int) -> None:
        """Write what a checkpoint lacks, and complete the target."""
        try:
            self._write(checkpoint, total)
        except Exception:
            if not checkpoint.progress.blocks and not self.target.exists():
                # So that the corrected command begins anew.
                checkpoint.remove()
            raise

    def _write(self, checkpoint: Checkpoint, total: int) -> None:
        source, target = self.source, self.target
        # Byte for byte the same map: one of the same versions may be rounded differently.
        offline_map = checkpoint.offline_map()
        if isinstance(source, BaseStore):
            source.requires_payload = self.re_embed is not None
        stamp = offline_map.versions._asdict()
        target.create(source, offline_map.target_width, checkpoint.folder, stamp)
        self.progress(checkpoint.progress.rows, total)
        self.engine.write_blocks(
            source,
            target,
            offline_map,
            checkpoint,
            self.re_embed,
            lambda rows: self.progress(rows, max(total, rows)),
        )
        target.finish()
        expected, actual = checkpoint.progress.written, target.count()
        if actual != expected:
            raise ConflictError(
                f"{target.name}: expected {expected} rows, it has {actual}. Either rows of the "
                "source with the same id have replaced one another, or something else has removed "
                f"or added rows, or parts in {checkpoint.folder}, during the move. Remove the "
                "target and that folder to move anew"
            )
        if isinstance(target, BaseStore):
            target.mark_complete()
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


def check_dimension(source: VectorStore, offline_map: OfflineMap) -> None:
    """Check that the vectors of a store have the width of the source space of a map.

    Raises:
        InvalidInputError: If they have another, or it is not clear which column has the vectors.
    """
    width, expected = source.dimension(), offline_map.source_width
    if width != expected:
        raise InvalidInputError(
            f"{source.name}: expected vectors of {expected} numbers, which the space "
            f"{offline_map.versions.source} has, got {width}"
        )
