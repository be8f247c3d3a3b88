"""The callers that share the encoders."""

from contextvars import ContextVar
from typing import Final, NamedTuple


class CallerQuota(NamedTuple):
    """A caller, and what it may have of the queue.

    Attributes:
        name: The name of its API key or, without one, its address.
        weight: Its share of each encoder and of the queue, in units of that of other callers.
        max_inputs: Inputs that it may have in the queue of an encoder; 0 for any number.
    """

    name: str = ""
    weight: int = 1
    max_inputs: int = 0


NOBODY: Final = CallerQuota()
CALLER: Final[ContextVar[CallerQuota]] = ContextVar("caller", default=NOBODY)
"""The caller of the current request."""
