"""The gRPC API: calls become requests of the same middleware as those by HTTP.

A call is an HTTP/2 request with a path, headers and one message, and is served as such, so that
keys, rates, limits, metrics and logs are those of every request. A message is read only once the
call's key is admitted. Errors map to gRPC's codes here.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import grpc
from starlette.types import ASGIApp, Message, Scope

from stitchwork.api.grpc_address import GrpcAddress
from stitchwork.api.grpc_connections import GrpcConnections, parse_peer
from stitchwork.api.grpc_responses import CODE_METADATA, CallResponse
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import begin, complete, disconnect
from stitchwork.api.request_lifetime import TIMEOUT_HEADER
from stitchwork.background import AsyncPeriodicTask, BackgroundTask
from stitchwork.errors import ErrorCode, SlowRequestError, StitchworkError, UnavailableError

log = logging.getLogger(__name__)

LOCAL_HEADERS: Final = frozenset({"content-length", "content-type", "x-content-type-options"})
"""Headers of HTTP responses that mean nothing to gRPC."""
IDLE_SECONDS: Final = 20
"""Time after which a connection without calls is closed; clients connect again by themselves."""
HANDSHAKE_SECONDS: Final = 10

StreamError = Callable[[str, Iterable[tuple[str, str]]], bytes]
"""Makes the message of a stream that reports an error, of its text and metadata."""


class GrpcServer:
    """Serves methods of services.

    Args:
        app: Serves each call as a request whose path is that of the method.
        is_authorized: Whether the key of a request opens its path.
        root: The app that routes get their state from.
        address: Where to listen.
        limits: Limits of one request.
        methods: The paths of the methods.
        streams: Those of streams, each of whose messages is a request; and what makes the message
            that reports an error, of its text and metadata, None if an error ends the stream.
    """

    def __init__(
        self,
        app: ASGIApp,
        is_authorized: Callable[[Scope], Awaitable[bool]],
        root: Any,
        address: GrpcAddress,
        limits: RequestLimits,
        methods: Iterable[str],
        streams: Mapping[str, StreamError | None],
    ) -> None:
        self._app = app
        self._is_authorized = is_authorized
        self._root = root
        self._address = address
        self._grace_seconds = limits.request_timeout_seconds + 1
        self._requests: set[asyncio.Task[None]] = set()
        self._limits = limits
        self._handlers: dict[str, dict[str, Any]] = {}
        for path in methods:
            _, service, name = path.split("/")
            handler = (
                self._stream_handler(path, streams[path])
                if path in streams
                else self._handler(path)
            )
            self._handlers.setdefault(service, {})[name] = handler
        self._server: Any = None
        self._connections: GrpcConnections
        self._watch: AsyncPeriodicTask | None = None
        self._stop: asyncio.Task[None] | None = None
        self._stopping: asyncio.Future[None]

    @property
    def background_tasks(self) -> Sequence[BackgroundTask]:
        """The tasks that it depends on, which readiness shows."""
        return () if self._watch is None else (self._watch,)

    async def start(self) -> None:
        """Listen.

        Raises:
            UnavailableError: If it cannot listen there.
        """
        limits, address = self._limits, self._address
        # Both hold the event loop that is running when they are made.
        self._stopping = asyncio.get_running_loop().create_future()
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=limits.max_connections,
            options=[
                ("grpc.so_reuseport", int(address.is_shared)),
                ("grpc.max_receive_message_length", limits.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", limits.max_header_bytes),
                ("grpc.absolute_max_metadata_size", limits.max_header_bytes),
                ("grpc.max_allowed_incoming_connections", limits.max_connections),
                ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
            ],
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(*service) for service in self._handlers.items()]
        )
        host = f"[{address.host}]" if ":" in address.host else address.host
        place, credentials = f"{host}:{address.port}", _credentials(address)
        try:
            port = (
                self._server.add_secure_port(place, credentials)
                if credentials
                else self._server.add_insecure_port(place)
            )
        except RuntimeError as error:
            raise UnavailableError(
                f"cannot listen on {address.host}, port {address.port} (grpc_port)"
            ) from error
        self._connections = GrpcConnections(port, limits.max_connections)
        await self._server.start()
        self._watch = self._connections.task
        self._watch.start()
        log.info("gRPC listening", extra={"host": address.host, "port": port})

    def begin_stop(self) -> None:
        """Refuse new calls and messages from now on, and let the accepted ones end."""
        if self._server is not None and self._stop is None:
            self._stopping.set_result(None)
            self._stop = asyncio.ensure_future(self._server.stop(self._grace_seconds))

    async def stop(self) -> None:
        """Wait until all calls have ended."""
        self.begin_stop()
        if self._stop is not None:
            await self._stop
        if self._watch is not None:
            await self._watch.stop()
        if self._requests:
            await asyncio.wait(self._requests, timeout=self._grace_seconds)

    def _handler(self, path: str) -> Any:
        async def call(_: Any, context: Any) -> bytes:
            with self._connections.call(parse_peer(context.peer())):
                response = await self._serve(path, context, context.read)
                if response.status != 200:
                    await response.abort(context)
                await context.send_initial_metadata(response.metadata)
                return response.body

        # As a stream, although there is one message: it is read only once the key is admitted.
        return grpc.stream_unary_rpc_method_handler(call)

    def _stream_handler(self, path: str, render_error: StreamError | None) -> Any:
        async def call(_: Any, context: Any) -> None:
            with self._connections.call(parse_peer(context.peer())):
                while await self._serve_message(path, context, render_error):
                    pass

        return grpc.stream_stream_rpc_method_handler(call)

    async def _serve_message(
        self, path: str, context: Any, render_error: StreamError | None
    ) -> bool:
        """Serve the next message of a stream; False after the last one."""
        read = context.read
        # A message is a request once it has arrived; without a key, it is not waited for.
        is_authorized = await self._is_authorized(self._scope(path, context))
        if is_authorized:
            data = await self._next_message(context)
            if data is grpc.aio.EOF:
                return False
            read = _returns(data)
        response = await self._serve(path, context, read)
        body = response.body
        if response.status != 200:
            if render_error is None or not is_authorized or response.status in (401, 403):
                await response.abort(context)
                return False
            body = render_error(response.text, response.error_metadata)
        await context.write(body)
        return True

    async def _next_message(self, context: Any) -> Any:
        """The next message of a stream; EOF after the last one.

        The call ends if none arrives in time, or if the server stops.
        """
        seconds = self._limits.request_timeout_seconds
        read = asyncio.ensure_future(context.read())
        try:
            await asyncio.wait(
                {read, self._stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if read.done():
                return read.result()
        finally:
            read.cancel()
        error: StitchworkError = SlowRequestError(
            f"expected the next message of the stream within {seconds:g} seconds "
            "(request_timeout_seconds), got none"
        )
        status = grpc.StatusCode.DEADLINE_EXCEEDED
        if self._stopping.done():
            error = UnavailableError("the service is stopping")
            status = grpc.StatusCode.UNAVAILABLE
        return await context.abort(status, error.message, ((CODE_METADATA, error.code),))

    async def _serve(
        self, path: str, context: Any, read: Callable[[], Awaitable[Any]]
    ) -> CallResponse:
        """Serve one message of a call as a request, which is cancelled with the call."""
        scope = self._scope(path, context)
        start: Message = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            if not scope["stitchwork.message"].is_complete:
                data = await read()
                complete(scope)
                if data is not grpc.aio.EOF:
                    return {"type": "http.request", "body": data, "more_body": False}
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message.get("body"):
                parts.append(message["body"])

        begin(scope)
        # A task of its own: it ends by itself, and is logged, also after the call was cancelled.
        request = asyncio.ensure_future(self._app(scope, receive, send))
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        try:
            await asyncio.shield(request)
        except asyncio.CancelledError:
            disconnect(scope)
            raise
        if scope["state"].get("key") is not None:
            self._connections.add_key(parse_peer(context.peer()))
        metadata = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in start.get("headers", ())
            if name.decode("latin-1") not in LOCAL_HEADERS
        )
        code = scope["state"].get("code") or ErrorCode.INTERNAL
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return CallResponse(start.get("status", 500), str(code), metadata, body)

    def _scope(self, path: str, context: Any) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": "POST",
            "scheme": "https" if self._address.tls_cert_file else "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": _headers(context),
            "client": parse_peer(context.peer()),
            "server": (self._address.host, self._address.port),
            "app": self._root,
            "state": {},
        }


def _returns(data: Any) -> Callable[[], Awaitable[Any]]:
    async def read() -> Any:
        return data

    return read


def _headers(context: Any) -> list[tuple[bytes, bytes]]:
    """The metadata of a call as headers, with its deadline as HTTP has it."""
    headers = [
        (name.lower().encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in context.invocation_metadata()
    ]
    seconds = context.time_remaining()
    if seconds is not None and all(name != TIMEOUT_HEADER for name, _ in headers):
        headers.append((TIMEOUT_HEADER, f"{max(seconds, 1e-3):.3f}".encode()))
    return headers


def _credentials(address: GrpcAddress) -> Any:
    """The credentials of TLS, of which clients need none; None for no TLS.

    Raises:
        UnavailableError: If a file cannot be read.
    """
    if address.tls_cert_file is None or address.tls_key_file is None:
        return None
    try:
        pair = address.tls_key_file.read_bytes(), address.tls_cert_file.read_bytes()
    except OSError as error:
        raise UnavailableError(f"cannot read a file of TLS for gRPC: {error}") from error
    return grpc.ssl_server_credentials((pair,))
