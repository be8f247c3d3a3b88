"""Derived, and may vanish: the pseudo-inverse of each space, on the queue server.

Computed from one space alone, N for N spaces. A missing or damaged one is computed again, once
however many ask: callers of one process share the computation, processes share a lock.
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
"""A lifetime makes cached inverses, and nothing else on the queue server, evictable."""
LOCK_SECONDS: Final = 120
"""A lock whose holder died is free again after this. Only fits of the largest sets take longer, and
are then computed by each process that asks."""


class InverseCache:
    """Inverses of spaces: cached, shared, recomputed at need.

    Args:
        server: The queue server.
        threads: Inverses that this process computes at the same time.
        metrics: Where those are counted that were cached, computed, or failed their checksum.
    """

    def __init__(self, server: RedisClient, threads: int, metrics: Metrics | None = None) -> None:
        self._server = server
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fit")
        self._running: dict[str, Future[Inverse]] = {}
        self._guard = threading.Lock()
        self._metrics = metrics or Metrics()
        self._cache = self._metrics.caches["inverse"]

    def get(self, name: InverseName, space: Space, frame: Callable[[], Frame]) -> Inverse:
        """One inverse of a space, from the cache or computed.

        Args:
            name: Which inverse.
            space: The space.
            frame: Gives the space's frame, asked only where the inverse must be computed.

        Returns:
            What `bridges.inverse` gives.
        """
        return self.start(name, space, frame).result()

    def start(self, name: InverseName, space: Space, frame: Callable[[], Frame]) -> Future[Inverse]:
        """Like `get`, without waiting: the future is shared by all who ask meanwhile."""
        key = f"{PREFIX}inverse:{name}:{space.version}"
        with self._guard:
            running = self._running.get(key)
            if running is not None:
                return running
            running = self._pool.submit(self._find, key, name, space, frame)
            self._running[key] = running
        # Outside the guard: what is done already is forgotten here and now, under the same guard.
        running.add_done_callback(lambda _: self._forget(key))
        return running

    def close(self) -> None:
        """Finish what is being computed and start nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _forget(self, key: str) -> None:
        with self._guard:
            self._running.pop(key, None)

    def _find(
        self, key: str, name: InverseName, space: Space, frame: Callable[[], Frame]
    ) -> Inverse:
        found = None
        try:
            found = self._cached(key)
            if found is None:
                # Guarded as a whole: the lock asks the server too, again and again.
                with (
                    self._server.session() as client,
                    client.lock(
                        f"{key}:lock",
                        timeout=LOCK_SECONDS,
                        blocking_timeout=LOCK_SECONDS,
                        sleep=0.05,
                    ),
                ):
                    found = self._cached(key)
                    if found is None:
                        found = self._compute(name, space, frame)
                        self._keep(key, found)
        except QueueUnavailableError as error:
            # The cache saves work; it must never be the reason that there is no answer.
            log.warning("inverse cache unavailable", extra={"reason": error.message})
        return self._compute(name, space, frame) if found is None else found

    def _compute(self, name: InverseName, space: Space, frame: Callable[[], Frame]) -> Inverse:
        result = compute_inverse(name, frame(), space.parameters.checked())
        self._cache.miss.inc()
        return result

    def _cached(self, key: str) -> Inverse | None:
        try:
            arrays = chunked_arrays.read(self._server, key)
            if arrays is None:
                return None
            found = Inverse(arrays["inverse"], arrays.get("at"))
        except (CorruptDataError, KeyError):
            log.warning("cached inverse corrupt", extra={"effect": "it is computed again"})
            self._metrics.corrupt_inverses.inc()
            with self._server.session() as client:
                client.delete(key)
            return None
        self._cache.hit.inc()
        return found

    def _keep(self, key: str, found: Inverse) -> None:
        arrays = {"inverse": found.matrix} | (
            {} if found.anchor_indices is None else {"at": found.anchor_indices}
        )
        chunked_arrays.write(self._server, key, arrays, CACHED_SECONDS)
