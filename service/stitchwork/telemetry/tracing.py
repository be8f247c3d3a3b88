"""Spans by OpenTelemetry, sent to a collector over HTTP; its packages are imported here alone.

Where to, how many and under which name, the standard `OTEL_*` variables say. A trace crosses the
queue as the `traceparent` of W3C Trace Context, which a job carries.
"""

from typing import Final, Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT: Final = "traceparent"
_W3C: Final = TraceContextTextMapPropagator()


class Span:
    """One piece of work in a trace, from when it is made until `end`."""

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(span))
        self.traceparent: str = carrier[TRACEPARENT]

    def set_name(self, name: str) -> None:
        """Call it this, once that is known."""
        self._span.update_name(name)

    def set_attributes(self, **facts: str | int | float) -> Self:
        """Add facts, of which none is a user's own; `__` in a name stands for a dot."""
        for name, value in facts.items():
            self._span.set_attribute(name.replace("__", "."), value)
        return self

    def end(self, *, failed: bool = False) -> None:
        """It ends now."""
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Tracing:
    """Makes the spans of one process, and sends them from a thread of its own.

    Args:
        service: What the process is called, unless `OTEL_SERVICE_NAME` says otherwise.
        version: Of the service.
    """

    def __init__(self, service: str, version: str) -> None:
        own = Resource.create({"service.name": service, "service.version": version})
        # Looked up once more: what the environment says goes before what we say.
        self._provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("stitchwork", version)

    def begin(
        self,
        name: str,
        parent: str | None,
        *,
        serves: bool = False,
        began_ns: int | None = None,
    ) -> Span:
        """A span that begins now.

        Args:
            name: What is done.
            parent: The `traceparent` of what it is part of; one that is damaged counts as none.
            serves: Whether it is the answer to a request.
            began_ns: When it began, in nanoseconds since the epoch, if that was earlier.
        """
        context = _W3C.extract({TRACEPARENT: parent}, Context()) if parent else Context()
        kind = SpanKind.SERVER if serves else SpanKind.INTERNAL
        return Span(self._tracer.start_span(name, context, kind, start_time=began_ns))

    def close(self) -> None:
        """Send what is left, as far as the collector takes it in time."""
        self._provider.shutdown()
