"""The API's side of the queue: each job goes to the shard of its encoder."""

import asyncio
from collections.abc import Sequence
from typing import Final

from stitchwork.errors import NoWorkerError, QueueUnavailableError
from stitchwork.queue import streams, worker_registry
from stitchwork.queue.encoder_loads import EncoderLoads
from stitchwork.queue.messages import Job, Reply
from stitchwork.queue.outages import log_outage
from stitchwork.queue.shard_producer import ProducerLimits, ShardProducer
from stitchwork.queue.shards import QueueShard, shard_of
from stitchwork.queue.unserved_requests import RESTART_SECONDS
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.resources import EncoderSpec, Input, Registration, encoder_key
from stitchwork.telemetry import Metrics

FULL_SECONDS: Final = 0.1


class Producer:
    """Adds jobs to their streams and delivers each reply to the caller that awaits it.

    Every caller gets an answer: the reply, the deadline, or the error that the queue is
    unavailable. A shard whose server is away concerns the encoders of that shard only.

    Args:
        shards: The shards of the queue.
        max_jobs: Jobs that may wait for one encoder.
        max_bytes: Size of all queued jobs of a shard.
        max_wait_seconds: Longest time in seconds that a job is expected to wait for a worker.
        worker_ttl_seconds: Seconds without a heartbeat after which a worker counts as dead.
        worker_restart_seconds: Seconds that jobs wait once the last worker that takes them is gone.
        caller_classes: Number of classes of callers, which share each encoder fairly.
        metrics: Counts cancelled jobs.
        full_seconds: Time in seconds for which a queue that was full counts as full without being
            read again, unless one of its jobs is done.

    Attributes:
        shards: The shards of the queue.
        tasks: Its background tasks.
    """

    def __init__(
        self,
        shards: Sequence[QueueShard],
        *,
        max_jobs: int,
        max_bytes: int,
        max_wait_seconds: float,
        worker_ttl_seconds: float,
        worker_restart_seconds: float = RESTART_SECONDS,
        caller_classes: int = 1,
        metrics: Metrics | None = None,
        full_seconds: float = FULL_SECONDS,
    ) -> None:
        self.shards = tuple(shards)
        self._worker_ttl = worker_ttl_seconds
        self._loads = EncoderLoads()
        name, metrics = streams.new_id(), metrics or Metrics()
        limits = ProducerLimits(
            max_jobs,
            max_bytes,
            int(max_wait_seconds * 1000),
            worker_ttl_seconds,
            worker_restart_seconds,
            full_seconds,
        )
        self._producers = [
            ShardProducer(
                shard, name, self._loads, limits, caller_classes=caller_classes, metrics=metrics
            )
            for shard in self.shards
        ]
        self.tasks = tuple(task for producer in self._producers for task in producer.tasks)

    @property
    def known_workers(self) -> list[WorkerStatus]:
        """The status of every worker that was live at the last heartbeats."""
        return worker_registry.unite(producer.known_workers for producer in self._producers)

    @property
    def connected_workers(self) -> list[WorkerStatus]:
        """Those of them that take jobs from a shard whose server answered."""
        connected = [producer for producer in self._producers if producer.is_connected]
        return worker_registry.unite(producer.known_workers for producer in connected)

    @property
    def unavailable_shards(self) -> list[str]:
        """The tags of the shards whose servers did not answer the last heartbeat."""
        return [producer.shard.tag for producer in self._producers if not producer.is_connected]

    async def start(self) -> None:
        """Begin to read replies and to send heartbeats."""
        for producer in self._producers:
            await producer.start()

    async def stop(self) -> None:
        """Stop reading; callers that still wait get an error."""
        await asyncio.gather(*(producer.stop() for producer in self._producers))

    async def run(self, job: Job, items: Sequence[Input], seconds: float) -> Reply:
        """Have a worker do a job, and wait for its reply; see `ShardProducer.run_all`."""
        (reply,) = await self.run_all(job, (items,), seconds)
        return reply

    async def run_all(
        self, job: Job, parts: Sequence[Sequence[Input]], seconds: float
    ) -> list[Reply]:
        """Have workers do a request of one or more jobs; see `ShardProducer.run_all`."""
        return await self._producer_of(job.stream).run_all(job, parts, seconds)

    def enqueue_registration(self, registration: Registration) -> None:
        """Enqueue the next step of a registration, which a worker otherwise resumes later.

        Blocks for two short calls to the server.
        """
        try:
            streams.enqueue_registration(self.shards, registration)
        except QueueUnavailableError as error:
            log_outage(error, "a worker resumes the registration later")

    def check_room(self, encoder: EncoderSpec) -> None:
        """Raise, before inputs are read, if the queue was full for this caller a moment ago.

        Raises:
            QueueFullError: If the queue of the encoder was full.
        """
        self._producer_of(encoder_key(encoder)).check_room(encoder)

    async def check_admission(self, encoder: EncoderSpec, seconds: float) -> None:
        """Raise, before inputs are read, if not even one of them would be admitted.

        See `ShardProducer.check_admission`.
        """
        await self._producer_of(encoder_key(encoder)).check_admission(encoder, seconds)

    async def check_any_worker(self) -> None:
        """Raise, before it is known which encoder a request is for, if there is no live worker.

        Raises:
            NoWorkerError: If there is none.
            QueueUnavailableError: If no shard of the queue is available.
        """
        failures: list[QueueUnavailableError] = []
        for producer in () if self.known_workers else self._producers:
            try:
                await producer.refresh_workers()
            except QueueUnavailableError as error:
                failures.append(error)
        if len(failures) == len(self._producers):
            raise failures[0]
        if not self.known_workers:
            raise NoWorkerError("no worker is live")

    def max_job_cost(self, job: Job) -> float:
        """The largest cost that a job of several inputs should have, see `costs`."""
        return self._loads.max_job_cost(job.stream)

    def workers(self) -> list[WorkerStatus]:
        """The status of every live worker, by blocking calls.

        Raises:
            QueueUnavailableError: If no shard of the queue is available.
        """
        return worker_registry.live_workers(self.shards, self._worker_ttl)

    async def drain(self, seconds: float) -> bool:
        """Wait until every job that was admitted before this call is answered or cancelled.

        Returns:
            False if it was not within these seconds.
        """
        waits = (producer.drain(seconds) for producer in self._producers)
        return all(await asyncio.gather(*waits))

    def _producer_of(self, encoder: str) -> ShardProducer:
        return self._producers[shard_of(self.shards, encoder).number]
