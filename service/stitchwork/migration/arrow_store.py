"""What stores have in common whose rows are Arrow tables."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stitchwork.client.parquet_files import vector_columns
from stitchwork.errors import InvalidInputError
from stitchwork.migration.base_store import BaseStore
from stitchwork.migration.store import Batch, Id, Record, VectorStore

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


class ArrowStore(BaseStore):
    """A store with a schema of Arrow.

    Args:
        name: What messages call it.
        id_column: Column of the ids; default: `id`, if there is one.
        column: Column of the vectors; default: its only one.
    """

    def __init__(self, name: str, id_column: str | None, column: str | None) -> None:
        self.name = name
        self._id, self._column = id_column, column
        self._takes_columns = False
        self._schema: Any = None

    @abstractmethod
    def read_schema(self) -> Any:
        """The schema of the existing store."""

    def vector_column(self) -> str:
        """The column of vectors.

        Raises:
            InvalidInputError: If it is not clear which one that is.
        """
        schema = self.read_schema()
        names = [name for name in vector_columns(schema) if self._column in (None, name)]
        if len(names) != 1:
            listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
            wanted = f"a column {self._column}" if self._column else "one column"
            raise InvalidInputError(
                f"{self.name}: expected {wanted} of vectors, got {listed}; choose by column=NAME"
            )
        return names[0]

    def id_column(self) -> str | None:
        """The column of ids; None if rows are numbered.

        Raises:
            InvalidInputError: If it is named and there is none.
        """
        names = self.read_schema().names
        if self._id and self._id not in names:
            raise InvalidInputError(
                f"{self.name}: expected a column {self._id} of ids, got {', '.join(names)}"
            )
        return self._id or (ID if ID in names else None)

    def _plan_schema(self, source: VectorStore, dimension: int, stamp: Mapping[str, str]) -> None:
        """Choose the columns to write: those of an Arrow source, or id, vector and payload."""
        vector = pa.list_(pa.float32(), dimension)
        self._takes_columns = isinstance(source, ArrowStore)
        if isinstance(source, ArrowStore):
            schema, column = source.read_schema(), source.vector_column()
            field = pa.field(self._column or column, vector)
            schema = schema.set(schema.get_field_index(column), field)
        else:
            first = next(source.scan(1), None)
            is_number = first is not None and isinstance(first.ids[0], int)
            names = (self._id or ID, self._column or VECTOR, PAYLOAD)
            types = (pa.int64() if is_number else pa.string(), vector, pa.string())
            schema = pa.schema(list(zip(names, types, strict=True)))
        metadata = {**(schema.metadata or {}), STAMP: orjson.dumps(dict(stamp))}
        self._schema = schema.with_metadata(metadata)

    def _to_table(self, batch: Batch) -> Any:
        """The rows of a batch with the columns to write."""
        vector = next(f for f in self._schema if pa.types.is_fixed_size_list(f.type))
        flat = pa.array(np.ascontiguousarray(batch.vectors, np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, vector.type.list_size)
        if self._takes_columns and isinstance(batch.payload, TablePayload):
            source = batch.payload.table
            columns = [
                vectors if field.name == vector.name else source.column(field.name)
                for field in self._schema
            ]
        else:
            records = batch.payload.records()
            texts = pa.array([orjson.dumps(r, default=str).decode() for r in records], pa.string())
            columns = [pa.array(batch.ids, self._schema.field(0).type), vectors, texts]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _to_batch(
        self, table: Any, start: int, width: int, numbers: NDArray[np.intp] | None = None
    ) -> Batch:
        """A batch of a table's rows.

        Args:
            table: The rows.
            start: Number of the first row.
            width: d.
            numbers: Numbers of the rows, where they are not one after the other.
        """
        column, id_column = self.vector_column(), self.id_column()
        vectors, faults = list_vectors(table.column(column), width)
        ids: list[Id]
        if id_column:
            ids = table.column(id_column).to_pylist()
        else:
            ids = list(range(start, start + len(table))) if numbers is None else numbers.tolist()
        hidden = (column, id_column) if id_column else (column,)
        return Batch(ids, vectors, TablePayload(table, hidden), start + len(table), faults)


def list_vectors(column: Any, width: int) -> tuple[NDArray[np.float32], dict[int, str]]:
    """The rows of a column of lists, and the reasons of those without a vector of a width.

    Args:
        column: A chunked array of lists of numbers.
        width: d.

    Returns:
        (n, d) float32, zero where a row has no vector of this width, and the reasons by row.
    """
    lists = column.combine_chunks()
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
