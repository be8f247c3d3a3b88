"""Executors with a bounded queue, for work beside the event loop: threads and processes."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, cast

from stitchwork.background import STALLED_SECONDS
from stitchwork.errors import DeadlineExceededError, QueueFullError
from stitchwork.processes.pool import CallHandle, ProcessPool

T = TypeVar("T")

COMPUTE_THREADS: Final = 8
ROW_THREADS: Final = 2
MAX_TASKS: Final = 128
INLINE_VALUES: Final = 4_096
"""Numbers that are processed on the event loop: a fraction of a millisecond."""
MAX_PROCESSES: Final = 2
"""Processes that parse large bodies, at most."""
NICENESS: Final = 5
"""Added to the priority of these processes: small requests and workers on this machine come first.
"""
MAX_SELECTIONS: Final = 16
"""Choices of anchors that may wait; one runs at a time, beside translations."""


class Load:
    """The load of this process.

    Attributes:
        requests: Requests in progress.
    """

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests = 0


class BoundedExecutor:
    """Threads for array arithmetic, separate from those that wait for a server.

    Args:
        max_tasks: Tasks that may run or wait for a thread.
        threads: Number of threads.
        name: What the tasks are called in errors and in readiness.
        stalled_seconds: Time without the end of a task after which busy threads count as stalled.
    """

    def __init__(
        self,
        max_tasks: int = MAX_TASKS,
        threads: int = COMPUTE_THREADS,
        name: str = "translations and classifications",
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        self.name = name
        self._max_tasks = max_tasks
        self._threads = threads
        self._stalled_seconds = stalled_seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compute")
        self._guard = threading.Lock()
        self._tasks = 0
        self._running = 0
        self._changed_at = 0.0

    @property
    def is_stalled(self) -> bool:
        """Whether every thread is busy, and none has begun or ended a task for too long."""
        is_busy = self._running >= self._threads
        return is_busy and time.monotonic() - self._changed_at > self._stalled_seconds

    def check_capacity(self) -> None:
        """Refuse a request before its body is read, if its work would not be accepted.

        Raises:
            QueueFullError: If `max_tasks` tasks run or wait.
        """
        if self._tasks >= self._max_tasks:
            raise QueueFullError(
                f"expected fewer than {self._max_tasks} {self.name} at a time in this process; "
                "try again later"
            )

    async def run(
        self,
        function: Callable[[], T],
        seconds: float,
        abandon: Callable[[], object] = lambda: None,
    ) -> T:
        """Run a blocking function in a thread, and wait at most `seconds` for its result.

        Args:
            function: The function.
            seconds: How long to wait.
            abandon: Called if the result is no longer waited for, such as to end the function.

        Raises:
            QueueFullError: If `max_tasks` tasks run or wait.
            DeadlineExceededError: If the function takes longer. Unless `abandon` ends it, it runs
                to its end, and what it caches serves the next request.
        """
        self.check_capacity()
        with self._guard:
            self._tasks += 1
        future = self._submit(function)
        future.add_done_callback(self._end)
        try:
            # Cancels a task that no thread has begun; one that runs counts until it is done.
            return _take(await asyncio.wait_for(asyncio.wrap_future(future), seconds))
        except asyncio.CancelledError:
            abandon()
            raise
        except TimeoutError as error:
            abandon()
            raise DeadlineExceededError(
                f"no result within {seconds:g} seconds (request_timeout_seconds, or less by "
                "X-Request-Timeout)"
            ) from error

    async def finish(self, function: Callable[[], T], values: int) -> T:
        """Run the last step of a request: on the event loop if it is small, else in a thread.

        Unlike `run` it never refuses: the request has been accepted, and its work is done but for
        this.

        Args:
            function: Arithmetic on arrays, or rendering of a response.
            values: Numbers that it processes.
        """
        if values <= INLINE_VALUES:
            return function()
        return _take(await asyncio.wrap_future(self._submit(function)))

    def close(self) -> None:
        """Cancel the tasks that wait for a thread, and accept no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, function: Callable[[], T]) -> "Future[_Outcome[T]]":
        # In the context of the request, so that logs and traces of the work belong to it.
        return self._pool.submit(copy_context().run, self._call, function)

    def _call(self, function: Callable[[], T]) -> "_Outcome[T]":
        self._count_running(1)
        try:
            return [(function(), None)]
        except Exception as error:  # noqa: BLE001 the caller raises it
            return [(None, error)]
        finally:
            self._count_running(-1)

    def _count_running(self, change: int) -> None:
        with self._guard:
            self._running += change
            self._changed_at = time.monotonic()

    def _end(self, _: Future[Any]) -> None:
        with self._guard:
            self._tasks -= 1


_Outcome: TypeAlias = list[tuple[T, None] | tuple[None, Exception]]
"""What a task returned or raised, to be taken out of its future.

A future that an event loop has waited for is in a reference cycle, and what it has would stay in
memory until the garbage collector comes.
"""


def _take(outcome: "_Outcome[T]") -> T:
    result, error = outcome.pop()
    if error is None:
        return cast(T, result)
    try:
        raise error
    finally:
        del error


def row_threads() -> BoundedExecutor:
    """Threads that parse rows of numbers, each slice of which holds the interpreter's lock."""
    return BoundedExecutor(threads=ROW_THREADS, name="bodies with rows of numbers")


class ProcessExecutor:
    """Runs functions in a few child processes, and ends those that nobody waits for.

    Args:
        pool: The processes.
        name: What the tasks are called in an error.
    """

    def __init__(self, pool: ProcessPool | None = None, name: str = "large bodies") -> None:
        self._pool = pool or ProcessPool(MAX_PROCESSES, niceness=NICENESS)
        # A thread for each process, which waits for its reply.
        self._executor = BoundedExecutor(threads=self._pool.max_processes, name=name)

    @property
    def max_bytes(self) -> int:
        """Memory of one process."""
        return self._pool.max_bytes

    def check_capacity(self) -> None:
        """Refuse a request before its body is read, if its work would not be accepted.

        Raises:
            QueueFullError: If too many tasks run or wait.
        """
        self._executor.check_capacity()

    async def run(self, function: Callable[..., T], *arguments: Any, seconds: float) -> T:
        """Run a function of a module in another process.

        If it takes longer than `seconds`, or the caller is cancelled, its process is killed.

        Raises:
            QueueFullError: If too many tasks run or wait.
            DeadlineExceededError: If the function takes longer.
            ProcessDiedError: If it ends its process, such as for want of memory.
            Exception: What the function raises.
        """
        handle = CallHandle()
        call = partial(self._pool.call, function, *arguments, handle=handle)
        return await self._executor.run(call, seconds, handle.cancel)

    def close(self) -> None:
        """End the processes, and accept no more tasks."""
        self._pool.close()
        self._executor.close()
