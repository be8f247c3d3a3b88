"""Tables and numbers as Markdown has them."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

ALPHA: Final = "\N{GREEK SMALL LETTER ALPHA}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; a bar in a cell would end it, and is written so that it does not."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    """A number of so many digits; n/a where there is none."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """A number with its interval."""
    if value is None:
        return "n/a"
    return f"{number(value, 2)} ({number(low, 2)} to {number(high, 2)})"


def _cell(cell: Any) -> str:
    if cell is None:
        return "n/a"
    return str(cell).replace("|", "\\|")
