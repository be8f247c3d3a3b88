"""`stitchwork serve`: the whole service on one machine, as children of one supervisor.

    launcher ──control──> supervisor ─┬─ registry server, queue server   (embedded, or none)
             <──events───             ├─ workers
                                      └─ API, on a socket that the launcher bound

The launcher holds the only write end of the control pipe. When it closes, whatever killed the
launcher, the supervisor ends its children in order; so nothing outlives the launcher for long.
"""

import signal
from typing import Final

from stitchwork.errors import UnavailableError
from stitchwork.supervisor.plan import Plan
from stitchwork.supervisor.service_process import ServiceProcess

__all__ = ["Plan", "ServiceProcess", "serve", "start"]

READY_SECONDS: Final = 180.0
"""A worker reads a gigabyte of libraries first, which a busy or cold machine takes minutes for."""


def start(plan: Plan, *, ready_timeout: float = READY_SECONDS) -> ServiceProcess:
    """Start everything; see `ServiceProcess.await_ready` for what is waited for.

    Raises:
        UnavailableError: If it does not come up; all that was started has ended by then.
    """
    running = ServiceProcess(plan)
    try:
        running.await_ready(ready_timeout)
    except BaseException:
        running.stop()
        raise
    return running


def serve(plan: Plan) -> int:
    """Start everything, say where, and run until SIGINT or SIGTERM.

    Returns:
        The exit code: 0 for an orderly end.

    Raises:
        UnavailableError: If it does not come up.
    """
    running = ServiceProcess(plan)
    signals = (signal.SIGINT, signal.SIGTERM)
    # The pipe is written to from the handler; what waits then hears the supervisor's end.
    before = {signum: signal.signal(signum, lambda *_: running.ask()) for signum in signals}
    try:
        try:
            running.await_ready(READY_SECONDS)
        except UnavailableError:
            if running.asked:
                return running.wait()
            running.stop()
            raise
        print(f"stitchwork answers on {running.url}", flush=True)  # noqa: T201
        return running.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
