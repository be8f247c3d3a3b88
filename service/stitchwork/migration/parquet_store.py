"""Parquet files, and folders of them, as stores."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stitchwork.client.parquet_files import BUFFER_BYTES, vector_columns
from stitchwork.errors import InvalidInputError
from stitchwork.migration.base_store import sample_indices
from stitchwork.migration.file_store import FileStore
from stitchwork.migration.store import Batch, Cursor, Id, Payload, Record, VectorStore

ID: Final = "id"
VECTOR: Final = "embedding"
PAYLOAD: Final = "payload"
"""Column of JSON texts for the payloads of stores whose rows may have different fields."""
STAMP: Final = b"stitchwork"


class TablePayload:
    """Columns of a table.

    Args:
        table: All columns, also those of the ids and vectors.
        hidden: Columns that are no payload.
    """

    def __init__(self, table: Any, hidden: tuple[str, ...]) -> None:
        self.table, self._hidden = table, hidden

    def records(self) -> list[Record]:
        """The values of each row by their columns."""
        columns = [name for name in self.table.column_names if name not in self._hidden]
        records: list[Record] = self.table.select(columns).to_pylist()
        return records if columns else [{} for _ in range(self.table.num_rows)]

    def select(self, rows: NDArray[np.intp]) -> "TablePayload":
        """Some of the rows, by their indices."""
        return TablePayload(self.table.take(pa.array(rows)), self._hidden)


class ParquetStore(FileStore):
    """A Parquet file, or a folder of files with the same columns in the order of their names.

    Args:
        path: The file or folder; a folder that does not exist yet ends in a slash or has no suffix.
        name: What messages call it.
        id_column: Column of the ids; default: `id`, else rows are numbered.
        column: Column of the vectors; default: its only one.
    """

    SUFFIX = ".parquet"

    def __init__(
        self, path: Path, name: str, id_column: str | None = None, column: str | None = None
    ) -> None:
        super().__init__(path, name)
        self._id, self._column = id_column, column
        self._source: VectorStore | None = None
        self._schema: Any = None
        self._files_cache: list[tuple[Path, int]] | None = None

    def revision(self) -> str:
        """Sizes and times of the files."""
        stats = [path.stat() for path, _ in self._files()]
        return ",".join(f"{stat.st_size}@{stat.st_mtime_ns}" for stat in stats)

    def count(self) -> int:
        """The number of rows."""
        return sum(rows for _, rows in self._files())

    def dimension(self) -> int:
        """The width of the vectors: the commonest among the first ones."""
        column = self._vector_column()
        type_ = self._read_schema().field(column).type
        if pa.types.is_fixed_size_list(type_):
            return int(type_.list_size)
        for table in self._tables(self._files(), 0, [column]):
            lengths = pc.drop_null(pc.list_value_length(table.column(column)))
            if len(lengths):
                return int(pc.mode(lengths)[0].as_py()["mode"])
        raise InvalidInputError(f"{self.name}: expected vectors in {column}, got none")

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """Rows in the order of the files; a cursor is the number of rows before it."""
        start, width = int(cursor or 0), self.dimension()
        pending: Any = None
        for table in self._tables(self._files(), start):
            pending = table if pending is None else pa.concat_tables([pending, table])
            while pending.num_rows >= size:
                yield self._batch(pending.slice(0, size), start, width)
                start += size
                pending = pending.slice(size)
        if pending is not None and pending.num_rows:
            yield self._batch(pending, start, width)

    def sample(self, count: int, seed: int) -> Batch:
        """Rows chosen at random, by reading the row groups that they are in."""
        rows = sample_indices(self.count(), count, seed)
        width, parts, start = self.dimension(), [], 0
        for path, _ in self._files():
            file = pq.ParquetFile(path, memory_map=True, buffer_size=BUFFER_BYTES)
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
        return self._batch(pa.concat_tables(parts), 0, width, numbers=rows)

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Prepare a folder of parts with the columns of a Parquet source, or id and payload."""
        self._prepare(folder)
        vector = pa.list_(pa.float32(), dimension)
        if isinstance(source, ParquetStore):
            schema, column = source._read_schema(), source._vector_column()
            index = schema.get_field_index(column)
            name = self._column or column
            schema = schema.set(index, pa.field(name, vector))
        else:
            first = next(source.scan(1), None)
            is_number = first is not None and isinstance(first.ids[0], int)
            names = (self._id or ID, self._column or VECTOR, PAYLOAD)
            types = (pa.int64() if is_number else pa.string(), vector, pa.string())
            schema = pa.schema(list(zip(names, types, strict=True)))
        self._source = source
        self._schema = schema.with_metadata(
            {**(schema.metadata or {}), STAMP: orjson.dumps(dict(stamp))}
        )

    def write(self, block: int, batch: Batch) -> None:
        """Write the part of a block."""
        table = self._table(batch)
        with self._part_files.write(block) as file:
            # Vectors hardly repeat a number: a dictionary of them takes time and saves nothing.
            texts = [f.name for f in self._schema if not pa.types.is_fixed_size_list(f.type)]
            pq.write_table(table, file, use_dictionary=texts, row_group_size=max(1, len(table)))

    def finish(self) -> None:
        """Rename the folder of parts, or write them to one file."""
        if self._parts is not None and self._is_folder:
            self._parts.become(self._path)
        else:
            super().finish()

    @property
    def _is_folder(self) -> bool:
        return self._path.is_dir() or self._path.suffix.lower() != ".parquet"

    def _append(self, file: BinaryIO, paths: list[Path]) -> None:
        texts = [f.name for f in self._schema if not pa.types.is_fixed_size_list(f.type)]
        with pq.ParquetWriter(file, self._schema, use_dictionary=texts) as writer:
            for path in paths:
                table = pq.read_table(path, memory_map=True, partitioning=None)
                writer.write_table(table, max(1, table.num_rows))

    def _table(self, batch: Batch) -> Any:
        """The rows of a batch with the columns of this store."""
        vector = next(f for f in self._schema if pa.types.is_fixed_size_list(f.type))
        flat = pa.array(np.ascontiguousarray(batch.vectors, np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, vector.type.list_size)
        if isinstance(batch.payload, TablePayload) and isinstance(self._source, ParquetStore):
            source = batch.payload.table
            columns = [
                vectors if field.name == vector.name else source.column(field.name)
                for field in self._schema
            ]
        else:
            columns = [pa.array(batch.ids, self._schema.field(0).type), vectors, _texts(batch)]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _batch(
        self, table: Any, start: int, width: int, numbers: NDArray[np.intp] | None = None
    ) -> Batch:
        column, id_column = self._vector_column(), self._id_column()
        vectors, faults = _vectors(table.column(column), width)
        ids: list[Id]
        if id_column:
            ids = table.column(id_column).to_pylist()
        else:
            ids = list(range(start, start + len(table))) if numbers is None else numbers.tolist()
        hidden = (column, id_column) if id_column else (column,)
        payload: Payload = TablePayload(table, hidden)
        return Batch(ids, vectors, payload, start + len(table), faults)

    def _tables(
        self, files: list[tuple[Path, int]], start: int, columns: list[str] | None = None
    ) -> Iterator[Any]:
        """Tables of a few rows each, from a row on."""
        for path, total in files:
            if start >= total:
                start -= total
                continue
            file = pq.ParquetFile(path, memory_map=True, buffer_size=BUFFER_BYTES)
            groups = list[int]()
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if not groups and start >= rows:
                    start -= rows
                else:
                    groups.append(group)
            for batch in file.iter_batches(8192, row_groups=groups, columns=columns):
                if start >= batch.num_rows:
                    start -= batch.num_rows
                    continue
                yield pa.Table.from_batches([batch]).slice(start)
                start = 0

    def _files(self) -> list[tuple[Path, int]]:
        """The files with their numbers of rows."""
        if self._files_cache is None:
            paths = [self._path]
            if self._path.is_dir():
                paths = sorted(self._path.rglob("*.parquet"))
            try:
                self._files_cache = [(path, pq.read_metadata(path).num_rows) for path in paths]
            except FileNotFoundError as error:
                raise InvalidInputError(f"{self.name}: no such file or folder") from error
            except pa.ArrowInvalid as error:
                raise InvalidInputError(f"{self.name}: expected Parquet files: {error}") from error
            if not paths:
                raise InvalidInputError(f"{self.name}: expected Parquet files, got none")
        return self._files_cache

    def _read_schema(self) -> Any:
        return pq.read_schema(self._files()[0][0])

    def _vector_column(self) -> str:
        schema = self._read_schema()
        names = [name for name in vector_columns(schema) if self._column in (None, name)]
        if len(names) != 1:
            listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
            wanted = f"a column {self._column}" if self._column else "one column"
            raise InvalidInputError(
                f"{self.name}: expected {wanted} of vectors, got {listed}; choose by ?column=NAME"
            )
        return names[0]

    def _id_column(self) -> str | None:
        names = self._read_schema().names
        if self._id and self._id not in names:
            raise InvalidInputError(
                f"{self.name}: expected a column {self._id} of ids, got {', '.join(names)}"
            )
        return self._id or (ID if ID in names else None)


def _texts(batch: Batch) -> Any:
    """Payloads as JSON texts."""
    return pa.array(
        [orjson.dumps(record, default=str).decode() for record in batch.payload.records()],
        pa.string(),
    )


def _vectors(column: Any, width: int) -> tuple[NDArray[np.float32], dict[int, str]]:
    """The rows of a column of lists, and the faults of those of another width."""
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.chunk(0) if lists.num_chunks else pa.array([], column.type)
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    valid = lengths == width
    values = (lists if valid.all() else lists.filter(pa.array(valid))).flatten()
    rows = values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    rows = rows.reshape(-1, width)
    if valid.all():
        return rows, {}
    vectors = np.zeros((len(lists), width), np.float32)
    vectors[valid] = rows
    faults = {
        int(row): "no vector"
        if lengths[row] < 0
        else f"expected {width} numbers, got {lengths[row]}"
        for row in np.flatnonzero(~valid)
    }
    return vectors, faults
