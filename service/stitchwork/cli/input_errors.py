"""Errors of one input, by its place in the command's files."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from stitchwork.cli.table_files import TextSource, is_table
from stitchwork.errors import ErrorCode, StitchworkError

if TYPE_CHECKING:
    from stitchwork.cli.files import Files

POINTER: Final = re.compile(r"/items/(\d+)", re.ASCII)


@contextmanager
def input_errors(inputs: "Sequence[str] | Files | None", texts: TextSource) -> Iterator[None]:
    """A context in which errors of one input name its file and line, and options of the command.

    Args:
        inputs: The inputs.
        texts: Where they are, if they are texts.
    """
    try:
        yield
    except StitchworkError as error:
        if error.code == ErrorCode.TOO_MANY_TOKENS:
            error.message += ", by --truncate"
        if inputs is not None and (place := POINTER.fullmatch(error.pointer or "")):
            error.message = f"{_name(inputs, texts, int(place[1]))}: {error.message}"
            error.pointer = None
        error.args = (error.message,)
        raise


def _name(inputs: "Sequence[str] | Files", texts: TextSource, index: int) -> str:
    from stitchwork.cli.files import STDIN, Files

    if isinstance(inputs, Files):
        return str(inputs.paths[index])
    path = texts.path or STDIN
    name = "the standard input" if path == STDIN else path
    # Records of a table may have several lines, or none.
    return f"{name}, {'text' if is_table(path) else 'line'} {index + 1}"
