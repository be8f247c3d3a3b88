"""Work in the background: repeated tasks, and arithmetic that must not delay requests."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

log = logging.getLogger(__name__)

STALLED_SECONDS: Final = 30.0
"""Time without a completed run after which a task counts as stalled: servers have timeouts of a few
seconds."""
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


class PeriodicTask:
    """Calls a function again and again, from its own thread, until it is stopped.

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
        function: Callable[[], object],
        seconds: float,
        *,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        self.name = name
        self._function = function
        self._seconds = seconds
        self._stalled_seconds = stalled_seconds
        self._completed_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first call comes after one interval."""
        self._completed_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Make no more calls, and wait for the one in progress."""
        self._stopping.set()
        self._thread.join()

    @property
    def is_stalled(self) -> bool:
        """Whether it was started, and no call was completed for too long."""
        completed_at = self._completed_at
        return completed_at is not None and (
            time.monotonic() - completed_at > self._stalled_seconds + self._seconds
        )

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                self._function()
            except Exception as error:
                log.error("background task failed", exc_info=error, extra={"task": self.name})
            else:
                self._completed_at = time.monotonic()
