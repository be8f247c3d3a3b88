"""Parquet files of rows: a column of vectors, read and written a batch at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client.row_files import BATCH_BYTES, SequentialRows
from stitchwork.errors import InvalidInputError

COLUMN: Final = "embedding"
"""Name of the column of vectors that is written, unless the rows came from another column."""
BATCH_ROWS: Final = 1024
BUFFER_BYTES: Final = 1024 * 1024


class ParquetRows(SequentialRows):
    """The vectors of a Parquet file.

    Args:
        path: The file.
        column: The column; None for the only one of vectors.

    Attributes:
        path: The file.
        column: The column.
    """

    def __init__(self, path: Path, column: str | None) -> None:
        pq, pa = _import()
        self.path = path
        try:
            file = pq.ParquetFile(path, memory_map=True, buffer_size=BUFFER_BYTES)
        except pa.ArrowInvalid as error:
            raise InvalidInputError(f"{path}: expected a Parquet file: {error}") from error
        self.column = _choose(path, file.schema_arrow, column)
        first = next(self._vectors(file, 1), None)
        if first is None:
            raise InvalidInputError(f"{path}: expected rows, got an empty file")
        width = first.shape[1]
        count = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, 4 * width)))

        def batches() -> Iterator[NDArray[Any]]:
            # Each has a reader of its own, which begins at the first row.
            reader = pq.ParquetFile(path, memory_map=True, buffer_size=BUFFER_BYTES)
            return self._vectors(reader, count, width)

        super().__init__((file.metadata.num_rows, width), batches)

    def _vectors(
        self, file: Any, batch_rows: int, width: int | None = None
    ) -> Iterator[NDArray[Any]]:
        import pyarrow.compute as pc

        start = 0
        for batch in file.iter_batches(batch_rows, columns=[self.column]):
            column = batch.column(0)
            values = column.flatten()
            width = width or len(values) // max(1, len(column))
            lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
            wrong = np.flatnonzero(~(lengths == width))
            if column.null_count or values.null_count or wrong.size or not width:
                row = start + (int(wrong[0]) if wrong.size else 0)
                raise InvalidInputError(
                    f"{self.path}: expected vectors of {width} numbers in {self.column}, got a "
                    f"null or another length from row {row} on"
                )
            yield values.to_numpy(zero_copy_only=False).reshape(-1, width)
            start += len(column)

    def other_columns(self) -> Iterator[Any]:
        """Batches of the columns beside the vectors, in the order of the rows; may be none."""
        pq, _ = _import()
        file = pq.ParquetFile(self.path, memory_map=True, buffer_size=BUFFER_BYTES)
        names = [name for name in file.schema_arrow.names if name != self.column]
        if names:
            yield from file.iter_batches(BATCH_ROWS, columns=names)


class ParquetWriter:
    """Writes rows to a Parquet file, in order.

    Args:
        path: The file.
        source: The file that the rows are computed from; its other columns are written too.
    """

    def __init__(self, path: Path, source: ParquetRows | None) -> None:
        self._pq, self._pa = _import()
        self._path = path
        self._column = source.column if source else COLUMN
        self._others = source.other_columns() if source else iter(())
        self._pending: Any = None
        self._writer: Any = None

    def write(self, rows: NDArray[np.float32]) -> None:
        """Write the next rows."""
        pa = self._pa
        flat = pa.array(np.ascontiguousarray(rows, np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        table = self._take(len(rows))
        arrays = [] if table is None else table.columns
        names = [] if table is None else table.column_names
        table = pa.table([*arrays, vectors], names=[*names, self._column])
        if self._writer is None:
            self._writer = self._pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Write the end of the file."""
        if self._writer is not None:
            self._writer.close()

    def _take(self, count: int) -> Any:
        """The next rows of the other columns; None if there are none."""
        while self._pending is None or self._pending.num_rows < count:
            batch = next(self._others, None)
            if batch is None:
                break
            table = self._pa.Table.from_batches([batch])
            parts = [table] if self._pending is None else [self._pending, table]
            self._pending = self._pa.concat_tables(parts)
        if self._pending is None:
            return None
        taken, self._pending = self._pending.slice(0, count), self._pending.slice(count)
        return taken


def parquet_rows(path: Path, column: str | None) -> ParquetRows:
    """The vectors of a Parquet file.

    Raises:
        InvalidInputError: If it has no such column, or pyarrow is not installed.
    """
    return ParquetRows(path, column)


def vector_columns(schema: Any) -> list[str]:
    """The names of the columns of lists of numbers in a schema."""
    _, pa = _import()

    def is_vector(type_: Any) -> bool:
        is_list = any(
            check(type_)
            for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        )
        return is_list and (
            pa.types.is_floating(type_.value_type) or pa.types.is_integer(type_.value_type)
        )

    return [str(field.name) for field in schema if is_vector(field.type)]


def _choose(path: Path, schema: Any, column: str | None) -> str:
    candidates = [name for name in vector_columns(schema) if column in (None, name)]
    if len(candidates) != 1:
        listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
        wanted = f"a column {column} of vectors" if column else "one column of vectors"
        raise InvalidInputError(f"{path}: expected {wanted}, got {listed}; choose by --column")
    return candidates[0]


def check_installed() -> None:
    """Check that Parquet files can be read and written.

    Raises:
        InvalidInputError: If pyarrow is not installed.
    """
    _import()


def _import() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            "Parquet files need pyarrow: pip install 'stitchwork[parquet]'"
        ) from error
    return pq, pa
