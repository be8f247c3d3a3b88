"""Markdown tables and numbers."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

ALPHA: Final = "\N{GREEK SMALL LETTER ALPHA}"
NOT_AVAILABLE: Final = "n/a"


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; vertical bars in cells are escaped."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def format_number(value: float | None, digits: int = 3) -> str:
    """A number with this many decimal places; n/a for None."""
    return NOT_AVAILABLE if value is None else f"{value:.{digits}f}"


def format_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A number with its interval; n/a for None."""
    if value is None:
        return NOT_AVAILABLE
    return f"{format_number(value, 2)} ({format_number(low, 2)} to {format_number(high, 2)})"


def _cell(cell: Any) -> str:
    return NOT_AVAILABLE if cell is None else str(cell).replace("|", "\\|")
