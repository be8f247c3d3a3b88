"""Ids of anchor sets, spaces and heads; it needs no package, so that the client can check them."""

import re
from typing import Final

from stitchwork.errors import ErrorCode, InvalidInputError

ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


def is_id(value: str) -> bool:
    """Whether a value is an id."""
    return re.fullmatch(ID_PATTERN, value) is not None


def check_id(value: str, pointer: str | None = None) -> str:
    """An id that is safe in a URL and in a key.

    Raises:
        InvalidInputError: If it is empty, too long, or has other characters than letters, digits,
            `.`, `_` and `-`.
    """
    if not is_id(value):
        excerpt = value if len(value) <= 40 else value[:40] + "…"
        raise InvalidInputError(
            "expected an id of 1 to 128 letters, digits, '.', '_' or '-' that starts with a letter "
            f"or digit, got {excerpt!r}",
            pointer=pointer,
            code=ErrorCode.INVALID_ID,
        )
    return value
