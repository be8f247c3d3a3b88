"""An .npy file of vectors with a text file of ids as a store."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from stitchwork.client.row_files import open_rows
from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.base_store import check_unique_ids, sample_indices
from stitchwork.migration.file_store import FileStore
from stitchwork.migration.part_files import replacement
from stitchwork.migration.store import Batch, Cursor, Id, RecordPayload, VectorStore


class ArrayStore(FileStore):
    """An .npy file of (n, d) numbers, and a file with an id a line beside it.

    Payloads are left out, as there is no place for them: a source whose rows have some is refused.

    Args:
        path: The .npy file.
        name: What messages call it.
        ids: The file of ids; default: `rows.ids.txt` beside `rows.npy`; without it rows are
            numbered.
    """

    SUFFIX = ".npy"
    HAS_ROW_CURSORS = True

    def __init__(self, path: Path, name: str, ids: str | None = None) -> None:
        super().__init__(path, name)
        self._ids_path = Path(ids or path.with_suffix(".ids.txt")).absolute()
        if self._ids_path.resolve() == path.resolve():
            raise InvalidInputError(f"{name}: expected a file of ids beside the array, got itself")
        self._requires_ids = ids is not None
        self._ids: list[str] | None = None

    def count(self) -> int:
        """The number of rows."""
        return int(self._rows().shape[0])

    def dimension(self) -> int:
        """The width of the vectors."""
        return int(self._rows().shape[1])

    def field_names(self) -> Sequence[str]:
        """An array has no payload."""
        return []

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """Rows in order; a cursor is the number of rows before it."""
        rows = self._rows()
        for start in range(int(cursor or 0), rows.shape[0], size):
            stop = min(start + size, rows.shape[0])
            yield self._batch(rows[start:stop], range(start, stop))

    def sample(self, count: int, seed: int) -> Batch:
        """Rows chosen at random."""
        rows = self._rows()
        chosen = sample_indices(rows.shape[0], count, seed)
        return self._batch(np.concatenate([rows[i : i + 1] for i in chosen]), chosen.tolist())

    def read_ids(self) -> Iterator[Sequence[Id | None]]:
        """The lines of the file of ids; none if there is no such file."""
        yield self._read_ids() or []

    def exists(self) -> bool:
        """Whether there is a file of this name.

        Raises:
            ConflictError: If there is only the file of ids, which another array may need.
        """
        if not super().exists() and self._ids_path.exists():
            raise ConflictError(
                f"{self.name}: its file of ids {self._ids_path} exists already: choose another one "
                "by ids=FILE"
            )
        return super().exists()

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Open a folder of parts; the format has no place for the stamp.

        Raises:
            InvalidInputError: If the rows of the source have more than ids and vectors, or the file
                is of another format, which is read only.
        """
        if self._path.suffix.lower() != self.SUFFIX:
            raise InvalidInputError(f"{self.name}: expected a target with the suffix .npy")
        check_unique_ids(source)
        first = next(source.scan(1), None)
        fields = list(first.payload.records()[0]) if first else []
        if fields:
            raise InvalidInputError(
                f"{self.name}: an .npy file has no place for {', '.join(fields)}; choose .parquet "
                "or .jsonl"
            )
        self._prepare(folder)

    def write(self, block: int, batch: Batch) -> None:
        """Write the parts of a block: the vectors, and the ids before them."""
        if any(batch.payload.records()):
            raise InvalidInputError(f"{self.name}: an .npy file has no place for fields of rows")
        lines = [str(id_) for id_ in batch.ids]
        for line in lines:
            if "\n" in line or "\r" in line:
                raise InvalidInputError(f"{self._ids_path}: expected ids of one line, got {line!r}")
        with replacement(self._part_files.path(block).with_suffix(".ids")) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        with self._part_files.write(block) as file:
            np.save(file, np.ascontiguousarray(batch.vectors, np.float32))

    def _append(self, file: BinaryIO, paths: list[Path]) -> None:
        with replacement(self._ids_path) as ids_file:
            for path in paths:
                ids_file.write(path.with_suffix(".ids").read_bytes())
        arrays = [np.load(path, mmap_mode="r") for path in paths]
        shape = (sum(len(array) for array in arrays), arrays[0].shape[1])
        npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for array in arrays:
            file.write(np.ascontiguousarray(array, "<f4").data)

    def _rows(self) -> Any:
        try:
            return open_rows(self._path)
        except FileNotFoundError as error:
            raise InvalidInputError(f"{self.name}: no such file") from error

    def _batch(self, rows: Any, numbers: Sequence[int]) -> Batch:
        with np.errstate(over="ignore"):
            vectors = np.asarray(rows, np.float32)
        ids = self._read_ids()
        chosen = list(numbers) if ids is None else [ids[i] for i in numbers]
        payload = RecordPayload([{}] * len(vectors))
        return Batch(chosen, vectors, payload, numbers[-1] + 1 if len(vectors) else None)

    def _read_ids(self) -> list[str] | None:
        if self._ids is None and (self._requires_ids or self._ids_path.exists()):
            try:
                lines = self._ids_path.read_text("utf-8").removesuffix("\n").split("\n")
            except FileNotFoundError as error:
                raise InvalidInputError(f"{self._ids_path}: no such file of ids") from error
            if len(lines) != self.count():
                raise InvalidInputError(
                    f"{self._ids_path}: expected an id for each of {self.count()} rows, got "
                    f"{len(lines)}"
                )
            self._ids = lines
        return self._ids
