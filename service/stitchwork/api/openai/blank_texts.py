"""Blank texts among the inputs of a request, which nothing can be embedded of."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final

from stitchwork.errors import InvalidInputError

MESSAGE: Final = "expected a text that is not empty"
ITEMS: Final = "/items/"


def present_indices(texts: Sequence[str | bytes]) -> list[int]:
    """The indices of the texts that are not blank."""
    return [i for i, text in enumerate(texts) if not isinstance(text, str) or text.strip()]


@contextmanager
def original_indices(indices: Sequence[int]) -> Generator[None, None, None]:
    """A context in which an error about one of the inputs names its index in the request.

    Args:
        indices: The index in the request of each input.
    """
    try:
        yield
    except InvalidInputError as error:
        index = (error.pointer or "").removeprefix(ITEMS)
        if index != error.pointer and index.isdigit():
            error.pointer = f"{ITEMS}{indices[int(index)]}"
        raise
