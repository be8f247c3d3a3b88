"""Processes that tests start: their environment, output, children and end."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any, Final

import pytest

BOUND: Final = 60.0


def without_settings(**settings: str) -> dict[str, str]:
    """This process's environment without settings of the service, and some of its own."""
    env = {k: value for k, value in os.environ.items() if not k.upper().startswith("STITCHWORK_")}
    return env | settings


def await_gone(pids: Iterable[int], seconds: float = BOUND) -> None:
    """Wait until none of the processes is alive; they need not be children of this one."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        try:
            left = max(0.0, deadline - time.monotonic())
            if sys.platform == "linux":
                handle = os.pidfd_open(pid)
                ended: list[Any] = select.select([handle], [], [], left)[0]
            else:
                queue = select.kqueue()
                handle = queue.fileno()
                death = select.kevent(pid, select.KQ_FILTER_PROC, fflags=select.KQ_NOTE_EXIT)
                ended = queue.control([death], 1, left)
        except ProcessLookupError:
            continue
        os.close(handle)
        assert ended, f"process {pid} is still alive"


def processes(column: int, value: int) -> list[int]:
    """Live processes by a column of `ps`: 1 is the parent, 2 the group."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in listing.stdout.splitlines()]
    return [int(row[0]) for row in rows if int(row[column]) == value and row[3][0] != "Z"]


def read_until(stream: Any, word: str) -> str:
    """The next line with a word in it; the time limit of the test bounds the wait."""
    for line in stream:
        if word in line:
            return str(line)
    pytest.fail(f"ended without {word!r}")


def family_of(process: subprocess.Popen[str]) -> list[int]:
    """The supervisor of a launcher, then the supervisor's children."""
    (supervisor,) = processes(1, process.pid)
    return [supervisor, *(pid for pid in processes(2, supervisor) if pid != supervisor)]
