"""An HTTP server that answers as a function says, for tests of how the client reads responses."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple


class Response(NamedTuple):
    """A response: its body and status, and headers beyond those of the body."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = {}


Responder = Callable[[str, str, bytes], Response]
"""Called with the method, the path and the body of a request."""


@contextmanager
def http_responder(respond: Responder, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server on this machine; its host and port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            length = int(self.headers.get("content-length", 0))
            response = respond(self.command, self.path, self.rfile.read(length))
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)

        do_GET = do_POST = do_PUT = handle_request  # noqa: N815

        def log_message(self, *args: object) -> None:
            """Requests are not printed."""

    class Server(ThreadingHTTPServer):
        # Their ends are waited for: nothing is left open.
        daemon_threads = False

        def finish_request(self, request: Any, client_address: Any) -> None:
            if tls is None:
                super().finish_request(request, client_address)
                return
            # In the thread of the connection, whose client may send no handshake.
            with tls.wrap_socket(request, server_side=True) as connection:
                super().finish_request(connection, client_address)

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients without TLS are refused by the end of their connection."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
