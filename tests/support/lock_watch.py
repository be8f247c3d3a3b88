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

def clocks():
    try:
        with open("/proc/thread-self/schedstat") as file:
            starved = int(file.read().split()[1]) / 1e9
    except OSError:
        starved = 0.0
    return time.perf_counter() - starved, time.process_time()

def watch():
    with open({path!r}, "a", buffering=1) as file:
        wall, used = clocks()
        while True:
            time.sleep({tick})
            now, now_used = clocks()
            if now - wall > {short}:
                file.write(f"{{min(now - wall, now_used - used)}}\\n")
            wall, used = clocks()

threading.Thread(target=watch, daemon=True).start()
"""
COMMAND: Final = "from stitchwork.cli.main import console; console()"


class LockWatch:
    """A thread in a process that ticks, for which it needs the interpreter's lock.

    Of the time between two ticks counts what the process computed, without the time for which the
    thread waited for a processor: if others had the processors, no call held the lock.

    Args:
        file: Where the thread writes.
        code: What the process runs.

    Attributes:
        code: The same, with that thread.
    """

    def __init__(self, file: Path, code: str = COMMAND) -> None:
        watch = SOURCE.format(path=str(file), tick=TICK_SECONDS, short=SHORT_SECONDS)
        self.code = watch + code
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
