"""Measures for how long calls hold the interpreter's lock in a process of the service."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

TICK_SECONDS: Final = 0.002
SHORT_SECONDS: Final = 0.01
"""Shorter times between two ticks are not recorded."""
SOURCE: Final = """
import threading, time

def watch():
    with open({path!r}, "a", buffering=1) as file:
        wall, used = time.perf_counter(), time.process_time()
        while True:
            time.sleep({tick})
            now, now_used = time.perf_counter(), time.process_time()
            if now - wall > {short}:
                file.write(f"{{min(now - wall, now_used - used)}}\\n")
            wall, used = time.perf_counter(), time.process_time()

threading.Thread(target=watch, daemon=True).start()
from stitchwork.cli.main import console
console()
"""


class LockWatch:
    """A thread in a process that ticks, for which it needs the interpreter's lock.

    Of the time between two ticks counts what the process computed: if it did not run, because
    others had the processors, no call held the lock.

    Args:
        file: Where the thread writes.

    Attributes:
        code: Code of Python that runs a command of the service with that thread.
    """

    def __init__(self, file: Path) -> None:
        self.code = SOURCE.format(path=str(file), tick=TICK_SECONDS, short=SHORT_SECONDS)
        self._file = file

    @contextmanager
    def record(self) -> Iterator[list[float]]:
        """Record the seconds between ticks, which are in the list at the end."""
        seconds, start = list[float](), len(self._lines())
        yield seconds
        seconds += [float(line) for line in self._lines()[start:]]

    def _lines(self) -> list[str]:
        # The last one may not be complete.
        return self._file.read_text().split("\n")[:-1] if self._file.exists() else []
