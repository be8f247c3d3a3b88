"""Id, log record, metrics and span of each request."""

import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stitchwork.api import problem_details
from stitchwork.api.limits import HEALTH_PATHS
from stitchwork.errors import ErrorCode
from stitchwork.queue.streams import new_id
from stitchwork.telemetry import Caller, Telemetry, bind_callers

if TYPE_CHECKING:
    from stitchwork.telemetry.tracing import Span

log = logging.getLogger("stitchwork.access")

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestTelemetryMiddleware:
    """Assigns each request an id, returns it, and logs, counts and traces the request.

    Args:
        app: The next app.
        telemetry: Receives metrics and spans.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        client_id = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = client_id if REQUEST_ID.fullmatch(client_id) else new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        span = self._telemetry.start_request_span(headers)
        start, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    # Responses repeat labels and ids of users; browsers must not guess HTML.
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        metrics = self._telemetry.metrics
        metrics.requests_in_progress.inc()
        with bind_callers(Caller(request_id, span.traceparent if span else None)):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                log.error("request failed", exc_info=error)
                if not status:
                    problem_details.record_code(scope, ErrorCode.INTERNAL)
                    response = problem_details.problem_response(
                        500,
                        ErrorCode.INTERNAL,
                        "the request failed because of an internal error; the log has the details",
                        request_id,
                        path=scope["path"],
                    )
                    await response(scope, receive, send_with_id)
            finally:
                metrics.requests_in_progress.dec()
                self._record(scope, status, time.perf_counter() - start, span)

    def _record(self, scope: Scope, status: int, seconds: float, span: "Span | None") -> None:
        method, route = scope["method"], getattr(scope.get("route"), "path", None)
        state = scope["state"]
        code, key = state.get("code"), state.get("key")
        self._telemetry.metrics.record_response(method, route, status, code, seconds)
        if span:
            span.set_name(f"{method} {route}" if route else method)
            span.set_attributes(
                http__request__method=method,
                http__route=route or "",
                http__response__status_code=status,
                stitchwork__request_id=state["request_id"],
            ).end(failed=not status or status >= 500)
        fields: dict[str, Any] = {"method": method, "route": route, "status": status}
        fields["key"] = key.name if key else None
        fields["duration_ms"] = round(seconds * 1000, 2)
        if code:
            fields["code"] = code
        # Supervisors and load balancers poll these every second or so.
        level = logging.DEBUG if scope["path"] in HEALTH_PATHS else logging.INFO
        log.log(level, "request completed", extra=fields)
