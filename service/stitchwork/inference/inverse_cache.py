"""Inverses of spaces, cached on the queue server and recomputed when missing.

Each is computed from one space alone, so N spaces need N inverses. Concurrent requests for a
missing or corrupt one compute it once: callers in one process share a future, and processes share
a lock.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from stitchwork.background import lower_priority, single_blas_thread
from stitchwork.errors import CorruptDataError, QueueUnavailableError
from stitchwork.geometry.bridges import Inverse, InverseName, compute_inverse
from stitchwork.geometry.frame import Frame
from stitchwork.redis import chunked_arrays
from stitchwork.redis.client import RedisClient
from stitchwork.resources import Space
from stitchwork.telemetry import Metrics

log = logging.getLogger(__name__)

CACHED_SECONDS: Final = 7 * 24 * 3600
"""Only keys with a lifetime can be evicted, and no other key on the queue server has one."""
LOCK_SECONDS: Final = 5.0
"""Lifetime of a lock, in case its holder dies; the holder renews it while it computes."""
POLL_SECONDS: Final = 0.05
"""How often a process looks whether another one has computed an inverse."""


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """An inverse that someone waits for."""

    key: str
    name: InverseName
    space: Space
    frame: Callable[[], Frame]
    future: "Future[Inverse]"


@contextmanager
def _renewed(lock: Any, server: RedisClient, seconds: float) -> Iterator[None]:
    """Hold a lock that was acquired, and release it at the end.

    It is renewed from a thread: the computation calls into libraries, which may take minutes.
    """
    done = threading.Event()

    def renew() -> None:
        while not done.wait(seconds / 4):
            try:
                with server.session():
                    lock.reacquire()
            except QueueUnavailableError:
                # It runs out, or was lost with the server; another process may then compute too.
                return

    thread = threading.Thread(target=renew, name="fit-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(QueueUnavailableError), server.session():
            lock.release()


class InverseCache:
    """Inverses of spaces, cached on a server.

    Args:
        server: The queue server.
        threads: Number of inverses that this process computes at the same time.
        metrics: Counts hits, misses and failed checksums.
        pool: Computes the inverses; None for one of `threads` threads.
        lock_seconds: Lifetime of a lock that is not renewed.
    """

    def __init__(
        self,
        server: RedisClient,
        threads: int,
        metrics: Metrics | None = None,
        pool: ThreadPoolExecutor | None = None,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        self._server = server
        self._lock_seconds = lock_seconds
        self._pool = pool or ThreadPoolExecutor(
            threads, thread_name_prefix="fit", initializer=lower_priority
        )
        self._closing = threading.Event()
        self._pending: dict[str, Future[Inverse]] = {}
        self._lock = threading.Lock()
        self._metrics = metrics or Metrics()
        self._lookups = self._metrics.caches["inverse"]

    def get(self, name: InverseName, space: Space, frame: Callable[[], Frame]) -> Inverse:
        """Get an inverse of a space, from the cache or computed.

        Args:
            name: Name of the inverse.
            space: The space.
            frame: Returns the space's frame; called only if the inverse must be computed.

        Returns:
            What `bridges.compute_inverse` returns.
        """
        return self.start(name, space, frame).result()

    def start(self, name: InverseName, space: Space, frame: Callable[[], Frame]) -> Future[Inverse]:
        """Like `get`, without waiting; concurrent callers share the future."""
        key = self._server.key("inverse", name, space.version)
        with self._lock:
            pending = self._pending.get(key)
            if pending is not None:
                return pending
            pending = self._pending[key] = Future()
            # Others share it, so nobody can cancel it.
            pending.set_running_or_notify_cancel()
        # Not under the lock: if the future is done, the callback runs at once and takes the lock.
        pending.add_done_callback(lambda _: self._forget(key))
        self._submit(_Task(key, name, space, frame, pending))
        return pending

    def close(self) -> None:
        """Wait for running computations, and start no more."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._pending.pop(key, None)

    def _submit(self, task: "_Task") -> None:
        def end(done: "Future[None]") -> None:
            if done.cancelled():
                task.future.set_exception(CancelledError())

        try:
            self._pool.submit(self._run, task).add_done_callback(end)
        except RuntimeError as error:
            # The pool takes no more work: the process ends.
            task.future.set_exception(error)

    def _run(self, task: "_Task") -> None:
        """Read or compute an inverse; if another process computes it, wait beside the pool."""
        try:
            result = self._find(task)
        except BaseException as error:  # noqa: BLE001 whoever waits for the future gets it
            task.future.set_exception(error)
            return
        if result is not None:
            task.future.set_result(result)
            return
        # Beside the pool: an inverse that another process computes delays no other one.
        waiter = threading.Thread(target=self._await_other, args=(task,), name="fit-wait")
        waiter.daemon = True
        waiter.start()

    def _await_other(self, task: "_Task") -> None:
        """Wait until another process has released its lock, then run the task again."""
        try:
            while not self._closing.wait(POLL_SECONDS):
                if not self._server.execute(("EXISTS", f"{task.key}:lock"))[0]:
                    break
        except QueueUnavailableError as error:
            log.warning("inverse cache unavailable", extra={"reason": error.message})
        self._submit(task)

    def _find(self, task: "_Task") -> Inverse | None:
        """An inverse, read or computed; None if another process computes it."""
        result = None
        try:
            result = self._read(task.key, task.name)
            if result is not None:
                return result
            with self._server.session() as client:
                # The token belongs to the task, since another thread renews the lock.
                lock = client.lock(
                    f"{task.key}:lock", timeout=self._lock_seconds, thread_local=False
                )
                if not lock.acquire(blocking=False):
                    return None
            with _renewed(lock, self._server, self._lock_seconds):
                # Another process may have released it a moment ago.
                result = self._read(task.key, task.name)
                if result is None:
                    result = self._compute(task.name, task.space, task.frame)
                    self._write(task.key, result)
        except QueueUnavailableError as error:
            # The cache only saves work: without it the inverse is computed.
            log.warning("inverse cache unavailable", extra={"reason": error.message})
        return self._compute(task.name, task.space, task.frame) if result is None else result

    def _compute(self, name: InverseName, space: Space, frame: Callable[[], Frame]) -> Inverse:
        with single_blas_thread():
            result = compute_inverse(name, frame(), space.parameters.checked())
        self._lookups.miss.inc()
        return result

    def _read(self, key: str, name: InverseName) -> Inverse | None:
        try:
            arrays = chunked_arrays.read(self._server, key)
            if arrays is None:
                return None
            result = Inverse(name, arrays["inverse"], arrays.get("at"))
        except (CorruptDataError, KeyError):
            log.warning("cached inverse corrupt", extra={"effect": "the inverse is recomputed"})
            self._metrics.corrupt_inverses.inc()
            with self._server.session() as client:
                client.delete(key)
            return None
        self._lookups.hit.inc()
        return result

    def _write(self, key: str, result: Inverse) -> None:
        arrays = {"inverse": result.matrix}
        if result.anchor_indices is not None:
            arrays["at"] = result.anchor_indices
        chunked_arrays.write(self._server, key, arrays, CACHED_SECONDS)
