"""How commands show what they found: a table for people, JSON for programs."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE: Final = 200
"""Columns where the output is no terminal, whose width would be a guess."""
SHOWN_CHARACTERS: Final = 60


def show(
    options: argparse.Namespace,
    value: Any,
    columns: Sequence[str] = (),
    rows: Iterable[Sequence[Any]] = (),
) -> None:
    """Print a value: as JSON if that was asked for, else as a table."""
    if options.json:
        print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201
        return
    table = Table(*columns)
    for row in rows:
        # As `Text`, or square brackets would be taken for styles.
        table.add_row(*(Text(cell(entry)) for entry in row))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def record(options: argparse.Namespace, told: dict[str, Any]) -> None:
    """Print one record."""
    show(options, told, ("field", "value"), told.items())


def cell(value: Any) -> str:
    """A value as a cell of a table."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {cell(part)}" for key, part in value.items() if part is not None)
    if isinstance(value, list):
        shown = ", ".join(map(cell, value[:10]))
        return f"{shown}, … ({len(value)})" if len(value) > 10 else shown
    return str(value)


def short(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def wants_bar(options: argparse.Namespace) -> bool:
    """Whether a bar would be seen."""
    return not options.json and sys.stderr.isatty()
