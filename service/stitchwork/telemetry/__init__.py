"""What is seen of a process from outside: figures, spans and logs.

One seam for all of it: `with telemetry.step("translate"):` times what is inside, and makes it a
span in the trace of each caller it is done for. Who that is, `callers` knows; tracing is an extra,
and without it nothing of it is imported.
"""

import time
from collections.abc import Mapping
from contextvars import Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from stitchwork.telemetry.metrics import Metrics
from stitchwork.telemetry.request_context import CALLERS, Caller, bind_callers

if TYPE_CHECKING:
    from stitchwork.telemetry.tracing import Span, Tracing

__all__ = ["Caller", "Metrics", "Telemetry", "bind_callers"]


class Observed(Protocol):
    """What takes a number of seconds."""

    def observe(self, amount: float) -> None:
        """Take note of it."""


class Step:
    """A piece of the work, timed and traced while it is entered."""

    __slots__ = ("_began", "_name", "_seconds", "_spans", "_token", "_tracing")

    def __init__(self, name: str, seconds: Observed | None, tracing: "Tracing | None") -> None:
        self._name = name
        self._seconds = seconds
        self._tracing = tracing
        self._spans: list[Span] = []
        self._token: Token[tuple[Caller, ...]] | None = None

    def __enter__(self) -> Self:
        if self._tracing:
            # What is done inside is part of this.
            inside = tuple(self._enter(self._tracing, caller) for caller in CALLERS.get())
            self._token = CALLERS.set(inside)
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._seconds:
            self._seconds.observe(time.perf_counter() - self._began)
        for span in self._spans:
            span.end(failed=error is not None)
        if self._token:
            CALLERS.reset(self._token)

    def _enter(self, tracing: "Tracing", caller: Caller) -> Caller:
        if not caller.traceparent:
            return caller
        span = tracing.begin(self._name, caller.traceparent)
        self._spans.append(span)
        return Caller(caller.request_id, span.traceparent)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """How one process is seen.

    Attributes:
        metrics: Its figures.
        tracing: Its spans; None where nothing is traced.
    """

    metrics: Metrics = field(default_factory=Metrics)
    tracing: "Tracing | None" = None

    def step(self, name: str) -> Step:
        """One of the steps of the work, as a context: its seconds are counted, and it is a span."""
        return Step(name, self.metrics.steps[name], self.tracing)

    def span(self, name: str) -> Step:
        """What holds several steps together in a trace, as a context."""
        return Step(name, None, self.tracing)

    def start_request_span(self, headers: Mapping[bytes, bytes]) -> "Span | None":
        """The span of a request, in the trace that its headers name, if they do."""
        if not self.tracing:
            return None
        named = headers.get(b"traceparent", b"").decode("latin-1")
        return self.tracing.begin("request", named or None, serves=True)

    def record_queue_wait(self, caller: Caller, seconds: float) -> None:
        """A job of this caller has waited so long until now."""
        self.metrics.waits.observe(seconds)
        if self.tracing and caller.traceparent:
            began = time.time_ns() - int(seconds * 1e9)
            self.tracing.begin("queue", caller.traceparent, began_ns=began).end()

    def close(self) -> None:
        """Send what is left to be sent."""
        if self.tracing:
            self.tracing.close()
