"""Inverses of spaces, cached on the queue server and recomputed when missing.

Each is computed from one space alone, so N spaces need N inverses. Concurrent requests for a
missing or corrupt one compute it once: callers in one process share a future, and processes share
a lock.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from stitchwork.errors import CorruptDataError, QueueUnavailableError
from stitchwork.geometry.bridges import Inverse, InverseName, compute_inverse
from stitchwork.geometry.frame import Frame
from stitchwork.redis import chunked_arrays
from stitchwork.redis.client import PREFIX, RedisClient
from stitchwork.resources import Space
from stitchwork.telemetry import Metrics

log = logging.getLogger(__name__)

CACHED_SECONDS: Final = 7 * 24 * 3600
"""Only keys with a lifetime can be evicted, and no other key on the queue server has one."""
LOCK_SECONDS: Final = 120
"""Lifetime of the lock, in case its holder dies. Only computations on the largest anchor sets take
longer; each process that needs the inverse then computes it itself."""


class InverseCache:
    """Inverses of spaces, cached on a server.

    Args:
        server: The queue server.
        threads: Number of inverses that this process computes at the same time.
        metrics: Counts hits, misses and failed checksums.
        pool: Computes the inverses; None for one of `threads` threads.
    """

    def __init__(
        self,
        server: RedisClient,
        threads: int,
        metrics: Metrics | None = None,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        self._server = server
        self._pool = pool or ThreadPoolExecutor(threads, thread_name_prefix="fit")
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
        key = f"{PREFIX}inverse:{name}:{space.version}"
        with self._lock:
            pending = self._pending.get(key)
            if pending is not None:
                return pending
            pending = self._pool.submit(self._find, key, name, space, frame)
            self._pending[key] = pending
        # Not under the lock: if the future is done, the callback runs at once and takes the lock.
        pending.add_done_callback(lambda _: self._forget(key))
        return pending

    def close(self) -> None:
        """Wait for running computations, and start no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._pending.pop(key, None)

    def _find(
        self, key: str, name: InverseName, space: Space, frame: Callable[[], Frame]
    ) -> Inverse:
        result = None
        try:
            result = self._read(key, name)
            if result is None:
                # One session for all, since waiting for the lock polls the server.
                with (
                    self._server.session() as client,
                    client.lock(
                        f"{key}:lock",
                        timeout=LOCK_SECONDS,
                        blocking_timeout=LOCK_SECONDS,
                        sleep=0.05,
                    ),
                ):
                    result = self._read(key, name)
                    if result is None:
                        result = self._compute(name, space, frame)
                        self._write(key, result)
        except QueueUnavailableError as error:
            # The cache only saves work: without it the inverse is computed.
            log.warning("inverse cache unavailable", extra={"reason": error.message})
        return self._compute(name, space, frame) if result is None else result

    def _compute(self, name: InverseName, space: Space, frame: Callable[[], Frame]) -> Inverse:
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
