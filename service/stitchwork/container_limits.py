"""The limits of this container, by control groups of either version.

Programs see the memory and the cores of the whole machine; the kernel ends or slows down those that
use more than their group may.
"""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

NO_LIMIT: Final = 1 << 60
"""Version 1 writes a number of this size where there is no limit."""
ROOT: Final = Path("/")


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """The memory that this process's groups may use together; None without a limit.

    Args:
        root: Where the file systems are mounted.
    """
    names = {"": "memory.max", "memory": "memory.limit_in_bytes"}
    numbers = (text for text in _files(root, names) if text.isdecimal())
    return min((int(text) for text in numbers if int(text) < NO_LIMIT), default=None)


def cpu_limit(root: Path = ROOT) -> float | None:
    """The CPUs that this process's groups may use together; None without a limit.

    Args:
        root: Where the file systems are mounted.
    """
    limits = []
    for text in _files(root, {"": "cpu.max"}):
        quota, _, period = text.partition(" ")
        if quota.isdecimal():
            limits.append(int(quota) / int(period))
    quotas = _files(root, {"cpu": "cpu.cfs_quota_us"})
    periods = _files(root, {"cpu": "cpu.cfs_period_us"})
    for quota, period in zip(quotas, periods, strict=True):
        if int(quota) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def thread_limit(cores: int, root: Path = ROOT) -> int | None:
    """The threads that the CPUs of this container suffice for; None if all cores may be used."""
    limit = cpu_limit(root)
    return max(1, math.ceil(limit)) if limit is not None and limit < cores else None


def _files(root: Path, names: dict[str, str]) -> Iterator[str]:
    """The contents of a file in each group of this process, from its own up to the first.

    Args:
        root: Where the file systems are mounted.
        names: Names of the file by controller; the empty one is version 2.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller not in names:
                continue
            mounted = root / "sys/fs/cgroup" / controller
            group = PurePosixPath(path)
            for folder in (group, *group.parents):
                # In a container, the path may be that of the host, of which only the end is there.
                file = mounted / str(folder).lstrip("/") / names[controller]
                try:
                    yield file.read_text().strip()
                except OSError:
                    continue
