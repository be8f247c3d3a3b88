"""Waiting for the state of other processes, which no event tells."""

import time
from collections.abc import Callable
from typing import Any, Final

PAUSE: Final = 0.02
PATIENCE: Final = 60.0
"""More than anything takes, even beside other work on a slow machine: this ends what hangs."""


def wait_until(what: str, done: Callable[[], Any], seconds: float = PATIENCE) -> float:
    """Ask again and again, for a bounded time; the seconds it took."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(PAUSE)
    return time.monotonic() - began
