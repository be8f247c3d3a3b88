"""The FastAPI app, put together from parts."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import openapi, problems
from service.api.bodiless import HeadAsGet
from service.api.depends import Parts
from service.api.routes import (
    anchor_sets,
    anchors,
    compatibility,
    heads,
    health,
    inference_protocol,
    openai,
    spaces,
    stitch,
    translate,
)
from service.queue.streams import new_id

log = logging.getLogger("service.access")

DESCRIPTION: Final = """
Register encoders and classifier heads with their anchors, then let any encoder feed any head.

Two spaces on the same *anchor set* can be translated into each other without training: each is
known only by its own anchors.
"""
THREADS: Final = 64
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


def create_app(parts: Parts) -> FastAPI:
    """The app over these parts; its lifespan starts and stops them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        # Threads mostly wait for a server; the default, a few for each core, starves health checks.
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="request")
        asyncio.get_running_loop().set_default_executor(pool)
        parts.dispatcher.start()
        yield
        parts.dispatcher.stop()
        parts.threads.close()
        parts.comparing.close()
        parts.inverses.close()

    app = FastAPI(
        title="Stitchwork",
        version=parts.version,
        summary="Any encoder feeds any classifier head, zero-shot.",
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    app.state.parts = parts
    ours = (anchor_sets, spaces, anchors, heads, translate, stitch, compatibility, health)
    for routes in (*ours, openai, inference_protocol):
        app.include_router(routes.router)
    problems.install(app)
    openapi.install(app)
    app.add_middleware(RequestLog)
    app.add_middleware(HeadAsGet)
    return app


class RequestLog:
    """Gives each request an id, sends it back, and writes one line about the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = asked if REQUEST_ID.fullmatch(asked) else new_id()
        scope.setdefault("state", {})["request_id"] = request_id
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

        try:
            await self._app(scope, receive, tagged)
        except Exception as error:
            log.error("an unexpected error", exc_info=error)
            if not status:
                told = "the service failed at this request"
                answer = problems.problem(500, "internal", told, request_id, path=scope["path"])
                await answer(scope, receive, tagged)
        finally:
            route = getattr(scope.get("route"), "path", None)
            log.info(
                "request",
                extra={
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "ms": round((time.perf_counter() - began) * 1000, 2),
                    "request_id": request_id,
                },
            )
