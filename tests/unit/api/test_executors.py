"""The bounded executor: what runs on the event loop, what in a thread, and what is refused."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from stitchwork.api.executors import INLINE_VALUES, BoundedExecutor
from stitchwork.errors import DeadlineExceededError, QueueFullError


@pytest.fixture
def executor() -> Iterator[BoundedExecutor]:
    executor = BoundedExecutor(max_tasks=1, threads=1)
    yield executor
    executor.close()


def test_finish_of_small_work_runs_on_the_event_loop(executor: BoundedExecutor) -> None:
    async def run() -> tuple[int, int]:
        return await executor.finish(threading.get_ident, INLINE_VALUES), threading.get_ident()

    worker, loop = asyncio.run(run())
    assert worker == loop


def test_finish_of_large_work_runs_beside_the_event_loop(executor: BoundedExecutor) -> None:
    async def run() -> tuple[int, int]:
        return await executor.finish(threading.get_ident, INLINE_VALUES + 1), threading.get_ident()

    worker, loop = asyncio.run(run())
    assert worker != loop


def test_run_above_the_capacity_is_refused(executor: BoundedExecutor) -> None:
    resume = threading.Event()

    async def run() -> None:
        first = asyncio.ensure_future(executor.run(resume.wait, 60.0))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="1 translations"):
            await executor.run(resume.wait, 60.0)
        resume.set()
        assert await first

    asyncio.run(run())


def test_executor_is_stalled_while_no_thread_ends_a_task() -> None:
    executor = BoundedExecutor(threads=2, stalled_seconds=0.05)
    resume, began = threading.Event(), threading.Semaphore(0)

    def block() -> None:
        began.release()
        resume.wait()

    async def run() -> None:
        assert not executor.is_stalled
        first = asyncio.ensure_future(executor.run(block, 60.0))
        await asyncio.to_thread(began.acquire)
        await asyncio.sleep(0.1)
        assert not executor.is_stalled, "a thread is free"
        second = asyncio.ensure_future(executor.finish(block, INLINE_VALUES + 1))
        await asyncio.to_thread(began.acquire)
        await asyncio.sleep(0.1)
        assert executor.is_stalled
        resume.set()
        await asyncio.gather(first, second)
        assert not executor.is_stalled

    asyncio.run(run())
    executor.close()


def test_run_past_the_deadline_is_refused_and_its_result_dropped(
    executor: BoundedExecutor,
) -> None:
    resume = threading.Event()

    async def run() -> None:
        with pytest.raises(DeadlineExceededError, match=r"0\.01 seconds"):
            await executor.run(resume.wait, 0.01)
        resume.set()

    asyncio.run(run())
