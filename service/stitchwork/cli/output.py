"""How commands print their results: a table for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from unicodedata import east_asian_width

import click

MAX_TEXT: Final = 60
"""Characters of an input text in a table."""
MAX_ENTRIES: Final = 10
"""Entries of a list in a table."""
GAP: Final = "  "


class Output:
    """Prints the result of a command.

    Args:
        as_json: Print JSON in place of tables.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    @property
    def has_progress(self) -> bool:
        """Whether a progress bar would be visible."""
        return not self.as_json and sys.stderr.isatty()

    def show(
        self, value: Any, columns: Sequence[str] = (), rows: Iterable[Sequence[Any]] = ()
    ) -> None:
        """Print a value as JSON, or the rows that stand for it as a table."""
        click.echo(as_json(value) if self.as_json else table(columns, rows))

    def record(self, fields: Mapping[str, Any]) -> None:
        """Print one record."""
        self.show(dict(fields), ("field", "value"), fields.items())

    def warn(self, warnings: Iterable[str]) -> None:
        """Print warnings on standard error, unless JSON has them."""
        for warning in () if self.as_json else warnings:
            click.echo(f"stitchwork: {warning}", err=True)


def as_json(value: Any) -> str:
    """A value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> str:
    """Rows under their column names, aligned with spaces."""
    lines = [list(columns), *([cell(value) for value in row] for row in rows)]
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    text = [
        GAP.join(
            entry + " " * (width - display_width(entry))
            for entry, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([title, *text] if title else text)


def cell(value: Any) -> str:
    """A value as a cell of a table."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {cell(part)}" for key, part in value.items() if part is not None)
    if isinstance(value, list):
        entries = ", ".join(map(cell, value[:MAX_ENTRIES]))
        return f"{entries}, … ({len(value)})" if len(value) > MAX_ENTRIES else entries
    # A label or text may hold escape sequences of the terminal.
    return "".join(letter if letter.isprintable() else "�" for letter in str(value))


def shorten(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def display_width(text: str) -> int:
    """Columns of a terminal that a text takes; East Asian characters take two."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
