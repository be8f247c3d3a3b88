"""Moves a store, a block after the other."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.base_store import BaseStore
from stitchwork.migration.block_transforms import BlockTransform
from stitchwork.migration.blocks import BLOCK_ROWS, BlockSummary, Uncovered, written_summary
from stitchwork.migration.checkpoints import Checkpoint, Move
from stitchwork.migration.file_store import FileStore
from stitchwork.migration.move_locks import exclusive_move
from stitchwork.migration.move_results import MoveResult, to_result
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.overlap import read_ahead, write_behind
from stitchwork.migration.re_embedding import Embed, TextEmbedder
from stitchwork.migration.row_texts import NoTexts
from stitchwork.migration.space_translation import SpaceTranslation
from stitchwork.migration.store import Batch, VectorStore


class Engine(Protocol):
    """Writes the blocks of a move."""

    def check(self, source: VectorStore, target: VectorStore, transform: BlockTransform) -> None:
        """Check that the engine can read, transform and write, before a move begins.

        Raises:
            InvalidInputError: If it cannot.
        """

    def write_blocks(
        self,
        source: VectorStore,
        target: VectorStore,
        transform: BlockTransform,
        checkpoint: Checkpoint,
        progress: Callable[[int], None],
    ) -> None:
        """Write the blocks that a checkpoint lacks.

        Args:
            source: The store to read.
            target: The store to write, which is created.
            transform: Makes the rows to write.
            checkpoint: What is written; each block is added to it, in their order.
            progress: Called with the rows that are done.
        """


class LocalEngine:
    """Writes blocks in this process, one after the other.

    Files are read and written in threads, beside the transform.
    """

    def check(self, source: VectorStore, target: VectorStore, transform: BlockTransform) -> None:
        """All stores can be read and written."""

    def write_blocks(
        self,
        source: VectorStore,
        target: VectorStore,
        transform: BlockTransform,
        checkpoint: Checkpoint,
        progress: Callable[[int], None],
    ) -> None:
        """Write the blocks that a checkpoint lacks."""

        def write(rows: Batch, summary: BlockSummary) -> None:
            target.write(checkpoint.progress.blocks, rows)
            checkpoint.add(written_summary(summary, target))
            progress(checkpoint.progress.rows)

        with ExitStack() as stack:
            batches = source.scan(checkpoint.move.block_rows, checkpoint.progress.cursor)
            if isinstance(source, FileStore) and isinstance(target, FileStore):
                # The clients of other stores may not be used by several threads.
                batches = stack.enter_context(read_ahead(batches))
                write = stack.enter_context(write_behind(write))
            for batch in batches:
                write(*transform(batch))


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
    texts = re_embed.texts if isinstance(re_embed, TextEmbedder) else NoTexts()
    return StoreMove(
        source,
        target,
        SpaceTranslation(offline_map, uncovered, re_embed, texts),
        folder,
        block_rows,
        progress,
        engine,
        allows_empty=allows_empty,
    ).run()


@dataclass(frozen=True, slots=True, eq=False)
class StoreMove:
    """A move of a store to another, with all that it depends on.

    Attributes:
        source: The store to read.
        target: The store to create.
        transform: Makes the rows to write.
        folder: Where the checkpoint is.
        block_rows: Rows of a block.
        progress: Called with the rows that are done and all rows.
        engine: What writes the blocks.
        allows_empty: Whether a source without rows is moved, to a target without rows.

    Raises:
        InvalidInputError: If blocks have no rows.
    """

    source: VectorStore
    target: VectorStore
    transform: BlockTransform
    folder: Path
    block_rows: int
    progress: Callable[[int, int], None] = lambda done, total: None
    engine: Engine = LOCAL
    allows_empty: bool = False

    def __post_init__(self) -> None:
        if self.block_rows < 1:
            raise InvalidInputError(f"expected at least 1 row in a block, got {self.block_rows}")

    def run(self) -> MoveResult:
        """Move the rows that are not moved yet; see `move`."""
        start = time.perf_counter()
        with exclusive_move(self.folder, self.target.name):
            self.engine.check(self.source, self.target, self.transform)
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
        return Move(
            source=self.source.name,
            target=self.target.name,
            versions=self.transform.versions,
            block_rows=self.block_rows,
            revision="" if is_part else self.source.revision(),
            **self.transform.identity()._asdict(),
        )

    def _begin(self, current: Move) -> Checkpoint:
        """The checkpoint of a move that begins; what it cannot read is refused before."""
        self.transform.check(self.source)
        if self.target.exists():
            raise ConflictError(
                f"{self.target.name} exists already, and {self.folder} has no checkpoint of a move "
                "to it: choose another target"
            )
        if self.source.count():
            # An unreadable source is refused before anything is written.
            next(self.source.scan(self.block_rows), None)
        elif not self.allows_empty:
            raise InvalidInputError(f"{self.source.name}: expected rows, got none")
        return Checkpoint.begin(self.folder, current, self.transform.files())

    def _complete(self, checkpoint: Checkpoint, total: int) -> None:
        """Write what a checkpoint lacks, and complete the target."""
        try:
            self._write(checkpoint, total)
        except Exception:
            if not checkpoint.progress.blocks and not self.target.exists():
                # So that the corrected command begins anew.
                checkpoint.remove(self.transform.files())
            raise

    def _write(self, checkpoint: Checkpoint, total: int) -> None:
        source, target = self.source, self.target
        transform = self.transform.pinned(checkpoint.files(self.transform.files()))
        if isinstance(source, BaseStore):
            source.requires_payload = transform.requires_payload
        stamp = transform.versions._asdict()
        target.create(source, transform.width, checkpoint.folder, stamp)
        self.progress(checkpoint.progress.rows, total)
        self.engine.write_blocks(
            source,
            target,
            transform,
            checkpoint,
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
            f"{actual}: rows were removed, or have expired, since. To move again, remove it and "
            f"{folder}"
        )
