"""The FastAPI app: routes, middleware and error handlers composed."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from stitchwork.api import openapi, problem_details
from stitchwork.api.dependencies import AppState
from stitchwork.api.grpc_address import GrpcAddress
from stitchwork.api.kserve import routes as kserve
from stitchwork.api.middleware import auth
from stitchwork.api.middleware.request_body import BodyLimits
from stitchwork.api.middleware.request_middleware import RequestMiddleware
from stitchwork.api.openai import rerank
from stitchwork.api.openai import routes as openai
from stitchwork.api.routes import (
    anchor_sets,
    anchors,
    classify,
    compatibility,
    documentation,
    embed,
    export,
    heads,
    health,
    metrics,
    moves,
    spaces,
    stitch,
    translate,
)
from stitchwork.api.tei import routes as tei
from stitchwork.api.tei import token_routes as tei_tokens
from stitchwork.errors import InvalidInputError
from stitchwork.web import pages

DESCRIPTION: Final = """
Register encoders and classifier heads with their anchors, then let any encoder feed any head.

Two spaces on the same *anchor set* can be translated into each other without training: each is
known only by its own anchors.
"""
CORS_METHODS: Final = ("GET", "POST", "PUT", "DELETE")
CORS_SECONDS: Final = 600
"""Time for which browsers remember a permission."""
MAX_THREADS: Final = 64
"""Threads of the event loop's default executor, for blocking calls to servers."""


def create_app(
    state: AppState,
    grpc_address: GrpcAddress | None = None,
    *,
    root_path: str = "",
    trusted_proxies: Sequence[str] = (),
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """The app on top of this state; its lifespan starts and stops what the state holds.

    Args:
        state: The state of the API.
        grpc_address: Where the gRPC API listens; None for none.
        root_path: Path under which a proxy publishes the app.
        trusted_proxies: Addresses and networks whose `x-forwarded-for` of gRPC is believed.
        cors_origins: Origins of pages that may read answers in a browser; `*` for any.

    Raises:
        InvalidInputError: If the root path is the beginning of a path of the app.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        # The threads mostly wait for servers. asyncio's default, a few per core, would make health
        # checks queue behind slow requests.
        pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="request")
        asyncio.get_running_loop().set_default_executor(pool)
        await state.producer.start()
        state.api_keys.start()
        state.space_checks.start()
        state.report_jobs.start()
        state.registry.lease_keeper.start()
        state.telemetry.metrics.buffer.start()
        grpc_server = app.state.grpc_server
        if grpc_server is not None:
            await grpc_server.start()
            state.grpc_tasks.extend(grpc_server.background_tasks)
        yield
        if grpc_server is not None:
            await grpc_server.stop()
        await state.telemetry.metrics.buffer.stop()
        state.registry.lease_keeper.stop()
        state.api_keys.stop()
        state.space_checks.stop()
        state.report_jobs.stop()
        await state.producer.stop()
        state.executor.close()
        state.body_parser.close()
        state.selection_executor.close()
        state.inverses.close()
        state.telemetry.close()

    app = FastAPI(
        title="Stitchwork",
        version=state.version,
        summary="Any encoder feeds any classifier head, zero-shot.",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # The framework's redirects name whatever host the request does.
        redirect_slashes=False,
        # Ours takes its place. To look for a provider on each request costs a tenth of a request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.stitchwork = state
    # Routes are matched in this order, so the most frequent ones come first.
    own_routes = (
        translate,
        classify,
        stitch,
        embed,
        anchor_sets,
        spaces,
        anchors,
        heads,
        compatibility,
        export,
        moves,
        health,
        metrics,
        documentation,
    )
    for routes in (*own_routes, openai, rerank, kserve, tei_tokens, tei, pages):
        # Not `include_router`, which would match each path twice.
        app.router.routes += routes.router.routes
    _check_root_path(root_path, app.routes)
    problem_details.install(app)
    # Not the framework's `root_path`: it removes prefixes after the access table was consulted.
    openapi.install(app, root_path)
    middleware: dict[str, Any] = {
        "authorizer": auth.Authorizer(state.api_keys, state.rate_limiter),
        "body_limits": BodyLimits(state.limits),
        "telemetry": state.telemetry,
        "load": state.load,
    }
    app.add_middleware(
        RequestMiddleware,
        routes=app.routes,
        metrics_public=state.metrics_public,
        **middleware,
    )
    if cors_origins:
        # Outermost: a browser sends no key with the request by which it asks for permission.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=CORS_METHODS,
            allow_headers=["*"],
            expose_headers=["*"],
            max_age=CORS_SECONDS,
        )
    api_routes = [route for route in app.routes if isinstance(route, APIRoute)]
    app.state.grpc_server = None
    if grpc_address is not None:
        # Its packages are an extra.
        from stitchwork.api import grpc_services
        from stitchwork.api.grpc_server import GrpcServer
        from stitchwork.api.kserve import grpc_routes

        methods = {route.path: route for route in (*grpc_routes.routes(), *grpc_services.routes())}
        requests = RequestMiddleware(
            app, routes=methods.values(), receives_parts=False, **middleware
        )
        app.state.grpc_server = GrpcServer(
            # As uvicorn does for HTTP.
            ProxyHeadersMiddleware(requests, list(trusted_proxies)),  # type: ignore[arg-type]
            requests.is_authorized,
            app,
            grpc_address,
            state.limits,
            methods=methods,
            streams={**grpc_routes.STREAMS, **grpc_services.STREAMS},
        )
        api_routes += methods.values()
    state.telemetry.metrics.initialize_series(
        [(method, route.path) for route in api_routes for method in route.methods or ()],
        problem_details.error_statuses(),
    )
    return app


def _check_root_path(root_path: str, routes: Iterable[BaseRoute]) -> None:
    """Refuse a prefix that would be removed from paths that begin with it.

    Raises:
        InvalidInputError: If a path of the app begins with it.
    """
    for route in routes:
        path = getattr(route, "path", "")
        if root_path and f"{path}/".startswith(f"{root_path}/"):
            raise InvalidInputError(
                f"root_path (STITCHWORK_ROOT_PATH): expected a prefix that no path of the API has, "
                f"got {root_path}, with which {path} begins"
            )
