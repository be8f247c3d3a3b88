"""The one pass around every request: id, key, limits, log record, metrics, span, errors.

Its headers are read once. Inference routes are called from here directly, since matching all
routes, resolving dependencies and the framework's own middleware cost more than they do.
"""

import logging
import os
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stitchwork.api import problem_details
from stitchwork.api.access import request_key, required_scopes
from stitchwork.api.direct_routes import DirectRequest, DirectRoutes
from stitchwork.api.executors import Load
from stitchwork.api.limits import HEALTH_PATHS
from stitchwork.api.message_state import request_headers
from stitchwork.api.middleware.auth import Admission, Authorizer
from stitchwork.api.middleware.request_body import BodyLimits, RequestBody
from stitchwork.errors import StitchworkError
from stitchwork.queue.callers import CALLER, CallerQuota
from stitchwork.resources import ApiKey
from stitchwork.telemetry import Caller, Telemetry
from stitchwork.telemetry.request_context import CALLERS

if TYPE_CHECKING:
    from stitchwork.telemetry.tracing import Span

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Responses repeat labels and ids of users; browsers must not guess HTML.
NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")


class RequestMiddleware:
    """Serves each request: admits it, calls its route, and logs, counts and traces it.

    Args:
        app: The app that serves all but the direct routes.
        routes: The app's routes.
        authorizer: Admits requests by their keys.
        body_limits: Limits of bodies.
        telemetry: Receives metrics and spans.
        load: Counts requests in progress.
        metrics_public: Whether `/metrics` needs no key.
        receives_parts: Whether bodies are received in parts, by which their rate is measured.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Iterable[BaseRoute],
        *,
        authorizer: Authorizer,
        body_limits: BodyLimits,
        telemetry: Telemetry,
        load: Load,
        metrics_public: bool = False,
        receives_parts: bool = True,
    ) -> None:
        self._app = app
        self._routes = DirectRoutes(routes)
        self._authorizer = authorizer
        self._body_limits = body_limits
        self._telemetry = telemetry
        self._load = load
        self._metrics_public = metrics_public
        self._receives_parts = receives_parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        if scope["method"] == "HEAD":
            # A copy, because the server still needs the original method to omit the body.
            scope = {**scope, "method": "GET"}
        headers = request_headers(scope)
        client_id = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = client_id if REQUEST_ID.fullmatch(client_id) else os.urandom(16).hex()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        span = self._telemetry.start_request_span(headers)
        token = CALLERS.set((Caller(request_id, span.traceparent if span else None),))
        admission = self._admission(scope)
        body = RequestBody(self._body_limits, receive, in_parts=self._receives_parts)
        sender = _Sender(send, scope, body, admission)
        in_progress = self._telemetry.metrics.requests_in_progress
        in_progress.inc()
        self._load.requests += 1
        try:
            await self._authorizer.admit(admission)
            state["key"] = key = admission.key
            CALLER.set(_caller(key, scope))
            self._body_limits.check_headers(headers, scope["path"])
            await self._serve(scope, body, sender)
        except Exception as error:  # noqa: BLE001 whatever it is, the client gets a response
            await sender.fail(error)
        finally:
            self._load.requests -= 1
            in_progress.dec()
            body.release()
            self._record(scope, sender.status, time.perf_counter() - start, span)
            CALLERS.reset(token)

    async def is_authorized(self, scope: Scope) -> bool:
        """Whether a request would be admitted by its key, apart from rate limits."""
        try:
            await self._authorizer.authorize(self._admission(scope))
        except StitchworkError:
            return False
        return True

    def _admission(self, scope: Scope) -> Admission:
        scopes = required_scopes(
            scope["method"], scope["path"], metrics_public=self._metrics_public
        )
        return Admission(scopes, request_key(scope))

    async def _serve(self, scope: Scope, body: RequestBody, sender: "_Sender") -> None:
        route = self._routes.find(scope)
        if route is None:
            await self._app(scope, body.receive, sender)
            return
        await sender.respond(await route.call(DirectRequest(scope, body)))

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
        fields["client"] = client_address(scope)
        fields["duration_ms"] = round(seconds * 1000, 2)
        if code:
            fields["code"] = code
        # Supervisors and load balancers poll these every second or so.
        level = logging.DEBUG if scope["path"] in HEALTH_PATHS else logging.INFO
        self._telemetry.access_log.write(level, fields)


class _Sender:
    """Sends the response to one request, with the headers that every response has.

    Attributes:
        status: Status of the response; 0 until it is sent.
    """

    __slots__ = ("_admission", "_body", "_refused", "_scope", "_send", "status")

    def __init__(self, send: Send, scope: Scope, body: RequestBody, admission: Admission) -> None:
        self._send = send
        self._scope = scope
        self._body = body
        self._admission = admission
        self._refused = False
        self.status = 0

    async def __call__(self, message: Message) -> None:
        """Send a part of a route's response, unless its body was refused before that began."""
        if self._body.error is not None and not self.status:
            # The error of the body takes precedence over whatever the route made of it.
            await self.fail(self._body.error)
            self._refused = True
        if not self._refused:
            await self._transmit(message)

    async def respond(self, response: Response) -> None:
        """Send a whole response."""
        await response(self._scope, _receive_nothing, self._transmit)

    async def fail(self, error: Exception) -> None:
        """Send the response to a request that failed, unless one was begun."""
        headers = self._admission.headers
        response = problem_details.failure_response(error, self._scope, headers)
        if not self.status:
            headers.clear()
            await self.respond(response)

    async def _transmit(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._headers()]
        await self._send(message)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        request_id = self._scope["state"]["request_id"]
        added = [(b"x-request-id", request_id.encode()), NO_SNIFF]
        for name, value in self._admission.headers.items():
            added.append((name.lower().encode(), value.encode()))
        return added


def client_address(scope: Scope) -> str | None:
    """The address of a request's client, as a trusted proxy forwarded it; None if it has none."""
    client = scope.get("client")
    return str(client[0]) if client else None


def _caller(key: ApiKey | None, scope: Scope) -> CallerQuota:
    """The caller whose share of the queue a request uses."""
    if key is None:
        return CallerQuota(client_address(scope) or "")
    return CallerQuota(key.name, key.weight, key.max_queue_items or 0)


async def _receive_nothing() -> Message:
    return {"type": "http.disconnect"}
