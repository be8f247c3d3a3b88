"""HTTP server of a worker: its probes and its metrics, from memory, in threads of its own."""

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import BaseServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import orjson
from prometheus_client import CollectorRegistry, make_wsgi_app

from stitchwork.processes.listener import listen

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = logging.getLogger(__name__)

CLIENT_SECONDS: Final = 5.0
"""Time after which a client that sends nothing is disconnected."""


class Probed(Protocol):
    """A process that is probed."""

    @property
    def is_live(self) -> bool:
        """Whether it makes progress."""

    @property
    def is_ready(self) -> bool:
        """Whether it takes jobs."""


class ProbeServer:
    """Serves `/live`, `/ready` and `/metrics` until the process ends.

    A process that has not been set yet is starting: live and not ready.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        metrics: The metrics.

    Attributes:
        process: The process that is probed.

    Raises:
        UnavailableError: If it cannot listen there.
    """

    def __init__(self, host: str, port: int, metrics: CollectorRegistry) -> None:
        self.process: Probed | None = None
        self._metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(metrics)
        server = _Server(listen(host, port))
        server.set_app(self._respond)
        threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()

    def _respond(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        process, path = self.process, environ["PATH_INFO"]
        match path:
            case "/metrics":
                return self._metrics(environ, start_response)
            case "/live":
                is_well = process is None or process.is_live
            case "/ready":
                is_well = process is not None and process.is_ready
            case _:
                return _answer(start_response, HTTPStatus.NOT_FOUND, {"detail": "no such page"})
        status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
        return _answer(start_response, status, {path[1:]: is_well})


def _answer(
    start_response: "StartResponse", status: HTTPStatus, body: dict[str, Any]
) -> Iterable[bytes]:
    content = orjson.dumps(body)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    start_response(f"{status} {status.phrase}", headers)
    return [content]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        # Not as the base class does, which looks up the name of the address.
        BaseServer.__init__(self, listener.getsockname(), _Handler)
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        extra = {"client": str(client_address), "reason": type(sys.exception()).__name__}
        log.debug("probe not answered", extra=extra)


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 named by its base class
        """Log nothing."""
