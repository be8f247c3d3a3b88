"""Metrics, spans and logs of a process, behind one interface.

`with telemetry.step("translate"):` times its body and records it as a span in the trace of each
caller that the work is done for; `request_context` holds those callers. Tracing is an optional
extra, and its packages are imported only if it is enabled.
"""

import time
from collections.abc import Mapping
from contextvars import Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from stitchwork.telemetry.access_log import AccessLog
from stitchwork.telemetry.metrics import Metrics
from stitchwork.telemetry.request_context import CALLERS, Caller, bind_callers

if TYPE_CHECKING:
    from stitchwork.telemetry.tracing import Span, Tracing

__all__ = ["Caller", "Metrics", "Telemetry", "bind_callers"]


class Observer(Protocol):
    """A histogram of seconds."""

    def observe(self, amount: float) -> None:
        """Record one observation."""


class StepTimer:
    """A context manager that times its body and records it as a span."""

    __slots__ = ("_histogram", "_name", "_spans", "_start", "_token", "_tracing")

    def __init__(self, name: str, histogram: Observer | None, tracing: "Tracing | None") -> None:
        self._name = name
        self._histogram = histogram
        self._tracing = tracing
        self._spans: list[Span] = []
        self._token: Token[tuple[Caller, ...]] | None = None

    def __enter__(self) -> Self:
        if self._tracing:
            # Spans that are started in the body are children of these.
            callers = tuple(self._start_span(self._tracing, caller) for caller in CALLERS.get())
            self._token = CALLERS.set(callers)
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._histogram:
            self._histogram.observe(time.perf_counter() - self._start)
        for span in self._spans:
            span.end(failed=error is not None)
        if self._token:
            CALLERS.reset(self._token)

    def _start_span(self, tracing: "Tracing", caller: Caller) -> Caller:
        if not caller.traceparent:
            return caller
        span = tracing.start_span(self._name, caller.traceparent)
        self._spans.append(span)
        return Caller(caller.request_id, span.traceparent)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The telemetry of one process.

    Attributes:
        metrics: Its metrics.
        tracing: Its tracing; None if tracing is off.
        access_log: Its log of requests.
    """

    metrics: Metrics = field(default_factory=Metrics)
    tracing: "Tracing | None" = None
    access_log: AccessLog = field(default_factory=AccessLog)

    def step(self, name: str) -> StepTimer:
        """A context that times one of the inference steps and records it as a span."""
        return StepTimer(name, self.metrics.steps[name], self.tracing)

    def span(self, name: str) -> StepTimer:
        """A context that groups several steps under one span, without a metric."""
        return StepTimer(name, None, self.tracing)

    def start_request_span(self, headers: Mapping[bytes, bytes]) -> "Span | None":
        """The span of a request, in the trace that its `traceparent` header names, if any."""
        if not self.tracing:
            return None
        parent = headers.get(b"traceparent", b"").decode("latin-1")
        return self.tracing.start_span("request", parent or None, is_server=True)

    def record_queue_wait(self, caller: Caller, seconds: float) -> None:
        """Record that a job of this caller waited in the queue for so long, until now."""
        self.metrics.queue_wait_seconds.observe(seconds)
        if self.tracing and caller.traceparent:
            start_ns = time.time_ns() - int(seconds * 1e9)
            self.tracing.start_span("queue", caller.traceparent, start_ns=start_ns).end()

    def close(self) -> None:
        """Write the remaining records of requests, and export the remaining spans."""
        self.access_log.flush()
        if self.tracing:
            self.tracing.close()
