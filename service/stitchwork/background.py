"""Work in the background: repeated tasks, and arithmetic that must not delay requests.

Everything that a process does besides answering calls is a task of this module, in a thread or on
the event loop, so that an error ends none of it and a task that hangs shows in readiness.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

log = logging.getLogger(__name__)

STALLED_SECONDS: Final = 30.0
"""Time without a completed run after which a task counts as stalled: servers have timeouts of a few
seconds."""
RETRY_SECONDS: Final = 1.0
"""Minimum time between a failed run and the next one."""
WATCH_SECONDS: Final = 10.0
NICENESS: Final = 10
"""Priority of a background process: a tenth of a core that others want too, all of an idle one."""
_blas_lock = threading.Lock()
_blas_limit = ExitStack()
_blas_users = 0


def lower_priority() -> None:
    """Give the calling thread the priority of a background process.

    Only Linux has a priority for each thread; elsewhere nothing changes.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """A context in which the arithmetic of this process runs in the threads that call it.

    BLAS would share a fit among threads that have the priority of requests. It has one setting for
    the whole process, which is restored when the last of several such contexts ends.
    """
    global _blas_users
    # Imported here since clients have no numpy of the service, and the API imports it on demand.
    # scipy has a BLAS besides numpy's, which can be limited only once it is loaded.
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with _blas_lock:
        _blas_users += 1
        if _blas_users == 1:
            _blas_limit.enter_context(threadpool_limits(1, "blas"))
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if not _blas_users:
                _blas_limit.close()


class BackgroundTask:
    """The progress of a task that repeats something.

    Args:
        name: Name of the task in logs and in readiness.
        seconds: Time between two runs.
        stalled_seconds: Time without a completed run after which the task is stalled.
    """

    def __init__(
        self, name: str, seconds: float, *, stalled_seconds: float = STALLED_SECONDS
    ) -> None:
        self.name = name
        self._seconds = seconds
        self._stalled_seconds = stalled_seconds
        self._completed_at: float | None = None

    @property
    def is_started(self) -> bool:
        """Whether it was started, and not stopped."""
        return self._completed_at is not None

    @property
    def is_stalled(self) -> bool:
        """Whether it was started, and no run was completed for too long."""
        completed_at = self._completed_at
        return completed_at is not None and (
            time.monotonic() - completed_at > self._stalled_seconds + self._seconds
        )

    def _complete(self) -> float:
        """Record a completed run; returns the seconds until the next one."""
        self._completed_at = time.monotonic()
        return self._seconds

    def _fail(self, error: Exception) -> float:
        """Log a failed run; returns the seconds until the next one."""
        log.error("background task failed", exc_info=error, extra={"task": self.name})
        return max(self._seconds, RETRY_SECONDS)


class PeriodicTask(BackgroundTask):
    """Calls a function again and again, from its own thread, until it is stopped.

    An error of the function is logged, and the next call is made as if there had been none.

    Args:
        name: Name of the task in logs and in readiness.
        function: What is called.
        seconds: Time between two calls.
        stalled_seconds: Time without a completed call after which the task is stalled.
        initializer: Called once in the thread, before the first call.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[], object],
        seconds: float,
        *,
        stalled_seconds: float = STALLED_SECONDS,
        initializer: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(name, seconds, stalled_seconds=stalled_seconds)
        self._function = function
        self._initializer = initializer
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first call is made at once."""
        self._complete()
        self._thread.start()

    def stop(self, seconds: float | None = None) -> None:
        """Make no more calls, and wait for the one in progress, at most for so many seconds."""
        self._stopping.set()
        self._thread.join(seconds)
        self._completed_at = None

    def _run(self) -> None:
        self._initializer()
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                self._function()
            except Exception as error:  # noqa: BLE001 the task outlives whatever its function raises
                pause = self._fail(error)
            else:
                pause = self._complete()


class AsyncPeriodicTask(BackgroundTask):
    """Awaits a function again and again, on the event loop, until it is stopped.

    An error of the function is logged, and the next call is made as if there had been none.

    Args:
        name: Name of the task in logs and in readiness.
        function: What is called.
        seconds: Time between two calls.
        stalled_seconds: Time without a completed call after which the task is stalled.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[], Awaitable[object]],
        seconds: float,
        *,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        super().__init__(name, seconds, stalled_seconds=stalled_seconds)
        self._function = function
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the first call is made at once."""
        self._complete()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Make no more calls, and cancel the one in progress."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._completed_at = None

    async def _run(self) -> None:
        while True:
            try:
                await self._function()
            except Exception as error:  # noqa: BLE001 the task outlives whatever its function raises
                pause = self._fail(error)
            else:
                pause = self._complete()
            await asyncio.sleep(pause)


def stalled(tasks: Iterable[BackgroundTask]) -> list[str]:
    """The names of the tasks that are stalled."""
    return [task.name for task in tasks if task.is_stalled]


class Watchdog:
    """Calls a function when a task is stalled, in a process that shows no readiness.

    Args:
        tasks: The tasks.
        on_stall: Called by `check`; it ends the process, for a supervisor to restart.
        seconds: How long a task must stay stalled: after a pause of the whole process, its
            threads need a moment.
    """

    def __init__(
        self,
        tasks: Iterable[BackgroundTask],
        on_stall: Callable[[], None],
        *,
        seconds: float = WATCH_SECONDS,
    ) -> None:
        self._tasks = tuple(tasks)
        self._on_stall = on_stall
        self._seconds = seconds
        self._stalled_since: float | None = None

    def check(self) -> None:
        """Look at the tasks; to be called again and again."""
        names = stalled(self._tasks)
        if not names:
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = time.monotonic()
        elif time.monotonic() - self._stalled_since > self._seconds:
            extra = {"tasks": names, "effect": "the process ends, to be restarted"}
            log.critical("background task stalled", extra=extra)
            self._on_stall()
