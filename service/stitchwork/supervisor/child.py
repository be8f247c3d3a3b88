"""One child of the supervisor, and what it does before it becomes its program."""

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
        name: What messages call it.
        command: Its command line.
        env: Its whole environment.
        orphan_signal: What it gets, on Linux, if the supervisor itself is killed.
        attempts: How often in a row it may die before the service was ready once.
        keep: File descriptors it inherits.
        log: Where its output goes; None is the supervisor's standard error.
        process: The live process; None between a death and the next start.
        born: When that process started.
        failures: Deaths in a row, each soon after a start.
        due: When it is to start again; None unless it died.
    """

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    orphan_signal: signal.Signals
    attempts: int
    keep: tuple[int, ...] = ()
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    born: float = 0.0
    failures: int = 0
    due: float | None = None

    def start(self) -> int:
        """Start it; returns its process id."""
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
                pass_fds=self.keep,
                preexec_fn=_bound_to_parent(self.orphan_signal),
            )
        self.born, self.due = time.monotonic(), None
        return self.process.pid


def _bound_to_parent(signum: signal.Signals) -> Callable[[], None] | None:
    """What a child does before it becomes its program, so that it does not outlive its parent.

    macOS (untested here) has no such request: there a supervisor that is killed leaves its
    children to the launcher, which ends their group.
    """
    if sys.platform != "linux":
        return None
    # All that needs memory or a lock happens here; between fork and exec there are two calls.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()
    arguments = (PR_SET_PDEATHSIG, ctypes.c_ulong(signum))

    def bind() -> None:
        prctl(*arguments)
        if os.getppid() != parent:
            os._exit(1)

    return bind
