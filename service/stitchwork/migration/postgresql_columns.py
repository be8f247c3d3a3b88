"""The columns of tables of PostgreSQL, and their values as texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.migration.json_values import decode_json
from stitchwork.migration.store import Record

COLUMNS: Final = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typname, a.atttypmod, a.attnotnull,
           EXISTS (
               SELECT FROM pg_index i
               WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indpred IS NULL
                 AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
           ),
           EXISTS (
               SELECT FROM pg_index i
               WHERE i.indrelid = a.attrelid AND i.indisprimary
                 AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
           )
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
"""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: Its name.
        type: Its type with its modifiers, as SQL.
        base: Its type's name without them.
        modifier: The width of a vector; -1 if the type has none.
        required: Whether it is NOT NULL.
        unique: Whether it has a unique index of its own.
        primary: Whether it is the primary key.
    """

    name: str
    type: str
    base: str
    modifier: int
    required: bool
    unique: bool
    primary: bool


@dataclass(frozen=True, slots=True)
class ColumnPayload:
    """Columns as PostgreSQL's texts, which restore every type exactly.

    Attributes:
        columns: The columns.
        values: The texts of each column.
        rows: The number of rows.
    """

    columns: Sequence[Column]
    values: Sequence[Sequence[str | None]]
    rows: int

    def records(self) -> list[Record]:
        """Numbers, booleans and JSON as such, other types as texts."""
        if not self.columns:
            return [{} for _ in range(self.rows)]
        names = [column.name for column in self.columns]
        parsed = [
            [_parse(text, column) for text in texts]
            for column, texts in zip(self.columns, self.values, strict=True)
        ]
        return [dict(zip(names, row, strict=True)) for row in zip(*parsed, strict=True)]

    def select(self, rows: NDArray[np.intp]) -> "ColumnPayload":
        """Some of the rows, by their indices."""
        values = [[texts[row] for row in rows] for texts in self.values]
        return ColumnPayload(self.columns, values, len(rows))


def _parse(text: str | None, column: Column) -> Any:
    if text is None:
        return None
    match column.base:
        case "int2" | "int4" | "int8":
            return int(text)
        case "float4" | "float8":
            return float(text)
        case "bool":
            return text == "true"
        case "json" | "jsonb":
            # orjson would round integers of more than 64 bits, and decimals.
            return decode_json(text)
        case _:
            return text
