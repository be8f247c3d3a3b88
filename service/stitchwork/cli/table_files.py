"""Reads a column of a table: CSV, TSV, or JSON lines."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from stitchwork.errors import InvalidInputError

DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
JSON_LINES: Final = (".jsonl", ".ndjson")
SUFFIXES: Final = (*DELIMITERS, *JSON_LINES)
MAX_NAMES: Final = 20
"""Columns that a message lists."""


class TextSource(NamedTuple):
    """Where the texts of a command are.

    Attributes:
        path: A file, or `-` for the standard input; None for no texts.
        column: Its column, of a table; None for the default.
    """

    path: str | None
    column: str | None = None


def is_table(path: str | Path) -> bool:
    """Whether a file has columns, by its name."""
    return Path(path).suffix.lower() in SUFFIXES


def read_column(path: Path, column: str | None, default: str) -> list[Any]:
    """The values of one column, in the order of the file.

    Args:
        path: A file whose name ends in one of `SUFFIXES`.
        column: The column; None for the default, or the only one there is.
        default: Name of the default column.

    Raises:
        InvalidInputError: If the file is not of its format, or has no such column.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in JSON_LINES:
            return list(_json_values(path, column, default))
        return list(_delimited_values(path, DELIMITERS[suffix], column, default))
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: expected UTF-8") from error


def _delimited_values(
    path: Path, delimiter: str, column: str | None, default: str
) -> Iterator[str]:
    # Of spreadsheets, the file begins with a byte-order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            names = reader.fieldnames
            if not names:
                raise InvalidInputError(f"{path}: expected names of columns in the first line")
            name = _choose(path, names, column, default)
            for row in reader:
                if None in row or None in row.values():
                    raise InvalidInputError(
                        f"{path}, line {reader.line_num}: expected {len(names)} values, got "
                        f"{_count(row)}"
                    )
                yield row[name]
        except csv.Error as error:
            raise InvalidInputError(f"{path}, line {reader.line_num}: {error}") from error


def _count(row: Mapping[Any, Any]) -> int:
    present = [value for key, value in row.items() if key is not None and value is not None]
    return len(present) + len(row.get(None) or ())


def _json_values(path: Path, column: str | None, default: str) -> Iterator[Any]:
    # Lines end at line feeds only; a text may have other characters that Python splits at.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise InvalidInputError(
                    f"{path}, line {number}: expected one JSON value: {error}"
                ) from error
            if not isinstance(value, dict):
                if column is not None:
                    raise InvalidInputError(f"{path}, line {number}: expected a JSON object")
                yield value
                continue
            place = f"{path}, line {number}" if number > 1 else str(path)
            yield value[_choose(place, list(value), column, default)]


def _choose(place: str | Path, names: Sequence[str], column: str | None, default: str) -> str:
    name = column or (names[0] if len(names) == 1 else default)
    if name in names:
        return name
    listed = ", ".join(names[:MAX_NAMES]) or "none"
    hint = "" if column else "; --column or --label-column names one"
    raise InvalidInputError(f"{place}: expected a column {name!r}, got {listed}{hint}")
