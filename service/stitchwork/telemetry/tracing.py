"""OpenTelemetry spans, exported to a collector over HTTP; only this module imports its packages.

The standard `OTEL_*` variables set the endpoint, the sampling and the service name. Jobs carry a
trace across the queue as W3C `traceparent`.
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
    """One span, from its construction until `end`."""

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(span))
        self.traceparent: str = carrier[TRACEPARENT]

    def set_name(self, name: str) -> None:
        """Replace the name of the span."""
        self._span.update_name(name)

    def set_attributes(self, **attributes: str | int | float) -> Self:
        """Set attributes, none of which may hold user data; `__` in a name stands for a dot."""
        for name, value in attributes.items():
            self._span.set_attribute(name.replace("__", "."), value)
        return self

    def end(self, *, failed: bool = False) -> None:
        """End the span, with the status error if it failed."""
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Tracing:
    """Creates the spans of one process and exports them from a background thread.

    Args:
        service: Name of the process, unless `OTEL_SERVICE_NAME` sets another.
        version: Version of the service.
    """

    def __init__(self, service: str, version: str) -> None:
        own = Resource.create({"service.name": service, "service.version": version})
        # `Resource.create` lets its arguments override the environment; this reverses that.
        self._provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("stitchwork", version)

    def start_span(
        self,
        name: str,
        parent: str | None,
        *,
        is_server: bool = False,
        start_ns: int | None = None,
    ) -> Span:
        """Start a span.

        Args:
            name: Name of the span.
            parent: `traceparent` of the parent span; a malformed one is ignored.
            is_server: Whether the span is the server's side of a request.
            start_ns: Start time in nanoseconds since the epoch; None is now.
        """
        context = _W3C.extract({TRACEPARENT: parent}, Context()) if parent else Context()
        kind = SpanKind.SERVER if is_server else SpanKind.INTERNAL
        return Span(self._tracer.start_span(name, context, kind, start_time=start_ns))

    def close(self) -> None:
        """Export the remaining spans, as far as the collector accepts them in time."""
        self._provider.shutdown()
