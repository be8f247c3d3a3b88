"""The requests that the current work belongs to; logs and spans refer to them.

An API works for one caller at a time in each context; a worker works for all callers whose jobs
share a batch.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

MAX_REQUEST_IDS: Final = 64
"""Request ids that one log record names."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One request.

    Attributes:
        request_id: Id of the request, chosen by the client or by the API.
        traceparent: The parent span, as W3C Trace Context writes it; None if tracing is off.
    """

    request_id: str | None = None
    traceparent: str | None = None

    @property
    def trace_id(self) -> str | None:
        """Id of the trace that the span belongs to, 32 hexadecimal digits."""
        return self.traceparent.split("-")[1] if self.traceparent else None


CALLERS: Final[ContextVar[tuple[Caller, ...]]] = ContextVar("callers", default=())


@contextmanager
def bind_callers(*callers: Caller) -> Generator[None, None, None]:
    """A context in which the work belongs to these callers."""
    token = CALLERS.set(callers)
    try:
        yield
    finally:
        CALLERS.reset(token)


class RequestIdFilter(logging.Filter):
    """Adds the ids of the current requests, and of their traces, to each log record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids to a record; no record is dropped."""
        for name, value in self.ids().items():
            setattr(record, name, value)
        return True

    @staticmethod
    def ids() -> dict[str, str | list[str]]:
        """The ids of the current requests and of their traces, by the names of their fields."""
        callers = CALLERS.get()
        if len(callers) == 1:
            request_id, trace_id = callers[0].request_id, callers[0].trace_id
            one = {"request_id": request_id} if request_id else {}
            return {**one, "trace_id": trace_id} if trace_id else {**one}
        fields: dict[str, str | list[str]] = {}
        for name in ("request_id", "trace_id"):
            values = [getattr(caller, name) for caller in callers[:MAX_REQUEST_IDS]]
            ids = list(dict.fromkeys(value for value in values if value))
            if len(ids) == 1:
                fields[name] = ids[0]
            elif ids:
                fields[f"{name}s"] = ids
        return fields
