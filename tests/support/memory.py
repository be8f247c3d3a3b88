"""What processes hold in memory, as the kernel counts it."""

import os
from pathlib import Path

import pytest

MB = 1_000_000


def resident(pid: int | None = None) -> int:
    """Bytes that a process holds now; this one unless another is named."""
    return _bytes(pid, "VmRSS")


def peak_resident(pid: int | None = None) -> int:
    """The most bytes that a process ever held."""
    return _bytes(pid, "VmHWM")


def private(pid: int | None = None) -> int:
    """Bytes that a process holds now and that stand in no file."""
    return _bytes(pid, "RssAnon")


def _bytes(pid: int | None, name: str) -> int:
    path = Path(f"/proc/{pid or os.getpid()}/status")
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc, which this system lacks")
    told = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(told[name].removesuffix("kB")) * 1024
