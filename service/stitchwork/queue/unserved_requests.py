"""Requests in the queue whose last worker is gone: they wait for another one, but not for long."""

import time
from collections.abc import Collection, Sequence
from typing import Final

from stitchwork.errors import NoWorkerError
from stitchwork.queue import upkeep_scripts, worker_registry
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.pending_requests import PendingRequest
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.redis.async_client import AsyncRedisClient

RESTART_SECONDS: Final = 5.0
"""Time for a worker that ended to start again, up to the announcement of its start."""


class UnservedRequests:
    """Refuses requests whose last worker is gone, and of which none is about to start.

    Args:
        client: A client of the server of a shard.
        shard: The keys of the shard.
        worker_ttl: Seconds without a heartbeat after which a worker counts as dead.
        restart_seconds: Seconds that a request waits for another worker to start.
    """

    def __init__(
        self,
        client: AsyncRedisClient,
        shard: ShardKeys,
        worker_ttl: float,
        restart_seconds: float,
    ) -> None:
        self._client = client
        self._shard = shard
        self._worker_ttl = worker_ttl
        self._restart_seconds = restart_seconds
        self._since: dict[ModelRequirement, float] = {}

    async def refuse(
        self, requests: Collection[PendingRequest], workers: Sequence[WorkerStatus]
    ) -> None:
        """Refuse those that have waited long enough; to be called again and again.

        Args:
            requests: All requests in the shard.
            workers: The live workers.

        Raises:
            QueueUnavailableError: If the queue server is unavailable.
        """
        now, before = time.monotonic(), self._since
        self._since = {
            requirement: before.get(requirement, now)
            for requirement in {request.requirement for request in requests}
            if not worker_registry.count_accepting(workers, requirement)
        }
        overdue = {
            requirement
            for requirement, since in self._since.items()
            if now - since >= self._restart_seconds
        }
        if not overdue:
            return
        keys, arguments = worker_registry.starting_workers_arguments(self._shard, self._worker_ttl)
        reply = await self._client.run_script(upkeep_scripts.LIVE_WORKERS, keys, *arguments)
        starting = worker_registry.parse_statuses(reply)
        for request in requests:
            model = request.requirement.model
            # In which data types a worker computes is not known before it has started.
            awaited = any(worker.serves_model(model) for worker in starting)
            if request.requirement in overdue and not awaited:
                request.fail(
                    NoWorkerError(
                        f"the last worker that took work for {model} is gone, and none has started "
                        f"within {self._restart_seconds:g} seconds (worker_restart_seconds)"
                    )
                )
