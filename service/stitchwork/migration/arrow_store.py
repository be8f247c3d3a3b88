"""What stores have in common whose rows are Arrow tables."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stitchwork.client.parquet_files import vector_columns
from stitchwork.errors import InvalidInputError
from stitchwork.migration.arrow_values import python_values
from stitchwork.migration.base_store import (
    BaseStore,
    check_unique_ids,
    check_unique_names,
    first_id,
    row_fault,
)
from stitchwork.migration.json_values import to_json
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
        names = [name for name in self.table.column_names if name not in self._hidden]
        columns = [python_values(self.table.column(name), name) for name in names]
        if not columns:
            return [{} for _ in range(self.table.num_rows)]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def select(self, rows: NDArray[np.intp]) -> "TablePayload":
        """Some of the rows, by their indices."""
        return TablePayload(self.table.take(pa.array(rows)), self._hidden)


class ArrowStore(BaseStore):
    """A store with a schema of Arrow.

    Args:
        name: What messages call it.
        id_column: Column of the ids; default: `id`, if there is one; if empty, rows are numbered.
        column: Column of the vectors; default: its only one.
    """

    def __init__(self, name: str, id_column: str | None, column: str | None) -> None:
        self.name = name
        self._id, self._column = id_column, column
        self._schema: Any = None
        self._vector_name = VECTOR
        self._copied_columns: list[str] = []

    @abstractmethod
    def read_schema(self) -> Any:
        """The schema of the existing store."""

    @abstractmethod
    def _read_column(self, column: str) -> Iterator[Any]:
        """The values of one column, a part of it at a time."""

    def _first_vectors(self, column: str) -> Iterator[Any]:
        """The values of the column of vectors that show their width, a part at a time."""
        return self._read_column(column)

    def dimension(self) -> int:
        """The width of the vectors: the commonest among the first ones."""
        column = self.vector_column()
        type_ = self.read_schema().field(column).type
        if pa.types.is_fixed_size_list(type_):
            return int(type_.list_size)
        for values in self._first_vectors(column):
            lengths = pc.drop_null(pc.list_value_length(values))
            if len(lengths):
                return int(pc.mode(lengths)[0].as_py()["mode"])
        raise InvalidInputError(f"{self.name}: expected vectors in {column}, got none")

    def _to_batches(self, tables: Iterable[Any], size: int, start: int) -> Iterator[Batch]:
        """Batches of so many rows, of tables of any size; the first row has the number `start`."""
        width, pending = 0, None
        for table in tables:
            width = width or self.dimension()
            pending = table if pending is None else pa.concat_tables([pending, table])
            while pending.num_rows >= size:
                yield self._to_batch(pending.slice(0, size), start, width)
                start += size
                pending = pending.slice(size)
        if pending is not None and pending.num_rows:
            yield self._to_batch(pending, start, width)

    def read_ids(self) -> Iterator[Sequence[Id | None]]:
        """The ids of the rows; none if they are numbered."""
        if column := self.id_column():
            for values in self._read_column(column):
                yield [to_id(value) for value in python_values(values, column)]

    def vector_column(self) -> str:
        """The column of vectors; empty if there is none to read.

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
            InvalidInputError: If it is named and there is none, or it is one of lists.
        """
        schema = self.read_schema()
        if self._id == "" or (self._id is None and ID not in schema.names):
            return None
        column = self._id or ID
        if column not in schema.names or pa.types.is_nested(schema.field(column).type):
            listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise InvalidInputError(f"{self.name}: expected a column {column} of ids, got {listed}")
        return column

    def field_names(self) -> Sequence[str]:
        """The columns that are neither ids nor vectors."""
        hidden = (self.vector_column(), self.id_column())
        return [name for name in self.read_schema().names if name not in hidden]

    def _plan_schema(self, source: VectorStore, dimension: int, stamp: Mapping[str, str]) -> None:
        """Choose the columns to write: those of an Arrow source, or id, vector and payload.

        Raises:
            InvalidInputError: If two of them would have one name, the ids of the source repeat, or
                a name is chosen for ids that the source does not have.
        """
        check_unique_ids(source)
        vector = pa.list_(pa.float32(), dimension)
        if isinstance(source, ArrowStore):
            schema, column, id_column = (
                source.read_schema(),
                source.vector_column(),
                source.id_column(),
            )
            if self._id and id_column is None:
                raise InvalidInputError(
                    f"{source.name}: expected a column of ids, which {self.name} names {self._id}"
                )
            names = {id_column: self._id or id_column, column: self._column or column or VECTOR}
            self._vector_name, self._copied_columns = str(names[column]), list(schema.names)
            fields = [field.with_name(names.get(field.name, field.name)) for field in schema]
            if not column:
                self._copied_columns.append(column)
                fields.append(pa.field(self._vector_name, vector))
            check_unique_names(self.name, [field.name for field in fields])
            fields[self._copied_columns.index(column)] = pa.field(self._vector_name, vector)
            schema = pa.schema(fields, schema.metadata)
        else:
            self._vector_name = self._column or VECTOR
            columns = [self._id or ID, self._vector_name, PAYLOAD]
            check_unique_names(self.name, columns)
            is_number = isinstance(first_id(source), int)
            types = (pa.int64() if is_number else pa.string(), vector, pa.string())
            schema = pa.schema(list(zip(columns, types, strict=True)))
        metadata = {**(schema.metadata or {}), STAMP: orjson.dumps(dict(stamp))}
        self._schema = schema.with_metadata(metadata)

    def _to_table(self, batch: Batch) -> Any:
        """The rows of a batch with the columns to write."""
        width = self._schema.field(self._vector_name).type.list_size
        flat = pa.array(np.ascontiguousarray(batch.vectors, np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, width)
        if self._copied_columns and isinstance(batch.payload, TablePayload):
            source = batch.payload.table
            columns = [
                vectors if field.name == self._vector_name else source.column(name)
                for field, name in zip(self._schema, self._copied_columns, strict=True)
            ]
        else:
            texts = pa.array(
                [
                    to_json(record, self.name, id_).decode()
                    for id_, record in zip(batch.ids, batch.payload.records(), strict=True)
                ],
                pa.string(),
            )
            columns = [self._id_array(batch.ids), vectors, texts]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _id_array(self, ids: Sequence[Id]) -> Any:
        type_ = self._schema.field(0).type
        try:
            return pa.array(ids, type_)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise InvalidInputError(
                f"{self.name}: expected ids of the type of the first one, {type_}: {error}"
            ) from error

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
        vectors, faults = self._read_vectors(table, width)
        rows = list(range(start, start + len(table))) if numbers is None else numbers.tolist()
        ids: list[Id] = rows
        if id_column:
            values = [to_id(v) for v in python_values(table.column(id_column), id_column)]
            faults |= {i: row_fault(rows[i]) for i, id_ in enumerate(values) if id_ is None}
            ids = [rows[i] if id_ is None else id_ for i, id_ in enumerate(values)]
        hidden = (column, id_column) if id_column else (column,)
        return Batch(ids, vectors, TablePayload(table, hidden), start + len(table), faults)

    def _read_vectors(self, table: Any, width: int) -> tuple[NDArray[np.float32], dict[int, str]]:
        """The vectors of a table's rows, and the reasons of those without a valid one."""
        return list_vectors(table.column(self.vector_column()), width)


def to_id(value: Any) -> Id | None:
    """A value of a column as an id: a number, a text, or None."""
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, int | str) else str(value)


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
