"""Memory of processes, as the kernel counts it."""

import os
from pathlib import Path

import pytest

MB = 1_000_000


def resident(pid: int | None = None) -> int:
    """Resident bytes of a process; of this one by default."""
    return _bytes(pid, "VmRSS")


def peak_resident(pid: int | None = None) -> int:
    """The peak of the resident bytes of a process."""
    return _bytes(pid, "VmHWM")


def reset_peak(pid: int | None = None) -> None:
    """Let the peak of a process begin anew, at what is resident now."""
    path = Path(f"/proc/{pid or os.getpid()}/clear_refs")
    if path.exists():
        path.write_text("5")


def private(pid: int | None = None) -> int:
    """Resident bytes of a process that are no pages of files."""
    return _bytes(pid, "RssAnon")


def _bytes(pid: int | None, name: str) -> int:
    path = Path(f"/proc/{pid or os.getpid()}/status")
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc, which this system lacks")
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(fields[name].removesuffix("kB")) * 1024
