"""The state of a move on disk: what it is of, the blocks that are complete, and its rejects."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from typing import Any, Final, Self
from uuid import uuid4

import orjson

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.block_transforms import EncoderVersions, Versions
from stitchwork.migration.blocks import BlockSummary, Reject
from stitchwork.migration.offline_map import MapVersions
from stitchwork.migration.part_files import PARTS, remove_leftovers, replacement
from stitchwork.migration.reject_reasons import reason_kind, sum_reasons
from stitchwork.migration.stores import source_key, target_key

FORMAT: Final = 2
CHECKPOINT: Final = "checkpoint.json"
REJECTS: Final = "rejects.jsonl"
LABELS: Final = {
    "block_rows": "number of rows in a block",
    "uncovered": "treatment of rows that the anchors do not cover",
    "rejects": "treatment of rejected rows",
    "texts": "origin of texts",
    "source_version": "version of the source space",
    "target_version": "version of the target space",
    "version": "version of the space",
}
"""What a move is of, in messages."""


@dataclass(frozen=True, slots=True)
class Move:
    """What a move is of; another one does not resume it.

    Attributes:
        source: Name of the source store.
        target: Name of the target store.
        versions: What the rows that it writes are of.
        block_rows: Rows of a block; what is written depends on it in the last digits.
        uncovered: What happens to rows that the anchors do not cover: `keep` or `reject`.
        rejects: What happens to rows that cannot be translated: `left out` or `embedded anew`.
        revision: The content of the source, where it says so.
        texts: Where the inputs of an encoder come from; empty if there are none, or it is not
            known.
    """

    source: str
    target: str
    versions: Versions
    block_rows: int
    uncovered: str
    rejects: str
    revision: str
    texts: str = ""


@dataclass(frozen=True, slots=True)
class MoveProgress:
    """How far a move is.

    Attributes:
        blocks: Number of complete blocks.
        cursor: Position in the source after them.
        rows: Rows that were read.
        rejected: Rows that were left out.
        re_embedded: Rows that were embedded anew.
        uncovered: Rows that were written although the anchors do not cover them.
        mismatched: Rows that were written although their lengths do not fit the anchors.
        length_warning: The lengths of those of the first block with such rows.
        truncated: Rows whose texts were truncated.
        rounded: Numbers of payloads that the target has rounded.
        reasons: Rows that were not translated, by the kind of the reason.
        rejects_bytes: Length of the file of rejects after these blocks.
        is_complete: Whether the target is complete.
    """

    blocks: int = 0
    cursor: Any = None
    rows: int = 0
    rejected: int = 0
    re_embedded: int = 0
    uncovered: int = 0
    mismatched: int = 0
    length_warning: str = ""
    truncated: int = 0
    rounded: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    rejects_bytes: int = 0
    is_complete: bool = False

    @property
    def written(self) -> int:
        """Rows that were written."""
        return self.rows - self.rejected


@dataclass(slots=True)
class Checkpoint:
    """The folder of a move.

    Attributes:
        folder: The folder; it has the checkpoint, the rejects and what the move pins.
        move: What the move is of.
        progress: How far it is.
        id: The id under which it is reported; empty for a move that an earlier release began.
    """

    folder: Path
    move: Move
    progress: MoveProgress = field(default_factory=MoveProgress)
    id: str = ""

    @classmethod
    def begin(cls, folder: Path, move: Move, files: Mapping[str, bytes]) -> Self:
        """The folder of a move that begins.

        Args:
            folder: The folder; it is made.
            move: What the move is of.
            files: What it pins, by names.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CHECKPOINT, REJECTS, *files):
            remove_leftovers(folder / name)
        for name, data in files.items():
            with replacement(folder / name) as file:
                file.write(data)
        with replacement(folder / REJECTS):
            pass
        checkpoint = cls(folder, move, id=uuid4().hex)
        checkpoint.save(checkpoint.progress)
        return checkpoint

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The folder of a move that has begun; None if there is none.

        Raises:
            InvalidInputError: If another release wrote it, or it is corrupt.
        """
        path = folder / CHECKPOINT
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            fields = orjson.loads(data)
            if fields["format"] != FORMAT:
                raise ValueError(f"expected format {FORMAT}, got {fields['format']}")
            versions = _read_versions(fields["move"].pop("versions"))
            move = Move(versions=versions, **fields["move"])
            return cls(folder, move, MoveProgress(**fields["progress"]), fields.get("id", ""))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(
                f"{path}: expected the checkpoint of a move: {error}. To begin anew, remove "
                f"{folder}, and the incomplete target if it exists"
            ) from error

    def files(self, names: Iterable[str]) -> dict[str, bytes]:
        """What the move pinned when it began, by names."""
        return {name: (self.folder / name).read_bytes() for name in names}

    def check(self, move: Move, *, target_exists: bool) -> None:
        """Check that a call is of the same move.

        Args:
            move: What the call is of.
            target_exists: Whether there is a target yet, which would be removed to begin anew.

        Raises:
            ConflictError: If it is not; the message names what differs.
        """
        mine, other = self._fields(self.move), self._fields(move)
        for name, value in mine.items():
            if name == "texts" and not value:
                # Earlier releases did not record them.
                continue
            if other.get(name) != value and not _is_same_store(name, value, other.get(name, "")):
                cause = self._difference(name, value, other.get(name))
                raise ConflictError(f"{cause}{self._advice(target_exists=target_exists)}")

    def _difference(self, name: str, value: Any, other: Any) -> str:
        if name == "revision":
            return f"{self.move.source} has changed since the move to {self.move.target} began"
        return (
            f"{self.folder} is of a move with another {LABELS.get(name, name)}: "
            f"{value or 'unknown'}, now {other or 'unknown'}"
        )

    def _advice(self, *, target_exists: bool) -> str:
        target = self.move.target
        if self.progress.is_complete:
            both = f"{self.folder} and {target}" if target_exists else f"{self.folder}"
            return (
                ". That move is complete: choose another target and another checkpoint, or remove "
                f"{both} to move again"
            )
        rest = f" and the incomplete target {target}" if target_exists else ""
        return f": rows of both would be mixed. To begin anew, remove {self.folder}{rest}"

    def save(self, progress: MoveProgress) -> None:
        """Save how far the move is."""
        self.progress = progress
        versions = self.move.versions._asdict()
        move = {**asdict(self.move), "versions": versions}
        fields = {
            "format": FORMAT,
            "id": self.id,
            "move": move,
            "progress": asdict(progress),
        }
        with replacement(self.folder / CHECKPOINT) as file:
            file.write(orjson.dumps(fields, option=orjson.OPT_INDENT_2))

    def add(self, summary: BlockSummary) -> None:
        """Note that the next block is written."""
        state = self.progress
        embedded = sum(reject.is_embedded for reject in summary.rejects)
        self.save(
            MoveProgress(
                blocks=state.blocks + 1,
                cursor=summary.cursor,
                rows=state.rows + summary.rows,
                rejected=state.rejected + len(summary.rejects) - embedded,
                re_embedded=state.re_embedded + embedded,
                uncovered=state.uncovered + summary.uncovered,
                mismatched=state.mismatched + summary.mismatched,
                length_warning=state.length_warning or summary.length_warning,
                truncated=state.truncated + summary.truncated,
                rounded=state.rounded + summary.rounded,
                reasons=self._count_reasons(summary.rejects),
                rejects_bytes=self._add_rejects(summary.rejects),
            )
        )

    def _count_reasons(self, rejects: list[Reject]) -> dict[str, int]:
        kinds = Counter(reason_kind(reject.reason) for reject in rejects)
        return sum_reasons([self.progress.reasons, kinds])

    def _add_rejects(self, rejects: list[Reject]) -> int:
        """Append rows to the file of rejects, after those of the complete blocks.

        Returns:
            The length of the file.
        """
        with (self.folder / REJECTS).open("r+b") as file:
            # What follows is of a block whose checkpoint was not saved.
            file.truncate(self.progress.rejects_bytes)
            file.seek(self.progress.rejects_bytes)
            for reject in rejects:
                fields: dict[str, Any] = {"id": reject.id, "reason": reject.reason}
                if reject.is_embedded:
                    fields["re_embedded"] = True
                file.write(orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def complete(self) -> None:
        """Note that the target is complete."""
        self.save(replace(self.progress, is_complete=True))

    def remove(self, names: Iterable[str]) -> None:
        """Remove the state of a move that has written nothing, and the folder if it is empty.

        Args:
            names: Names of what it pins.
        """
        rmtree(self.folder / PARTS, ignore_errors=True)
        for name in (CHECKPOINT, REJECTS, *names):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    @staticmethod
    def _fields(move: Move) -> dict[str, Any]:
        fields = {**asdict(move), **move.versions._asdict()}
        del fields["versions"]
        stores = {"source": move.source, "target": move.target}
        if isinstance(move.versions, EncoderVersions):
            return {**fields, **stores}
        spaces = {"source space": move.versions.source, "target space": move.versions.target}
        return {**fields, **stores, **spaces}


def _read_versions(fields: dict[str, str]) -> Versions:
    return EncoderVersions(**fields) if "space" in fields else MapVersions(**fields)


def _is_same_store(name: str, value: str, other: str) -> bool:
    """Whether two names of the source, or of the target, are of one store."""
    keys = {"source": source_key, "target": target_key}
    return name in keys and keys[name](value) == keys[name](other)
