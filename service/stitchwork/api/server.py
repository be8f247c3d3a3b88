"""Serves the app in this process until SIGTERM or SIGINT."""

import ctypes
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from stitchwork.api.app import create_app
from stitchwork.api.dependencies import AppState
from stitchwork.api.grpc_address import GrpcAddress
from stitchwork.api.server_protocol import UNIX_CLIENT, limited_protocol

MALLOC_OPTIONS: Final = {-8: 1, -3: 4 * 1024 * 1024, -1: 8 * 1024 * 1024}
"""Parameters of glibc's `mallopt`: M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD."""
SWITCH_SECONDS: Final = 0.001
"""Time for which a thread keeps the interpreter's lock while the event loop waits for it; each
request waits several times."""


@dataclass(frozen=True)
class ServerOptions:
    """How the app is served; each attribute has the name of the setting that it comes from.

    Attributes:
        tls_cert_file: Certificates that it serves by TLS with; None for no TLS.
        tls_key_file: The private key for them.
        root_path: Path under which a proxy publishes the app; empty if there is none.
        trusted_proxies: Addresses and networks whose `X-Forwarded-…` headers are believed.
        cors_origins: Origins of pages that may read answers in a browser.
        keep_alive_seconds: Time after which an idle connection is closed.
        drain_seconds: Time of reporting not ready before the service stops listening.
        request_timeout_seconds: Maximum duration of a request.
    """

    tls_cert_file: Path | None
    tls_key_file: Path | None
    root_path: str
    trusted_proxies: Sequence[str]
    cors_origins: Sequence[str]
    keep_alive_seconds: int
    drain_seconds: float
    request_timeout_seconds: float


class DrainingServer(uvicorn.Server):
    """A server that reports not ready for some time before it stops listening.

    Args:
        config: Configuration of uvicorn.
        draining: Set when the process receives its first signal to stop.
        drain_seconds: Time for which requests are still served after that, so that load balancers
            can notice.
        stop_listening: Called when the server stops listening.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        draining: threading.Event,
        drain_seconds: float,
        stop_listening: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._draining = draining
        self._drain_seconds = drain_seconds
        self._stop_listening = stop_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, with what was loaded until then exempt from garbage collection.

        It stays to the end; to look through all of it stops the event loop for tens of milliseconds
        whenever requests have left enough garbage, and takes a sixth of the start.
        """
        await super().startup(sockets)
        gc.freeze()
        gc.enable()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and wait for the requests in progress."""
        self._stop_listening()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal starts the drain; a second one stops at once."""
        is_second = self._draining.is_set()
        self._draining.set()
        if is_second or not self._drain_seconds:
            super().handle_exit(sig, frame)
            return
        timer = threading.Timer(self._drain_seconds, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()


def serve_app(
    state: AppState,
    options: ServerOptions,
    fd: int,
    grpc_address: GrpcAddress | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then complete the accepted requests.

    Args:
        state: The state of the API.
        options: How it is served.
        fd: File descriptor of a listening socket.
        grpc_address: Where the gRPC API listens; None for none.

    Returns:
        The exit code.
    """
    _return_memory()
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app(
        state,
        grpc_address,
        root_path=options.root_path,
        trusted_proxies=options.trusted_proxies,
        cors_origins=options.cors_origins,
    )
    config = uvicorn.Config(
        app,
        fd=fd,
        ssl_certfile=options.tls_cert_file,
        ssl_keyfile=options.tls_key_file,
        http=limited_protocol(state.limits, options.root_path),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(options.request_timeout_seconds) + 1,
        timeout_keep_alive=options.keep_alive_seconds,
        # uvicorn would otherwise read FORWARDED_ALLOW_IPS.
        forwarded_allow_ips=_trusted(options.trusted_proxies),
    )
    # After its shutdown uvicorn raises the signal again, which would end the process with -15.
    signal.signal(signal.SIGTERM, lambda *_: None)
    grpc_server = app.state.grpc_server
    stop_listening = grpc_server.begin_stop if grpc_server else lambda: None
    server = DrainingServer(config, state.draining, options.drain_seconds, stop_listening)
    server.run()
    return 0 if server.started else 1


def _trusted(proxies: Sequence[str]) -> list[str]:
    """What uvicorn trusts; whoever may open a Unix socket is trusted as well."""
    return list(proxies) if "*" in proxies else [*proxies, UNIX_CLIENT]


def _return_memory() -> None:
    """Make the allocator return what large bodies, answers and fits needed.

    Of glibc's many heaps, each would keep that; and its threshold for memory outside of the heap
    would follow the largest array.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        for option, value in MALLOC_OPTIONS.items():
            ctypes.CDLL(None).mallopt(option, value)
