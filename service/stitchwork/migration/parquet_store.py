"""Parquet files, and folders of them, as stores."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from stitchwork.client.parquet_files import BUFFER_BYTES
from stitchwork.errors import InvalidInputError
from stitchwork.migration.arrow_store import ArrowStore
from stitchwork.migration.base_store import sample_indices
from stitchwork.migration.file_store import FileStore, file_revision
from stitchwork.migration.parquet_folders import list_parquet_files
from stitchwork.migration.store import Batch, Cursor, VectorStore


class ParquetStore(FileStore, ArrowStore):
    """A Parquet file, or a folder of files with the same columns in the order of their names.

    Args:
        path: The file or folder; a folder that does not exist yet ends in a slash or has no suffix.
        name: What messages call it.
        id_column: Column of the ids; default: `id`; without it, or if empty, rows are numbered.
        column: Column of the vectors; default: its only one.
    """

    SUFFIX = ".parquet"
    HAS_ROW_CURSORS = True
    BATCH_ROWS: ClassVar[int] = 8192
    """Rows that are decoded at a time."""

    def __init__(
        self, path: Path, name: str, id_column: str | None = None, column: str | None = None
    ) -> None:
        FileStore.__init__(self, path, name)
        ArrowStore.__init__(self, name, id_column, column)
        self._files_cache: list[tuple[PurePath, int]] | None = None

    def read_schema(self) -> Any:
        """The schema of the first file."""
        return self._open(self._files()[0][0]).schema_arrow

    def _read_column(self, column: str) -> Iterator[Any]:
        for table in self._tables(self._files(), 0, [column]):
            yield table.column(column)

    def revision(self) -> str:
        """Sizes and times of the files, which are listed anew."""
        cached, paths = [path for path, _ in self._files()], list(self._list())
        if paths != cached:
            # So that the files that are read are those of the revision.
            self._files_cache = None
        return ",".join(self._file_revisions(paths))

    def count(self) -> int:
        """The number of rows."""
        return sum(rows for _, rows in self._files())

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """Rows in the order of the files; a cursor is the number of rows before it."""
        start = int(cursor or 0)
        yield from self._to_batches(self._tables(self._files(), start), size, start)

    def sample(self, count: int, seed: int) -> Batch:
        """Rows chosen at random, by reading the row groups that they are in."""
        rows = sample_indices(self.count(), count, seed)
        width, parts, start = self.dimension(), [], 0
        for path, _ in self._files():
            file = self._open(path)
            for group in range(file.num_row_groups):
                length = file.metadata.row_group(group).num_rows
                inside = rows[(rows >= start) & (rows < start + length)]
                first = start
                if inside.size:
                    for table in file.iter_batches(1024, row_groups=[group]):
                        here = inside[(inside >= first) & (inside < first + table.num_rows)]
                        chunk = pa.Table.from_batches([table])
                        if here.size:
                            parts.append(chunk.take(pa.array(here - first)))
                        first += table.num_rows
                start += length
        return self._to_batch(pa.concat_tables(parts), 0, width, numbers=rows)

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Prepare a folder of parts with the columns of a Parquet source, or id and payload.

        Raises:
            InvalidInputError: If the names of columns or the ids of the source repeat, or it is a
                folder that this store would become a part of.
        """
        inside = source._local_folder() if isinstance(source, ParquetStore) else None
        if inside and any(p.resolve().is_relative_to(inside) for p in (self._path, folder)):
            raise InvalidInputError(
                f"{self.name}: expected a target and a checkpoint outside the folder of the "
                f"source, {source.name}"
            )
        self._plan_schema(source, dimension, stamp)
        self._prepare(folder)

    def write(self, block: int, batch: Batch) -> None:
        """Write the part of a block."""
        table = self._to_table(batch)
        with self._part_files.write(block) as file:
            if self._is_folder:
                self._write_table(table, file)
                return
            # Parquet's encoding takes several times as long, and is done once, at the end.
            with pa.ipc.new_stream(file, self._schema) as writer:
                writer.write_table(table)

    def finish(self) -> None:
        """Rename the folder of parts, or write them to one file."""
        if self._parts is not None and self._is_folder:
            self._parts.become(self._path)
        else:
            super().finish()

    @property
    def _is_folder(self) -> bool:
        return self._path.is_dir() or self._path.suffix.lower() != ".parquet"

    @property
    def _part_suffix(self) -> str:
        """Of Parquet files in a folder of them, else of Arrow files."""
        return self.SUFFIX if self._is_folder else ".arrow"

    @property
    def _dictionary_columns(self) -> list[str]:
        """All but vectors, which hardly repeat a number: a dictionary takes time, saves nothing."""
        return [f.name for f in self._schema if not pa.types.is_fixed_size_list(f.type)]

    def _append(self, file: BinaryIO, paths: list[Path]) -> None:
        dictionaries = self._dictionary_columns
        with pq.ParquetWriter(file, self._schema, use_dictionary=dictionaries) as writer:
            for path in paths:
                with pa.memory_map(str(path)) as part:
                    table = pa.ipc.open_stream(part).read_all()
                    writer.write_table(table, max(1, table.num_rows))

    def _write_table(self, table: Any, file: Any) -> None:
        """Write the rows of a block as one row group."""
        dictionaries = self._dictionary_columns
        pq.write_table(table, file, use_dictionary=dictionaries, row_group_size=max(1, len(table)))

    def _local_folder(self) -> Path | None:
        """The folder of this machine that the files are in; None for one file."""
        return self._path.resolve() if self._path.is_dir() else None

    def _list(self) -> Sequence[PurePath]:
        """The files, in the order of their rows."""
        return list_parquet_files(self._path) if self._path.is_dir() else [self._path]

    def _file_revisions(self, paths: Sequence[PurePath]) -> list[str]:
        """Size and time of each file."""
        return [file_revision(Path(path)) for path in paths]

    def _open(self, path: PurePath) -> Any:
        """A file to read."""
        return pq.ParquetFile(path, memory_map=True, buffer_size=BUFFER_BYTES)

    def _tables(
        self, files: list[tuple[PurePath, int]], start: int, columns: list[str] | None = None
    ) -> Iterator[Any]:
        """Tables of a few rows each, from a row on."""
        for path, total in files:
            if start >= total:
                start -= total
                continue
            file = self._open(path)
            groups = list[int]()
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if not groups and start >= rows:
                    start -= rows
                else:
                    groups.append(group)
            for batch in file.iter_batches(self.BATCH_ROWS, row_groups=groups, columns=columns):
                if start >= batch.num_rows:
                    start -= batch.num_rows
                    continue
                yield pa.Table.from_batches([batch]).slice(start)
                start = 0

    def _files(self) -> list[tuple[PurePath, int]]:
        """The files with their numbers of rows."""
        if self._files_cache is None:
            try:
                paths = self._list()
                self._files_cache = [(path, self._open(path).metadata.num_rows) for path in paths]
            except FileNotFoundError as error:
                raise InvalidInputError(f"{self.name}: no such file or folder") from error
            except pa.ArrowInvalid as error:
                raise InvalidInputError(f"{self.name}: expected Parquet files: {error}") from error
            if not paths:
                raise InvalidInputError(f"{self.name}: expected Parquet files, got none")
            self._check_columns(paths)
        return self._files_cache

    def _check_columns(self, paths: Sequence[PurePath]) -> None:
        """Check that all files have the columns of the first one.

        Raises:
            InvalidInputError: If one of them has others.
        """
        expected = self._open(paths[0]).schema_arrow
        for path in paths[1:]:
            schema = self._open(path).schema_arrow
            if not schema.equals(expected):
                others = [str(field) for field in schema if field not in list(expected)]
                missing = [str(field) for field in expected if field not in list(schema)]
                raise InvalidInputError(
                    f"{self.name}: expected the columns of {paths[0].name} in their order, got in "
                    f"{path}: {', '.join(others) or 'no others'} instead of "
                    f"{', '.join(missing) or 'none'}"
                )
