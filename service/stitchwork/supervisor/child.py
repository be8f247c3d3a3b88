"""A child process of the supervisor, bound to its life."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from stitchwork.supervisor import embedded_servers

PR_SET_PDEATHSIG: Final = 1


@dataclass
class Child:
    """One process to keep alive.

    Attributes:
        name: Its name in messages.
        command: Its command line.
        env: Its whole environment.
        orphan_signal: The signal it gets, on Linux, if the supervisor itself is killed.
        attempts: How often in a row it may die before the service was ready once.
        inherited_fds: File descriptors that it inherits.
        log: File of its output; None for the supervisor's standard error.
        process: The live process; None between a death and the next start.
        started_at: When that process started.
        failures: Deaths in a row, each soon after a start.
        restart_at: When to start it again; None unless it died.
    """

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    orphan_signal: signal.Signals
    attempts: int
    inherited_fds: tuple[int, ...] = ()
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    restart_at: float | None = None

    def start(self) -> int:
        """Start the process; returns its id."""
        with contextlib.ExitStack() as stack:
            output: int | IO[bytes] = sys.stderr.fileno()
            if self.log is not None:
                output = stack.enter_context(embedded_servers.open_log(self.log))
            self.process = subprocess.Popen(  # noqa: S603
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=self.inherited_fds,
                preexec_fn=_death_signal(self.orphan_signal),
            )
        self.started_at, self.restart_at = time.monotonic(), None
        return self.process.pid


def _death_signal(signum: signal.Signals) -> Callable[[], None] | None:
    """A function for a child to call before exec, so that it does not outlive its parent.

    macOS (untested) has no such request: there the launcher ends the process group of a supervisor
    that was killed.
    """
    if sys.platform != "linux":
        return None
    # Whatever needs memory or a lock happens here; between fork and exec there are two calls.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()
    arguments = (PR_SET_PDEATHSIG, ctypes.c_ulong(signum))

    def bind() -> None:
        prctl(*arguments)
        if os.getppid() != parent:
            os._exit(1)

    return bind
