"""A move by the service's package: `python -m benchmarks.service_move SOURCE TARGET MAP`.

A program of its own, whose memory is measured. Prints the seconds that the move took.
"""

import sys
import time
from pathlib import Path

from stitchwork.migration import OfflineMap, move, open_store
from stitchwork.migration.stores import state_folder


def service_move(source: str, target: str, map_file: str) -> float:
    """Move a store; the seconds that it took."""
    start = time.perf_counter()
    offline_map = OfflineMap(Path(map_file).read_bytes())
    with open_store(source) as rows, open_store(target) as moved:
        move(rows, moved, offline_map, state_folder(target))
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.stdout.write(f"{service_move(*sys.argv[1:])}\n")
