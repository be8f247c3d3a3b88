"""Reasons of failures as they are reported: without texts of other libraries.

The message of a store's client may repeat the values of a row, which are no concern of those who
read the list of moves.
"""

from typing import Final

from stitchwork.errors import StitchworkError

ELSEWHERE: Final = "its message is in the output of the command"


class ProcessError(Exception):
    """The cause of an error in another process, of which only the name of its class is known.

    Attributes:
        kind: The name.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def foreign_kind(error: BaseException) -> str | None:
    """The name of the class of another library's error that is, or has caused, an error.

    Returns:
        None if the error and its causes are all of this package.
    """
    cause = error
    while isinstance(cause, StitchworkError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ProcessError):
        return cause.kind
    return None if isinstance(cause, StitchworkError) else type(cause).__name__


def public_reason(error: BaseException) -> str:
    """The message of an error of this package; of one of another library, its class."""
    kind = foreign_kind(error)
    return str(error) if kind is None else f"{kind}; {ELSEWHERE}"
