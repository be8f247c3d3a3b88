"""Moves a store with processes that are killed at chosen system events, each then resumed.

A program of its own: `python killed_moves.py SOURCE TARGET MAP FOLDER BLOCK_ROWS COUNT SEED`. For
each kill, of COUNT different kinds of events and at least one in each phase of a move, `{}` in
TARGET is its number. Prints the events of an undisturbed move, and those that processes were killed
at.
"""

import json
import os
import random
import re
import signal
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from stitchwork.migration.local_engine import move
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.stores import open_store

WRITES = os.O_WRONLY | os.O_RDWR
STEPS = ("create", "write", "finish", "_insert", "_update")
CLIENT_STEPS = ("add", "execute", "upsert")
"""Functions of clients that write, some of them several times in a block."""
PHASES = {
    "begin": ("os.mkdir", "map", "rejects"),
    "create": ("create",),
    "write": ("write", "part", "_insert", "_update"),
    "checkpoint": ("checkpoint",),
    "finish": ("finish",),
}
"""The phases of a move, by what is in the names of their events."""
TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.new$")
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


class Trace:
    """Notes what changes files, and the steps of stores, and kills its process at one of these.

    Args:
        folder: Where files are watched.
        kill_at: Number of the event to kill at, from 1; 0 for none.
    """

    def __init__(self, folder: str, kill_at: int) -> None:
        self.events = list[str]()
        self._folder, self._kill_at = folder, kill_at

    def audit(self, event: str, arguments: Any) -> None:
        """An audit hook."""
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if (is_write or event in CHANGES) and self._folder in str(arguments[0]):
            name = TEMPORARY.sub(".new", Path(str(arguments[0])).name)
            self._note(f"{event} {name.split('-')[0]}")

    def profile(self, frame: Any, event: str, _: Any) -> None:
        """A profile function: beginnings and ends of what writes to stores."""
        code = frame.f_code
        if code.co_name in STEPS and event in ("call", "return") and is_store(code.co_filename):
            self._note(f"{event} {code.co_name}")
        elif code.co_name in CLIENT_STEPS and event in ("call", "return"):
            caller = frame.f_back.f_code
            if caller.co_name == "write" and is_store(caller.co_filename):
                self._note(f"{event} {code.co_name} by write")

    def _note(self, event: str) -> None:
        self.events.append(event)
        if len(self.events) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def is_store(path: str) -> bool:
    """Whether a module is a store's."""
    return path.endswith("_store.py")


for module in os.environ.get("STORE_MODULES", "").split():
    import_module(module)


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
        sys.addaudithook(trace.audit)
        target = self._target.replace("{}", str(number))
        state = Path(self._folder) / f"state-{number}"
        try:
            with open_store(self._source) as source, open_store(target) as store:
                sys.setprofile(trace.profile)
                threading.setprofile(trace.profile)
                move(source, store, self._map, state, block_rows=self._block)
            sys.setprofile(None)
        except Exception:
            traceback.print_exc()
            raise
        return trace.events


def choose_kinds(events: list[str], count: int, chosen: random.Random) -> list[str]:
    """Different kinds of events: one of each phase first, or of some, then others."""
    kinds = sorted(set(events))
    first = list[str]()
    for names in chosen.sample(list(PHASES.values()), min(count, len(PHASES))):
        candidates = [kind for kind in kinds if any(name in kind for name in names)]
        if candidates:
            first.append(chosen.choice(candidates))
    first = list(dict.fromkeys(first))
    others = [kind for kind in kinds if kind not in first]
    chosen.shuffle(others)
    return [*first, *others][:count]


def main(*words: str) -> None:
    """Run the program; see the module's text."""
    moves, count, seed = Moves(*words[:-2]), int(words[-2]), int(words[-1])
    status, events = moves.run(0)
    assert status == 0
    chosen = random.Random(seed)  # noqa: S311
    points = [
        chosen.choice([i for i, event in enumerate(events, 1) if event == kind])
        for kind in choose_kinds(events, count, chosen)
    ]
    killed = []
    for number, point in enumerate(points, 1):
        event = events[point - 1]
        status, _ = moves.run(number, point)
        assert os.WIFSIGNALED(status), f"not killed at {event}"
        status, _ = moves.run(number)
        assert status == 0, f"not resumed after {event}"
        killed.append(event)
    sys.stdout.write(json.dumps({"events": events, "killed": killed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
