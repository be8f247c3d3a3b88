"""Runs the app in this process until it is told to stop."""

import ctypes
import signal
import sys
import threading
from types import FrameType
from typing import Final

import uvicorn

from stitchwork.api.app import create_app
from stitchwork.api.dependencies import AppState
from stitchwork.api.server_protocol import bounded

M_ARENA_MAX: Final = -8
"""A parameter of glibc's mallopt."""
KEEP_ALIVE_SECONDS: Final = 75
"""Longer than balancers keep an idle connection, so that it is they who close it."""


class DrainingServer(uvicorn.Server):
    """Says for a while that it is not ready, still serving, before it stops to listen.

    Args:
        config: What uvicorn is to do.
        drain: Set as soon as the process is told to stop.
        seconds: How long requests are taken after that, so that balancers can notice.
    """

    def __init__(self, config: uvicorn.Config, drain: threading.Event, seconds: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._seconds = seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins to drain; a second one ends at once."""
        again = self._drain.is_set()
        self._drain.set()
        if again or not self._seconds:
            super().handle_exit(sig, frame)
            return
        timer = threading.Timer(self._seconds, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()


def serve_app(
    state: AppState, *, host: str, port: int, fd: int | None, drain_seconds: float, timeout: float
) -> int:
    """Serve until SIGTERM or SIGINT, then answer what was accepted.

    Args:
        state: The state of the API.
        host: Address to listen on.
        port: Port to listen on.
        fd: A listening socket to take over instead.
        drain_seconds: How long to say not ready before listening ends.
        timeout: Seconds that a request may take.

    Returns:
        The exit code.
    """
    _share_one_heap()
    config = uvicorn.Config(
        create_app(state),
        host=host,
        port=port,
        fd=fd,
        http=bounded(state.limits),
        # Nothing here speaks it.
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(timeout) + 1,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    # uvicorn drains on SIGTERM and then raises the signal again: what is left to do is nothing.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = DrainingServer(config, state.draining, drain_seconds)
    server.run()
    return 0 if server.started else 1


def _share_one_heap() -> None:
    """Let all threads take memory from one heap; glibc's many each keep what a fit once needed."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
