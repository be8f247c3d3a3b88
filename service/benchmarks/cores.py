"""Which cores a measurement's processes have: this one for a while, workers from their start on.

OpenVINO takes a thread back to the cores it had when its model was compiled.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def held_to(cores: Sequence[int]) -> Iterator[None]:
    """Hold this thread, and what it starts, to these cores for a while, if there are any."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def worker_on(cores: Sequence[int]) -> tuple[str, ...]:
    """The command of a worker: the first one has the first of these cores, the next one the next.

    Args:
        cores: One or more; where there are more workers than cores they share them.
    """
    return (sys.executable, "-m", __name__, *map(str, cores))


if __name__ == "__main__":
    number = int(os.environ["STITCHWORK_WORKER_INDEX"])
    os.sched_setaffinity(0, {int(sys.argv[1 + number % (len(sys.argv) - 1)])})
    os.execv(sys.executable, [sys.executable, "-P", "-m", "stitchwork", "worker"])  # noqa: S606
