"""Waiting for the state of other processes, which no event announces."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from tests.support import machine

T = TypeVar("T")
INTERVAL: Final = 0.02
TIMEOUT: Final = 60.0
"""Far more than anything takes on an idle machine: it ends what hangs."""


def wait_until(description: str, condition: Callable[[], Any], seconds: float = TIMEOUT) -> float:
    """Poll a condition until it holds.

    Args:
        description: What is waited for, for the message.
        condition: Called until it returns something true.
        seconds: How long to wait on an idle machine; a slower one gets more, by `machine`.

    Returns:
        The seconds that it took.

    Raises:
        AssertionError: If the condition does not hold in time.
    """
    start = time.monotonic()
    while not condition():
        elapsed = time.monotonic() - start
        # Measured only once it matters: a calibration takes time of its own.
        if elapsed > seconds:
            limit = machine.deadline(seconds)
            assert elapsed < limit, f"{description}: not within {limit:g} s"
        time.sleep(INTERVAL)
    return time.monotonic() - start


def result_of(future: Future[T], seconds: float = TIMEOUT) -> T:
    """The result of a future, waited for as long as `wait_until` waits."""
    return future.result(machine.deadline(seconds))
