"""Background tasks go on after errors and show when they stall; fits yield to requests."""

import asyncio
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import scipy.linalg  # noqa: F401 loads its BLAS
from threadpoolctl import (  # type: ignore[import-untyped]
    threadpool_info,
    threadpool_limits,
)

from stitchwork.background import (
    NICENESS,
    AsyncPeriodicTask,
    PeriodicTask,
    Watchdog,
    lower_priority,
    single_blas_thread,
    stalled,
)
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


def blas_threads() -> list[int]:
    return [int(part["num_threads"]) for part in threadpool_info() if part["user_api"] == "blas"]


def test_blas_is_limited_until_the_last_of_overlapping_fits_ends() -> None:
    with threadpool_limits(2, "blas"):
        before = blas_threads()
        first, second = single_blas_thread(), single_blas_thread()
        first.__enter__()
        second.__enter__()
        assert blas_threads() == [1] * len(before)
        first.__exit__(None, None, None)
        assert blas_threads() == [1] * len(before), "the second one goes on"
        second.__exit__(None, None, None)
        assert blas_threads() == before
        with single_blas_thread():
            assert blas_threads() == [1] * len(before)
        assert blas_threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_threads_of_fits_have_a_low_priority() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()
    with ThreadPoolExecutor(1, initializer=lower_priority) as pool:
        assert pool.submit(priority).result() == max(NICENESS, before)
    assert priority() == before, "other threads keep theirs"


def test_task_of_an_event_loop_goes_on_after_an_error_and_shows_when_it_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        calls = 0
        again, release = asyncio.Event(), asyncio.Event()

        async def fail_first() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ValueError("of the first call")
            again.set()

        failing = AsyncPeriodicTask("probe", fail_first, 0.01)
        hanging = AsyncPeriodicTask("hanging", release.wait, 0.01, stalled_seconds=0.1)
        assert not hanging.is_stalled, "it was not started"
        for task in (failing, hanging):
            task.start()
        async with asyncio.timeout(60):
            await again.wait()
            while not hanging.is_stalled:  # noqa: ASYNC110 state of others
                await asyncio.sleep(0.01)
            assert stalled([failing, hanging]) == ["hanging"]
            release.set()
            while hanging.is_stalled:  # noqa: ASYNC110 state of others
                await asyncio.sleep(0.01)
        for task in (failing, hanging):
            await task.stop()
            assert not task.is_stalled

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert [record.message for record in caplog.records] == ["background task failed"]


def test_watchdog_calls_once_a_task_was_stalled_for_some_time() -> None:
    release = threading.Event()
    hanging = PeriodicTask("hanging", release.wait, 0.01, stalled_seconds=0.05)
    ends: list[str] = []
    patient = Watchdog([hanging], lambda: ends.append("patient"), seconds=3600)
    watchdog = Watchdog([hanging], lambda: ends.append("ended"), seconds=0.01)
    watchdog.check()
    hanging.start()

    def check() -> bool:
        patient.check()
        watchdog.check()
        return bool(ends)

    wait_until("it is called", check)
    assert ends == ["ended"]
    release.set()
    wait_until("it makes progress", lambda: not hanging.is_stalled)
    watchdog.check()
    watchdog.check()
    assert ends == ["ended"]
    hanging.stop()
