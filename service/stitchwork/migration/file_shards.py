"""Shards of a folder of Parquet files: processes of any scheduler move one each, file by file."""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar
from urllib.parse import urlencode
from uuid import uuid4

import orjson

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.block_transforms import BlockTransform
from stitchwork.migration.blocks import BLOCK_ROWS
from stitchwork.migration.checkpoints import LABELS
from stitchwork.migration.local_engine import StoreMove
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.parquet_folders import list_parquet_files
from stitchwork.migration.part_files import creation
from stitchwork.migration.store import VectorStore
from stitchwork.migration.stores import client_errors, open_parquet_file, split_url

T = TypeVar("T")
SUFFIX: Final = ".parquet"
SHARDS: Final = "shards.json"
"""File of what all shards have in common, beside the map."""
NUMBER_OF_SHARDS: Final = "number of shards"
MAX_NAMES: Final = 3
"""Files that a message names."""


@dataclass(frozen=True, slots=True)
class FileShard:
    """One of several shares of a list of files.

    Attributes:
        index: Its number, from 0.
        count: Number of all shards.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """A shard by its text, such as `0/8`, the first one of eight.

        Raises:
            InvalidInputError: If it is none.
        """
        numbers = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        shard = cls(int(numbers[1]), int(numbers[2])) if numbers else None
        if shard is None or shard.index >= shard.count:
            raise InvalidInputError(
                f"expected a shard as INDEX/COUNT, with an index from 0 to COUNT - 1, got {text}"
            )
        return shard

    def select(self, files: Sequence[T]) -> list[T]:
        """Its share of files: every so many of them, from its index on."""
        return list(files[self.index :: self.count])


class ShardPlan(NamedTuple):
    """What all shards have in common.

    Attributes:
        id: The id under which they are reported, each with its number; empty if an earlier release
            wrote the plan.
        shards: Number of the shards.
        target: The folder that they write, as `folder_key` has it.
        files: The files of all, in the order of their names.
    """

    id: str
    shards: int
    target: str
    files: list[str]


class OpenFile(Protocol):
    """Opens a file of a folder as a store."""

    def __call__(self, folder: str, name: str, /) -> VectorStore:
        """Open a file by the path of the folder, with options, and its path in there."""


def move_shard(
    source: str,
    target: str,
    transform: BlockTransform,
    folder: Path,
    shard: FileShard,
    *,
    block_rows: int = BLOCK_ROWS,
    open_source: OpenFile = open_parquet_file,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[MoveResult]:
    """Move a share of the files of a folder, each to a file of its name in another folder.

    Files that are moved already are skipped. All shards, whenever they begin, use what the first
    one has pinned in the folder of checkpoints, such as the map. They must have its source, target,
    number of shards, options and list of files too.

    Args:
        source: The folder of Parquet files, with options.
        target: The folder to write, with options.
        transform: Makes the rows to write, by the current versions.
        folder: Where the checkpoints of all shards are.
        shard: The share; the files are taken in the order of their names.
        block_rows: Rows of a block.
        open_source: Opens a file of the source.
        progress: Called with the rows that are done, and all rows of the shard.

    Returns:
        The results of the files, in the order of their names.

    Raises:
        ConflictError: If other shards began with other versions, another bridge, source, target,
            number of shards, option or list of files, or a file cannot be moved.
        InvalidInputError: If the source is no folder of Parquet files of this machine, the target
            is inside it, or the transform does not suit a file.
    """
    names = _file_names(source, target)
    chosen, totals = shard.select(names), list[int]()
    for name in chosen:
        # Before anything is pinned: the corrected command would be refused.
        with open_source(source, name) as rows, open_parquet_file(target, name):
            transform.check(rows)
            totals.append(rows.count())
    pinned = _pin_transform(transform, folder)
    path, identity = Path(split_url(source)[0]), transform.identity()
    fields = {
        "source": folder_key(source),
        "target": folder_key(target),
        NUMBER_OF_SHARDS: shard.count,
        "block_rows": block_rows,
        "uncovered": identity.uncovered,
        "texts": identity.texts,
    }
    _pin_plan(fields, {name: (path / name).stat().st_size for name in names}, folder)
    results, done = list[MoveResult](), 0
    for name, count in zip(chosen, totals, strict=True):
        (Path(split_url(target)[0]) / name).parent.mkdir(parents=True, exist_ok=True)
        state = folder / f"{name}.migration"

        def show(rows: int, _: int, start: int = done) -> None:
            progress(start + rows, sum(totals))

        with (
            open_source(source, name) as rows,
            open_parquet_file(target, name) as moved,
            client_errors(rows, moved),
        ):
            file_move = StoreMove(rows, moved, pinned, state, block_rows, show, allows_empty=True)
            results.append(file_move.run())
        done += count
    return results


def read_plan(folder: Path) -> ShardPlan | None:
    """The plan of the shards whose checkpoints are in a folder; None if there is none.

    Raises:
        InvalidInputError: If it is corrupt.
    """
    path = folder / SHARDS
    if not path.exists():
        return None
    try:
        plan = orjson.loads(path.read_bytes())
        count, target = (plan["fields"][name] for name in (NUMBER_OF_SHARDS, "target"))
        return ShardPlan(plan.get("id", ""), count, target, list(plan["files"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"{path}: expected the plan of shards: {error}") from error


def _file_names(source: str, target: str) -> list[str]:
    """The files of a folder, by their names in it."""
    folder, other = (Path(split_url(url)[0]) for url in (source, target))
    if not folder.is_dir():
        raise InvalidInputError(f"{source}: expected a folder of Parquet files on this machine")
    if "://" in target or other.suffix.lower() == SUFFIX:
        raise InvalidInputError(f"{target}: expected a folder of this machine as target")
    if other.resolve().is_relative_to(folder.resolve()):
        raise InvalidInputError(f"{target}: expected a target outside of {source}")
    names = [path.relative_to(folder).as_posix() for path in list_parquet_files(folder)]
    if not names:
        raise InvalidInputError(f"{source}: expected Parquet files, got none")
    return names


def folder_key(url: str) -> str:
    """A folder with its options: the same for all spellings of its path."""
    location, query = split_url(url)
    path = str(Path(location).resolve())
    return f"{path}?{urlencode(sorted(query.items()))}" if query else path


def _pin_transform(transform: BlockTransform, folder: Path) -> BlockTransform:
    """The transform of the first shard that began."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: _pin(folder / name, data) for name, data in transform.files().items()}
    pinned = transform.pinned(files)
    current = transform.versions._asdict()
    for name, value in pinned.versions._asdict().items():
        if value != current[name]:
            raise _conflict(folder, name, value, current[name])
    return pinned


def _pin_plan(fields: Mapping[str, Any], sizes: Mapping[str, int], folder: Path) -> None:
    """Check that the source, options and files are those of the first shard that began.

    Args:
        fields: What all shards have in common, by the names that messages have.
        sizes: The size of each file in bytes, by its name.
        folder: Where the checkpoints of all shards are.
    """
    content = {"id": uuid4().hex, "fields": fields, "files": sizes}
    plan = orjson.dumps(content, option=orjson.OPT_INDENT_2)
    pinned, current = orjson.loads(_pin(folder / SHARDS, plan)), orjson.loads(plan)
    for name in [*pinned["fields"], *current["fields"]]:
        value, other = pinned["fields"].get(name), current["fields"].get(name)
        if value != other:
            raise _conflict(folder, name, value, other)
    before, now = pinned["files"], current["files"]
    changes = {
        "came": now.keys() - before.keys(),
        "went": before.keys() - now.keys(),
        "changed": {name for name in before.keys() & now.keys() if before[name] != now[name]},
    }
    if texts := [f"{_list_names(names)} {change}" for change, names in changes.items() if names]:
        raise ConflictError(
            f"expected the files of {fields['source']} that were there as its first shard began: "
            f"{'; '.join(texts)}. Files would be left out or be moved twice. Restore them, or, to "
            f"begin anew, remove {folder} and the target"
        )


def _pin(path: Path, data: bytes) -> bytes:
    """The content of a file that the first shard that begins writes."""
    if not path.exists():
        # Another shard may be first.
        with suppress(ConflictError), creation(path) as file:
            file.write(data)
    return path.read_bytes()


def _list_names(names: Set[str]) -> str:
    """Some names of files, and the number of the others."""
    listed = ", ".join(sorted(names)[:MAX_NAMES])
    return listed if len(names) <= MAX_NAMES else f"{listed} and {len(names) - MAX_NAMES} others"


def _conflict(folder: Path, name: str, value: object, other: object) -> ConflictError:
    return ConflictError(
        f"{folder} is of shards with another {LABELS.get(name, name)}: {value or 'none'}, now "
        f"{other or 'none'}: files of both would be mixed, or some be left out. To begin anew, "
        f"remove {folder} and the target"
    )
