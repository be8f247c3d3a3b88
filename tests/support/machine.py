"""The speed of this machine during the run, by which tests scale their deadlines."""

import time
from typing import Final

REFERENCE_SECONDS: Final = 0.04
"""What `calibrate` takes on an idle core of 2024; other processes get their turns in that time."""
MAX_SLOWDOWN: Final = 10.0
"""A wait that is longer than this many times its deadline is a hang on any machine."""
MAX_AGE_SECONDS: Final = 5.0
_ITERATIONS: Final = 2_000_000

_slowdown: float = 1.0
_measured_at: float = float("-inf")


def calibrate() -> float:
    """Wall-clock seconds of a fixed computation; other work on the machine lengthens it."""
    start = time.perf_counter()
    _compute()
    return time.perf_counter() - start


def _compute() -> None:
    total = 0
    for i in range(_ITERATIONS):
        total += i & 7


def processor_slowdown() -> float:
    """How many times slower than the reference a processor is now, whoever else has it.

    Returns:
        A factor, at least 1, by the processor time of a fixed computation.
    """
    start = time.thread_time()
    _compute()
    return max(1.0, (time.thread_time() - start) / REFERENCE_SECONDS)


def slowdown() -> float:
    """How many times slower than the reference this machine is, or was in this run.

    Returns:
        The largest factor that was measured so far, from 1 to `MAX_SLOWDOWN`: load that paused
        for a moment comes back. Measures anew at most once in `MAX_AGE_SECONDS`.
    """
    global _slowdown, _measured_at
    now = time.monotonic()
    if now - _measured_at > MAX_AGE_SECONDS:
        _measured_at = now
        _slowdown = min(MAX_SLOWDOWN, max(_slowdown, calibrate() / REFERENCE_SECONDS))
    return _slowdown


def deadline(seconds: float) -> float:
    """Seconds that are given to something that takes much less on an idle machine."""
    return seconds * slowdown()
