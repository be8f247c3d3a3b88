"""A worker with a core of its own: the first has that of what is measured, the next one the other.

From its start on: OpenVINO takes a thread back to the cores it had when its model was compiled.
"""

import os
import sys

from service.evaluation.bench.measure import OURS, THEIRS

if __name__ == "__main__":
    number = int(os.environ["STITCHWORK_WORKER_NUMBER"])
    os.sched_setaffinity(0, {(THEIRS, OURS)[number % 2]})
    os.execv(sys.executable, [sys.executable, "-m", "service", "worker"])  # noqa: S606
