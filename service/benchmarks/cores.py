"""CPU affinity of the processes of a benchmark.

Workers are pinned from their start, because OpenVINO resets a thread to the cores that it had when
its model was compiled.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def pinned_to(cores: Sequence[int]) -> Iterator[None]:
    """Pin this thread, and processes it starts, to these cores within the context, if any."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pinned_worker_command(cores: Sequence[int]) -> tuple[str, ...]:
    """The command of a worker that is pinned to one of these cores by its index.

    Args:
        cores: One or more; workers beyond their number share them.
    """
    return (sys.executable, "-P", "-m", __name__, *map(str, cores))


if __name__ == "__main__":
    number = int(os.environ["STITCHWORK_WORKER_INDEX"])
    os.sched_setaffinity(0, {int(sys.argv[1 + number % (len(sys.argv) - 1)])})
    os.execv(sys.executable, [sys.executable, "-P", "-m", "stitchwork", "worker"])  # noqa: S606
