"""Whom the work at hand is done for: what logs name and spans hang on.

An API works for one caller at a time in each of its contexts, a worker for all whose jobs share a
batch.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

MOST_NAMED: Final = 64
"""Requests that one line of a log names."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One request.

    Attributes:
        request_id: What the client, or the API, calls it.
        traceparent: The span that the work belongs to, as W3C Trace Context writes it; None where
            nothing is traced.
    """

    request_id: str | None = None
    traceparent: str | None = None

    @property
    def trace_id(self) -> str | None:
        """The trace that the span is part of, 32 hexadecimal digits."""
        return self.traceparent.split("-")[1] if self.traceparent else None


CALLERS: Final[ContextVar[tuple[Caller, ...]]] = ContextVar("callers", default=())


@contextmanager
def bind_callers(*callers: Caller) -> Generator[None, None, None]:
    """What is done inside is done for these."""
    token = CALLERS.set(callers)
    try:
        yield
    finally:
        CALLERS.reset(token)


class RequestIdFilter(logging.Filter):
    """Puts the ids of the requests, and of their traces, on each line that is logged for them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line through, with what is known of whom it was written for."""
        callers = CALLERS.get()
        for name in ("request_id", "trace_id"):
            found = [getattr(caller, name) for caller in callers[:MOST_NAMED]]
            ids = list(dict.fromkeys(id_ for id_ in found if id_))
            if len(ids) == 1:
                setattr(record, name, ids[0])
            elif ids:
                setattr(record, f"{name}s", ids)
        return True
