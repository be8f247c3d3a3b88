"""Background tasks go on after errors, and show when they stall."""

import logging
import threading

import pytest

from stitchwork.background import PeriodicTask
from tests.support.waiting import wait_until


def test_task_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def fail_first() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("of the first call")

    task = PeriodicTask("probe", fail_first, 0.01)
    with caplog.at_level(logging.ERROR):
        task.start()
        wait_until("it is called again", lambda: len(calls) >= 3)
        task.stop()
    (record,) = (r for r in caplog.records if r.message == "background task failed")
    assert record.exc_info
    assert not task.is_stalled


def test_task_that_hangs_or_always_fails_is_stalled() -> None:
    release = threading.Event()

    def fail() -> None:
        raise OSError

    hanging = PeriodicTask("hanging", release.wait, 0.01, stalled_seconds=0.1)
    failing = PeriodicTask("failing", fail, 0.01, stalled_seconds=0.1)
    assert not hanging.is_stalled, "it was not started"
    for task in (hanging, failing):
        task.start()
    wait_until("they stall", lambda: hanging.is_stalled and failing.is_stalled)
    release.set()
    wait_until("it makes progress", lambda: not hanging.is_stalled)
    for task in (hanging, failing):
        task.stop()
