"""The options that name the texts of a store's rows."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stitchwork.errors import InvalidInputError

if TYPE_CHECKING:
    from stitchwork.migration.row_texts import TextReader

F = TypeVar("F", bound=Callable[..., Any])


def text_options(function: F) -> F:
    """The options `--text` and `--texts`, as arguments of the same names."""
    field = click.option("--text", metavar="FIELD", help="Field of the rows that has their texts.")
    file = click.option(
        "--texts",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help='Their texts: {"id": …, "text": …} on each line.',
    )
    return field(file(function))


def text_reader(field: str | None, path: Path | None, *, required: bool = True) -> "TextReader":
    """A reader of the texts that the options name; of none without them.

    Args:
        field: `--text`.
        path: `--texts`.
        required: Whether some of the rows that are read at a time must have a text.

    Raises:
        InvalidInputError: If both are given.
    """
    from stitchwork.migration.row_texts import FieldTexts, FileTexts, NoTexts

    if field is not None and path is not None:
        raise InvalidInputError("expected one of --text and --texts")
    if path is not None:
        return FileTexts(path, required)
    return NoTexts() if field is None else FieldTexts(field, required)
