"""Stores of raw inputs to embed: rows with texts or images, and folders of image files."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stitchwork.client.image_folders import IMAGE_SUFFIXES
from stitchwork.errors import InvalidInputError
from stitchwork.migration.arrow_store import ID, ArrowStore
from stitchwork.migration.file_store import file_revision
from stitchwork.migration.json_lines_store import JsonLinesStore
from stitchwork.migration.parquet_folders import HIDDEN
from stitchwork.migration.parquet_store import ParquetStore
from stitchwork.migration.store import Batch, Cursor, Record, VectorStore
from stitchwork.migration.stores import JSON_LINES, LANCE, split_url

FORMS: Final = "rows.parquet or a folder/ of such files, rows.lance or rows.jsonl"


class ArrowItems(ArrowStore):
    """Rows of a table whose columns all go along; none of them is read as vectors."""

    def vector_column(self) -> str:
        """There is none."""
        return ""

    def dimension(self) -> int:
        """Rows have no vectors yet."""
        return 0

    def _read_vectors(self, table: Any, width: int) -> tuple[NDArray[np.float32], dict[int, str]]:
        return np.zeros((len(table), 0), np.float32), {}


class ParquetItems(ArrowItems, ParquetStore):
    """The rows of a Parquet file, or of a folder of them."""

    # A row may have an image.
    BATCH_ROWS = 256


class JsonLinesItems(JsonLinesStore):
    """The objects of a file with one a line, whose fields all go along."""

    def dimension(self) -> int:
        """Rows have no vectors yet."""
        return 0

    def _pop_vector(self, record: Record) -> Any:
        return None

    def _to_vectors(
        self, vectors: list[Any], width: int
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        return np.zeros((len(vectors), 0), np.float32), {}


class ImageFolder(ArrowItems):
    """The image files in a folder and its folders, in the order of their paths, which are the ids.

    Args:
        path: The folder.
        name: What messages call it.
    """

    HAS_ROW_CURSORS = True

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(name, None, None)
        self.path = path.absolute()

    @cached_property
    def paths(self) -> list[str]:
        """The files, by their paths in the folder.

        Raises:
            InvalidInputError: If there is no such folder, or no image in it.
        """
        if not self.path.is_dir():
            raise InvalidInputError(f"{self.name}: no such folder of images")
        images = self._list()
        if not images:
            raise InvalidInputError(
                f"{self.name}: expected images ({', '.join(IMAGE_SUFFIXES)}), got none"
            )
        return images

    def _list(self) -> list[str]:
        paths = [path.relative_to(self.path) for path in self.path.rglob("*")]
        return sorted(path.as_posix() for path in paths if is_image(path))

    def __getstate__(self) -> dict[str, Any]:
        """Another process has the same files, since cursors are numbers of them."""
        return {**vars(self), "paths": self.paths}

    def read_schema(self) -> Any:
        """A column of ids."""
        return pa.schema([(ID, pa.string())])

    def _read_column(self, column: str) -> Iterator[Any]:
        yield pa.array(self.paths, pa.string())

    def revision(self) -> str:
        """A digest of the names, sizes and times of the files, which are listed anew."""
        digest, names = hashlib.sha256(), self._list()
        if names:
            # So that the files that are read are those of the digest.
            vars(self)["paths"] = names
        for name in names:
            digest.update(f"{name}\0{file_revision(self.path / name)}\0".encode())
        return digest.hexdigest()[:32]

    def count(self) -> int:
        """The number of files."""
        return len(self.paths)

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """The files in order; a cursor is the number of files before it."""
        start = int(cursor or 0)
        tables = (
            pa.table({ID: pa.array(self.paths[i : i + size], pa.string())})
            for i in range(start, len(self.paths), size)
        )
        yield from self._to_batches(tables, size, start)

    def exists(self) -> bool:
        """Whether there is such a folder."""
        return self.path.is_dir()

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Refuse to write.

        Raises:
            InvalidInputError: Always.
        """
        raise InvalidInputError(f"{self.name}: a folder of images is a source only")

    def write(self, block: int, batch: Batch) -> None:
        """Not reached: `create` refuses."""
        raise NotImplementedError

    def finish(self) -> None:
        """Not reached: `create` refuses."""
        raise NotImplementedError


def is_image(path: Path) -> bool:
    """Whether a file is an image by its path in a folder, and not hidden."""
    is_hidden = any(part.startswith(HIDDEN) for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden


def open_items(url: str) -> VectorStore:
    """Open a store of raw inputs.

    Args:
        url: A path, with `id=NAME` after a `?` for another column of ids than `id`.

    Raises:
        InvalidInputError: If it is of no such kind, or has another option.
    """
    location, id_ = _split(url)
    path = Path(location)
    suffix, is_folder = path.suffix.lower(), path.is_dir() or location.endswith("/")
    if "://" in location:
        suffix, is_folder = "", False
    if suffix == LANCE:
        from stitchwork.migration.lance_items import LanceItems

        return LanceItems(path, url, id_)
    if is_folder or suffix == ".parquet":
        return ParquetItems(path, url, id_)
    if suffix in JSON_LINES:
        return JsonLinesItems(path, url, id_)
    raise InvalidInputError(f"{url}: expected inputs on this machine, in {FORMS}")


def open_items_file(folder: str, name: str) -> VectorStore:
    """Open a Parquet file of a folder; its name is never taken for a URL.

    Args:
        folder: The path of the folder, with options.
        name: The path of the file in there.

    Raises:
        InvalidInputError: If there is another option than `id`.
    """
    location, id_ = _split(folder)
    path = Path(location) / name
    return ParquetItems(path, str(path), id_)


def _split(url: str) -> tuple[str, str | None]:
    """The location in a URL of raw inputs, and its column of ids."""
    location, query = split_url(url)
    if others := query.keys() - {"id"}:
        raise InvalidInputError(f"{url}: expected the option id, got {', '.join(sorted(others))}")
    return location, query.get("id")
