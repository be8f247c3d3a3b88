"""Tables of PostgreSQL with a column of pgvector as stores."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
from psycopg import sql

from stitchwork.errors import ConflictError, InvalidInputError, StitchworkError, UnavailableError
from stitchwork.migration.base_store import (
    BaseStore,
    check_unique_ids,
    check_unique_names,
    choose_vectors,
    first_id,
)
from stitchwork.migration.json_values import to_json
from stitchwork.migration.postgresql_columns import COLUMNS, Column, ColumnPayload
from stitchwork.migration.postgresql_copy import NUMBERS, copy_rows, parse_vector
from stitchwork.migration.store import Batch, Cursor, Id, VectorStore
from stitchwork.migration.vectors import to_vectors

ID: Final = "id"
VECTOR: Final = "embedding"
PAYLOAD: Final = "payload"
CONNECT_SECONDS: Final = 30
STAGING: Final = "stitchwork_block"
INTEGERS: Final = ("smallint", "integer", "bigint")


class PostgresqlStore(BaseStore):
    """A table with a unique column of ids and a column of vectors.

    As a target it is a new table or, where the source is the same table, a new column of it.

    Args:
        url: The server and database, as libpq reads it.
        name: What messages call it.
        table: The table, with its schema where it is not in the search path.
        id_column: Column of the ids; default: the primary key.
        column: Column of the vectors; default: its only one.
    """

    def __init__(
        self,
        url: str,
        name: str,
        table: str,
        id_column: str | None = None,
        column: str | None = None,
    ) -> None:
        self.name, self.table = name, table
        self._id, self._column = id_column, column
        self._connection = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS)
        self._identifier = sql.Identifier(*table.split("."))
        self._copied: Sequence[Column] = ()
        self._updates, self._with_payload = False, True

    @property
    def has_named_column(self) -> bool:
        """Whether the column of vectors was named."""
        return self._column is not None

    def field_names(self) -> Sequence[str]:
        """The columns that are neither ids nor vectors."""
        return [column.name for column in self.payload_columns]

    def omit_payload(self) -> None:
        """Read ids and vectors only from now on, unless payloads are required."""
        self._with_payload = self.requires_payload

    def revision(self) -> str:
        """A digest of the ids and of the transactions that wrote their rows last."""
        id_ = sql.Identifier(self.id_column.name)
        query = "SELECT bit_xor(hashtextextended({}::text || ' ' || xmin::text, 0)) FROM {}"
        return f"{self.count()}@{self._value(query, id_, self._identifier)}"

    def is_part_of(self, source: VectorStore) -> bool:
        """Whether this is another column of the source's table."""
        return isinstance(source, PostgresqlStore) and self._is_table_of(source)

    def count(self) -> int:
        """The number of rows; of a new column of the source, of those that it has been set in."""
        counted: sql.Composable = sql.SQL("*")
        if self._updates:
            counted = sql.Identifier(self.vector_column.name)
        return int(self._value("SELECT count({}) FROM {}", counted, self._identifier))

    def dimension(self) -> int:
        """The width of the column of vectors, or of the first vector."""
        column = self.vector_column
        if column.modifier > 0:
            return column.modifier
        name = sql.Identifier(column.name)
        query = "SELECT vector_dims({0}) FROM {1} WHERE {0} IS NOT NULL LIMIT 1"
        width = self._value(query, name, self._identifier)
        if width is None:
            raise InvalidInputError(f"{self.name}: expected vectors in {column.name}, got none")
        return int(width)

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """Rows in the order of their ids; a cursor is the last id as text."""
        id_, width = self.id_column, self.dimension()
        while True:
            condition: sql.Composable = sql.SQL("TRUE")
            if cursor is not None:
                condition = sql.SQL("t.{} > {}::{}").format(
                    sql.Identifier(id_.name), sql.Literal(cursor), sql.SQL(id_.type)
                )
            batch = self._select(
                sql.SQL("{} AS t WHERE {} ORDER BY t.{} LIMIT {}").format(
                    self._identifier, condition, sql.Identifier(id_.name), sql.Literal(size)
                ),
                width,
            )
            if len(batch):
                yield batch
            if len(batch) < size:
                return
            cursor = batch.cursor

    def sample(self, count: int, seed: int) -> Batch:
        """Rows chosen by a hash of their ids and the seed."""
        if count < 1 or not self.count():
            raise InvalidInputError(f"{self.name}: expected rows to choose from, got none")
        id_ = sql.Identifier(self.id_column.name)
        chosen = sql.SQL("(SELECT * FROM {} ORDER BY md5({}::text || {}) LIMIT {}) t ORDER BY t.{}")
        parts = (self._identifier, id_, sql.Literal(f" {seed}"), sql.Literal(count), id_)
        return self._select(chosen.format(*parts), self.dimension())

    def exists(self) -> bool:
        """Whether there is the table or, where a column is named, that column of it."""
        return self._has_column() if self._column else bool(self._columns())

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Create the table, or add the column to the table of the source.

        Raises:
            ConflictError: If a column is to be added to another table than the source's.
            InvalidInputError: If it is the source's, and the columns are not named.
        """
        check_unique_ids(source)
        vector = sql.SQL(f"vector({int(dimension)})")
        if isinstance(source, PostgresqlStore) and self.is_part_of(source):
            if not self._column or not source.has_named_column:
                raise InvalidInputError(
                    f"{self.name} is the table of the source: name both columns, each by "
                    "&column=NAME"
                )
            if self._id not in (None, source.id_column.name):
                raise InvalidInputError(
                    f"{self.name}: expected the ids of the source, which are in "
                    f"{source.id_column.name}, got id={self._id}"
                )
            self._updates, self._id = True, source.id_column.name
            source.omit_payload()
            add = sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}")
            self._execute(add.format(self._identifier, sql.Identifier(self._column), vector))
        elif self._columns() and not self.exists():
            raise ConflictError(
                f"{self.name}: expected a new table, or that of the source, got another that exists"
            )
        else:
            self._create_table(source, vector, stamp)
        self.__dict__.pop("id_column", None)
        self.__dict__.pop("vector_column", None)

    def write(self, block: int, batch: Batch) -> None:
        """Insert or update the rows of a block, in one transaction."""
        if not len(batch):
            return
        texts: Sequence[Sequence[str | None]] = ()
        if isinstance(batch.payload, ColumnPayload) and not self._updates:
            texts = batch.payload.values
        elif not self._updates:
            rows = zip(batch.ids, batch.payload.records(), strict=True)
            texts = [[to_json(record, self.name, id_).decode() for id_, record in rows]]
        id_, vector = self.id_column, self.vector_column
        names = [sql.SQL(f"c{i}") for i in range(len(texts))]
        staged = [
            sql.SQL("id text"),
            sql.SQL("v vector"),
            *(sql.SQL("{} text").format(n) for n in names),
        ]
        create = sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP")
        data = copy_rows([str(id_) for id_ in batch.ids], batch.vectors, texts)
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(create.format(sql.Identifier(STAGING), sql.SQL(", ").join(staged)))
            with cursor.copy(f"COPY {STAGING} FROM STDIN (FORMAT BINARY)") as copy:
                copy.write(data)
            cursor.execute(
                self._update(id_, vector) if self._updates else self._insert(id_, vector, names)
            )

    def finish(self) -> None:
        """Update the planner's statistics."""
        self._execute(sql.SQL("ANALYZE {}").format(self._identifier))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @staticmethod
    def client_error(name: str, error: Exception) -> StitchworkError | None:
        """Errors of the server and of connections to it."""
        if isinstance(error, psycopg.OperationalError):
            return UnavailableError(f"{name}: {error}".strip())
        if isinstance(error, psycopg.Error):
            return InvalidInputError(f"{name}: {error}".strip())
        return None

    @cached_property
    def id_column(self) -> Column:
        """The column of ids.

        Raises:
            InvalidInputError: If it is not unique, or may be null: rows would be left out.
        """
        columns = self._columns()
        chosen = [c for c in columns if (c.name == self._id if self._id else c.primary)]
        if len(chosen) != 1 or not (chosen[0].unique and chosen[0].required):
            expected = f"a column {self._id} of ids" if self._id else "a primary key of one column"
            listed = ", ".join(f"{c.name} ({c.type})" for c in columns) or "no such table"
            raise InvalidInputError(
                f"{self.name}: expected {expected}, unique and NOT NULL, got {listed}; choose by "
                "&id=NAME"
            )
        return chosen[0]

    @cached_property
    def vector_column(self) -> Column:
        """The column of vectors."""
        columns = self._columns()
        chosen = [c for c in columns if c.base in NUMBERS and self._column in (None, c.name)]
        listing = (f"{c.name} ({c.type})" for c in columns)
        return choose_vectors(self.name, "column", self._column, chosen, listing, "no such table")

    @property
    def payload_columns(self) -> list[Column]:
        """All other columns that are read."""
        if not self._with_payload:
            return []
        names = (self.id_column.name, self.vector_column.name)
        return [column for column in self._columns() if column.name not in names]

    def _create_table(self, source: VectorStore, vector: sql.SQL, stamp: Mapping[str, str]) -> None:
        id_, self._copied = self._layout(source)
        vector_name = self._column or VECTOR
        names = [id_.name, vector_name, *(column.name for column in self._copied)]
        check_unique_names(self.name, names)
        key = sql.SQL("{} {} PRIMARY KEY").format(sql.Identifier(id_.name), sql.SQL(id_.type))
        definitions = [
            key,
            sql.SQL("{} {}").format(sql.Identifier(vector_name), vector),
            *(
                sql.SQL("{} {}{}").format(
                    sql.Identifier(column.name),
                    sql.SQL(column.type),
                    sql.SQL(" NOT NULL" if column.required else ""),
                )
                for column in self._copied
            ),
        ]
        create = sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})")
        self._execute(create.format(self._identifier, sql.SQL(", ").join(definitions)))
        comment = sql.Literal(orjson.dumps(dict(stamp)).decode())
        self._execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(self._identifier, comment))

    def _layout(self, source: VectorStore) -> tuple[Column, Sequence[Column]]:
        """The columns of a new table."""
        if isinstance(source, PostgresqlStore):
            id_ = source.id_column
            self._column = self._column or source.vector_column.name
            return id_._replace(name=self._id or id_.name), source.payload_columns
        type_ = "bigint" if isinstance(first_id(source), int) else "text"
        id_ = Column(self._id or ID, type_, type_, -1, True, True, True)
        return id_, [Column(PAYLOAD, "jsonb", "jsonb", -1, False, False, False)]

    def _has_column(self) -> bool:
        return self._column in [column.name for column in self._columns()]

    def _is_table_of(self, source: "PostgresqlStore") -> bool:
        mine, other = self._connection.info, source._connection.info
        same = (mine.host, mine.port, mine.dbname) == (other.host, other.port, other.dbname)
        oid = "SELECT to_regclass({})::oid"
        own = self._value(oid, sql.Literal(self.table))
        return same and own is not None and own == source._value(oid, sql.Literal(source.table))

    def _insert(self, id_: Column, vector: Column, names: Sequence[sql.Composable]) -> sql.Composed:
        pairs = list(zip(self._copied, names, strict=True))
        columns = [sql.Identifier(n) for n in (id_.name, vector.name, *(c.name for c, _ in pairs))]
        values = [sql.SQL("id::{}").format(sql.SQL(id_.type)), sql.SQL("v")]
        values += [sql.SQL("{}::{}").format(name, sql.SQL(c.type)) for c, name in pairs]
        updates = [sql.SQL("{0} = excluded.{0}").format(column) for column in columns[1:]]
        return sql.SQL(
            "INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT ({}) DO UPDATE SET {}"
        ).format(
            self._identifier,
            sql.SQL(", ").join(columns),
            sql.SQL(", ").join(values),
            sql.Identifier(STAGING),
            columns[0],
            sql.SQL(", ").join(updates),
        )

    def _update(self, id_: Column, vector: Column) -> sql.Composed:
        query = "UPDATE {} AS t SET {} = s.v FROM {} AS s WHERE t.{} = s.id::{}"
        return sql.SQL(query).format(
            self._identifier,
            sql.Identifier(vector.name),
            sql.Identifier(STAGING),
            sql.Identifier(id_.name),
            sql.SQL(id_.type),
        )

    def _select(self, rest: sql.Composable, width: int) -> Batch:
        """The rows that the rest of a query after FROM selects."""
        id_, vector, others = self.id_column, self.vector_column, self.payload_columns
        # Qualified everywhere: ORDER BY would prefer the text of this name.
        texts = [sql.SQL("t.{}::text").format(sql.Identifier(c.name)) for c in (id_, *others)]
        columns = sql.SQL(", ").join([sql.SQL("t.{}").format(sql.Identifier(vector.name)), *texts])
        # Binary, for vectors: the numbers of a block need not be parsed from texts.
        with self._connection.cursor(binary=True) as cursor:
            cursor.execute(sql.SQL("SELECT {} FROM {}").format(columns, rest))
            rows = cursor.fetchall()
        values = list(zip(*rows, strict=True)) or [()] * (2 + len(others))
        vectors, faults = to_vectors([parse_vector(v, vector.base) for v in values[0]], width)
        ids: list[Id] = [int(text) if id_.type in INTEGERS else text for text in values[1]]
        payload = ColumnPayload(others, values[2:], len(ids))
        return Batch(ids, vectors, payload, values[1][-1] if ids else None, faults)

    def _columns(self) -> list[Column]:
        return [Column(*row) for row in self._connection.execute(COLUMNS, [self.table]).fetchall()]

    def _value(self, query: Any, *parts: sql.Composable) -> Any:
        row = self._connection.execute(sql.SQL(query).format(*parts)).fetchone()
        return row[0] if row else None

    def _execute(self, query: sql.Composed) -> None:
        self._connection.execute(query)
