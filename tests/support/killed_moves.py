"""Moves a store with processes that are killed at chosen system events, each then resumed.

A program of its own: `python killed_moves.py SOURCE TARGET MAP FOLDER BLOCK_ROWS COUNT SEED`. For
each kill, TARGET and FOLDER get a number as a suffix. Prints the events of an undisturbed move, and
those that processes were killed at.
"""

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from stitchwork.migration import array_store, json_lines_store, parquet_store  # noqa: F401
from stitchwork.migration.local_engine import move
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.stores import open_store

WRITES = os.O_WRONLY | os.O_RDWR
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


class Trace:
    """Notes what changes files, and kills its process at one of these events.

    Args:
        folder: Where files are watched.
        kill_at: Number of the event to kill at, from 1; 0 for none.
    """

    def __init__(self, folder: str, kill_at: int) -> None:
        self.events = list[str]()
        self._folder, self._kill_at = folder, kill_at

    def __call__(self, event: str, arguments: Any) -> None:
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if not (is_write or event in CHANGES) or self._folder not in str(arguments[0]):
            return
        name = Path(str(arguments[0])).name.split("-")[0]
        self.events.append(f"{event} {name}")
        if len(self.events) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class Moves:
    """Runs moves of one store in forks of this process, which has imported everything.

    Args:
        words: The program's arguments up to BLOCK_ROWS.
    """

    def __init__(self, *words: str) -> None:
        self._source, self._target, map_file, self._folder, block = words
        self._map, self._block = OfflineMap(Path(map_file).read_bytes()), int(block)

    def run(self, number: int, kill_at: int = 0) -> tuple[int, list[str]]:
        """Run a move, or resume it; its wait status and its events."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.write(writer, json.dumps(self._move(number, kill_at)).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        with open(reader) as pipe:
            text = pipe.read()
        return os.waitpid(child, 0)[1], json.loads(text or "[]")

    def _move(self, number: int, kill_at: int) -> list[str]:
        trace = Trace(self._folder, kill_at)
        sys.addaudithook(trace)
        target = self._target.replace("{}", str(number))
        state = Path(self._folder) / f"state-{number}"
        try:
            with open_store(self._source) as source, open_store(target) as store:
                move(source, store, self._map, state, block_rows=self._block)
        except Exception:
            traceback.print_exc()
            raise
        return trace.events


def main(*words: str) -> None:
    """Run the program; see the module's text."""
    moves, count, seed = Moves(*words[:-2]), int(words[-2]), int(words[-1])
    status, events = moves.run(0)
    assert status == 0
    first = {event: i for i, event in reversed(list(enumerate(events, 1)))}
    points = set(first.values())
    rest = [point for point in range(1, len(events) + 1) if point not in points]
    more = min(len(rest), max(0, count - len(points)))
    points |= set(random.Random(seed).sample(rest, more))  # noqa: S311
    killed = []
    for number, point in enumerate(sorted(points), 1):
        event = events[point - 1]
        status, _ = moves.run(number, point)
        assert os.WIFSIGNALED(status), f"not killed at {event}"
        status, _ = moves.run(number)
        assert status == 0, f"not resumed after {event}"
        killed.append(event)
    sys.stdout.write(json.dumps({"events": events, "killed": killed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
