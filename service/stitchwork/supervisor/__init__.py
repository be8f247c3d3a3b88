"""`stitchwork serve`: the whole service on one machine, as children of one supervisor.

    launcher ──control──> supervisor ─┬─ registry server, queue server   (embedded, or none)
             <──events───             ├─ workers
                                      └─ API, on a socket that the launcher bound

The launcher holds the only write end of the control pipe. When it closes, whatever killed the
launcher, the supervisor stops its children in order; so nothing outlives the launcher for long.
"""

import signal
import sys
from collections.abc import Callable
from typing import Final

from stitchwork.errors import UnavailableError
from stitchwork.supervisor.plan import Plan
from stitchwork.supervisor.service_process import ServiceProcess

__all__ = ["Plan", "ServiceProcess", "serve", "start"]

READY_SECONDS: Final = 180.0
"""A worker first reads a gigabyte of libraries, which takes a busy or cold machine minutes."""


def start(plan: Plan, *, ready_timeout: float = READY_SECONDS) -> ServiceProcess:
    """Start a service and wait until it is ready; see `ServiceProcess.await_ready`.

    Raises:
        UnavailableError: If it does not get ready; all its processes have ended by then.
    """
    process = ServiceProcess(plan)
    try:
        process.await_ready(ready_timeout)
    except BaseException:
        process.stop()
        raise
    return process


def serve(plan: Plan, report: Callable[[str | None], None] = lambda message: None) -> int:
    """Start a service, print its address, and run until SIGINT or SIGTERM.

    Args:
        plan: What to run.
        report: Called with what is waited for, and with None once nothing is.

    Returns:
        The exit code: 0 for an orderly end.

    Raises:
        UnavailableError: If it does not get ready.
    """
    process = ServiceProcess(plan)
    signals = (signal.SIGINT, signal.SIGTERM)
    # The handler writes to the control pipe; the wait then ends with the supervisor.
    previous = {
        signum: signal.signal(signum, lambda *_: process.request_stop()) for signum in signals
    }
    try:
        try:
            process.await_ready(READY_SECONDS, report)
        except UnavailableError:
            if process.stop_requested:
                return process.wait()
            process.stop()
            raise
        finally:
            report(None)
        docs = (
            f", a page at {process.url}/, documentation at {process.url}/guide/"
            if sys.stdout.isatty()
            else ""
        )
        print(f"stitchwork listens on {process.url}{docs}", flush=True)  # noqa: T201
        return process.wait()
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
