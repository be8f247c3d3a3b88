"""The FastAPI app, put together from parts."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stitchwork.api import openapi, problem_details
from stitchwork.api.dependencies import AppState
from stitchwork.api.kserve import routes as kserve
from stitchwork.api.middleware import auth
from stitchwork.api.middleware.body_limits import BodyLimitMiddleware
from stitchwork.api.middleware.head_requests import HeadRequestMiddleware
from stitchwork.api.openai import routes as openai
from stitchwork.api.routes import (
    anchor_sets,
    anchors,
    compatibility,
    export,
    heads,
    health,
    metrics,
    spaces,
    stitch,
    translate,
)
from stitchwork.errors import ErrorCode
from stitchwork.queue.streams import new_id
from stitchwork.telemetry import Caller, Telemetry, bind_callers

if TYPE_CHECKING:
    from stitchwork.telemetry.tracing import Span

log = logging.getLogger("stitchwork.access")

DESCRIPTION: Final = """
Register encoders and classifier heads with their anchors, then let any encoder feed any head.

Two spaces on the same *anchor set* can be translated into each other without training: each is
known only by its own anchors.
"""
THREADS: Final = 64
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


def create_app(state: AppState) -> FastAPI:
    """The app over these parts; its lifespan starts and stops them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        # Threads mostly wait for a server; the default, a few for each core, starves health checks.
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="request")
        asyncio.get_running_loop().set_default_executor(pool)
        state.producer.start()
        state.api_keys.start()
        yield
        state.api_keys.stop()
        state.producer.stop()
        state.executor.close()
        state.comparison_executor.close()
        state.inverses.close()
        state.telemetry.close()

    app = FastAPI(
        title="Stitchwork",
        version=state.version,
        summary="Any encoder feeds any classifier head, zero-shot.",
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    app.state.stitchwork = state
    # A path is looked for in this order: what is asked most stands first.
    ours = (
        translate,
        stitch,
        anchor_sets,
        spaces,
        anchors,
        heads,
        compatibility,
        export,
        health,
        metrics,
    )
    for routes in (*ours, openai, kserve):
        # As routes of the app itself: what is included is looked for twice.
        app.router.routes += routes.router.routes
    problem_details.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimitMiddleware, limits=state.limits)
    app.add_middleware(
        auth.AuthMiddleware,
        ring=state.api_keys,
        rates=state.rate_limiter,
        metrics_public=state.metrics_public,
    )
    app.add_middleware(RequestContextMiddleware, telemetry=state.telemetry)
    app.add_middleware(HeadRequestMiddleware)
    templates = [route for route in app.routes if isinstance(route, APIRoute)]
    state.telemetry.metrics.initialize_series(
        [(method, route.path) for route in templates for method in route.methods or ()],
        problem_details.error_statuses(),
    )
    return app


class RequestContextMiddleware:
    """Gives each request an id, sends it back, and counts, traces and logs the request."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = asked if REQUEST_ID.fullmatch(asked) else new_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        span = self._telemetry.start_request_span(headers)
        began, status = time.perf_counter(), 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    # Labels and ids come back as they came: no browser shall take them for a page.
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        metrics = self._telemetry.metrics
        metrics.requests_in_progress.inc()
        with bind_callers(Caller(request_id, span.traceparent if span else None)):
            try:
                await self._app(scope, receive, tagged)
            except Exception as error:
                log.error("request failed", exc_info=error)
                if not status:
                    problem_details.record_code(scope, ErrorCode.INTERNAL)
                    told, path = "the service failed at this request", scope["path"]
                    answer = problem_details.problem_response(
                        500, ErrorCode.INTERNAL, told, request_id, path=path
                    )
                    await answer(scope, receive, tagged)
            finally:
                seconds = time.perf_counter() - began
                method, route = scope["method"], getattr(scope.get("route"), "path", None)
                code = state.get("code")
                metrics.requests_in_progress.dec()
                metrics.record_response(method, route, status, code, seconds)
                if span:
                    _finish(span, method, route, status, request_id)
                key = state.get("key")
                line = {"method": method, "route": route, "status": status}
                line["key"] = key.name if key else None
                why = {"code": code} if code else {}
                log.info("request completed", extra={**line, "ms": round(seconds * 1000, 2), **why})


def _finish(span: "Span", method: str, route: str | None, status: int, request_id: str) -> None:
    span.set_name(f"{method} {route}" if route else method)
    span.set_attributes(
        http__request__method=method,
        http__route=route or "",
        http__response__status_code=status,
        stitchwork__request_id=request_id,
    ).end(failed=not status or status >= 500)
