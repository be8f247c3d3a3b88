"""The API's side of one shard of the queue: admission, replies, deadlines, cancellation.

Everything happens on the event loop. What its callers ask for in one turn goes to the server in one
packet, and one call that blocks there brings all replies.
"""

import asyncio
import logging
from collections.abc import Sequence
from itertools import count
from typing import Final, NamedTuple

from stitchwork.background import AsyncPeriodicTask
from stitchwork.errors import (
    CorruptDataError,
    NoWorkerError,
    QueueUnavailableError,
    StitchworkError,
    UnavailableError,
)
from stitchwork.queue import upkeep_scripts, worker_registry
from stitchwork.queue.admission import AdmissionLimits, Part, Parts, smallest_requests
from stitchwork.queue.admitter import Admitter
from stitchwork.queue.callers import CALLER
from stitchwork.queue.costs import item_cost
from stitchwork.queue.drain import drain
from stitchwork.queue.encoder_loads import EncoderLoads
from stitchwork.queue.full_queues import FullQueues
from stitchwork.queue.messages import LARGE_BYTES, Job, Reply, pack_job, unpack_reply
from stitchwork.queue.outages import log_outage
from stitchwork.queue.pending_requests import PartError, PendingRequest, shift_pointer
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.queue.shards import QueueShard
from stitchwork.queue.unserved_requests import UnservedRequests
from stitchwork.queue.upkeep import remove_expired
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.redis.async_client import AsyncRedisClient
from stitchwork.resources import EncoderSpec, Input, encoder_key
from stitchwork.telemetry import Metrics
from stitchwork.telemetry.request_context import CALLERS

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 1.0
READ_SECONDS: Final = 5.0
"""How long one call waits for replies at the server."""
RETRY_SECONDS: Final = 1.0
MAX_REPLIES: Final = 256
"""Replies that are fetched at once."""


class ProducerLimits(NamedTuple):
    """How much may wait in a shard, and for how long.

    Attributes:
        max_jobs: Jobs that may wait for one encoder.
        max_bytes: Size of all queued jobs.
        max_wait_ms: Longest time in milliseconds that a job is expected to wait for a worker.
        worker_ttl: Seconds without a heartbeat after which a worker counts as dead.
        worker_restart: Seconds that jobs wait once the last worker that takes them is gone.
        full_seconds: Time in seconds for which a queue that was full counts as full without being
            read again, unless one of its jobs is done.
    """

    max_jobs: int
    max_bytes: int
    max_wait_ms: int
    worker_ttl: float
    worker_restart: float
    full_seconds: float


class ShardProducer:
    """Adds jobs to the streams of one shard, and delivers each reply to the caller that awaits it.

    Args:
        shard: The shard.
        name: Name of the API process.
        loads: How fast the encoders of all shards are.
        limits: How much may wait.
        caller_classes: Number of classes of callers, which share each encoder fairly.
        metrics: Counts cancelled jobs.

    Attributes:
        shard: The shard.
        tasks: Its background tasks.
        is_connected: Whether the server answered the last heartbeat.
        known_workers: The status of every live worker at that time.
    """

    def __init__(
        self,
        shard: QueueShard,
        name: str,
        loads: EncoderLoads,
        limits: ProducerLimits,
        *,
        caller_classes: int,
        metrics: Metrics,
    ) -> None:
        self.shard = shard
        self._keys = shard.keys
        self._limits = limits
        self.is_connected = False
        self.known_workers: list[WorkerStatus] = []
        self._loads = loads
        self._full = FullQueues(limits.full_seconds)
        self._name = name
        self._numbers = count()
        self._client = AsyncRedisClient.of(shard)
        self._blocking = self._client.blocking(READ_SECONDS)
        self._waiting: dict[str, tuple[PendingRequest, int]] = {}
        self._unserved = UnservedRequests(
            self._client, shard.keys, limits.worker_ttl, limits.worker_restart
        )
        self._admitter = Admitter(
            self._client,
            shard.keys,
            name,
            caller_classes,
            limits=self._admission_limits,
            on_full=self._full.add,
            metrics=metrics,
        )
        self.tasks = (
            AsyncPeriodicTask(shard.task_name("replies"), self._read, 0.0),
            AsyncPeriodicTask(shard.task_name("queue-heartbeat"), self._beat, HEARTBEAT_SECONDS),
            AsyncPeriodicTask(shard.task_name("upkeep"), self._remove_expired, HEARTBEAT_SECONDS),
        )

    async def start(self) -> None:
        """Begin to read replies and to send heartbeats."""
        for task in self.tasks:
            task.start()

    async def stop(self) -> None:
        """Stop reading; callers that still wait get an error."""
        for task in self.tasks:
            await task.stop()
        self._fail_all(QueueUnavailableError("the service is shutting down"))
        await self._admitter.close()
        try:
            await self._client.execute(
                ("ZREM", self._keys.apis, self._name), ("DEL", self._keys.replies(self._name))
            )
        except QueueUnavailableError as error:
            log_outage(error, "the entries of this process are removed when they expire")
        await self._blocking.close()
        await self._client.close()

    async def run_all(
        self, job: Job, parts: Sequence[Sequence[Input]], seconds: float
    ) -> list[Reply]:
        """Have workers do a request of one or more jobs, and wait for all replies.

        All jobs are admitted, or none. If one fails, or the caller leaves, the others are taken
        out of the queue.

        Args:
            job: What all jobs do; their ids and reply address are set here.
            parts: The inputs of each job.
            seconds: Seconds until the deadline.

        Returns:
            Replies without an error, in the order of the jobs.

        Raises:
            QueueFullError: If the queue is full, or the deadline too short for the inputs.
            NoWorkerError: If no live worker takes work for its encoder, or the last one is gone.
            QueueUnavailableError: If the queue server is, or becomes, unavailable.
            DeadlineExceededError: If a reply does not come in time.
            StitchworkError: The error that a worker answered; the pointer of an
                `InvalidInputError` counts from the request's first input.
        """
        if job.encoder:
            await self._check_workers(job.encoder)
        request = await self._make_request(job, parts, seconds)
        for index, part in enumerate(request.parts.parts):
            self._waiting[part.id] = (request, index)
        self._admitter.admit(request)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, request.expire, seconds)
        try:
            replies = await request.future
            self._full.discard(request)
            return replies
        except PartError as failure:
            raise shift_pointer(failure, parts) from failure
        except QueueUnavailableError:
            # Nothing can be cancelled.
            request.entries.clear()
            raise
        finally:
            timer.cancel()
            for part in request.parts.parts:
                self._waiting.pop(part.id, None)
            self._admitter.cancel(request)
            await self._admitter.finish_transfer(request)
            # Its error has this frame, and with it all inputs: they would wait for the collector.
            del request, timer

    def check_room(self, encoder: EncoderSpec) -> None:
        """Raise, before inputs are read, if the queue was full for this caller a moment ago.

        Raises:
            QueueFullError: If the queue of the encoder was full.
        """
        self._full.check(encoder)

    async def check_admission(self, encoder: EncoderSpec, seconds: float) -> None:
        """Raise, before inputs are read, if not even one of them would be admitted.

        Takes a call to the queue server.

        Args:
            encoder: The encoder.
            seconds: Seconds until the deadline.

        Raises:
            QueueFullError: If the queue of the encoder is full, or the deadline too short.
            NoWorkerError: If no live worker takes work for the encoder.
            QueueUnavailableError: If the queue server is unavailable.
        """
        await self._check_workers(encoder)
        trials = smallest_requests(int(seconds * 1000), CALLER.get())
        requirement = ModelRequirement.of(encoder)
        await self._admitter.check_room(encoder_key(encoder), requirement, trials)

    async def drain(self, seconds: float) -> bool:
        """Wait until every job that was admitted before this call is answered or cancelled.

        Returns:
            False if it was not within these seconds.
        """
        return await drain(self._client, self._keys, seconds)

    async def _check_workers(self, encoder: EncoderSpec) -> None:
        self.check_room(encoder)
        requirement = ModelRequirement.of(encoder)
        if worker_registry.count_accepting(self.known_workers, requirement):
            return
        # The list is up to a second old; nobody is refused on that alone.
        await self.refresh_workers()
        if self.shard.number and not self.known_workers:
            raise NoWorkerError(
                f"no live worker reads shard {self.shard.tag} of the queue: expected the same "
                "queue_shards and queue_url of APIs and workers"
            )
        worker_registry.check_accepting(self.known_workers, requirement)

    async def refresh_workers(self) -> None:
        """Send the heartbeat of this process, and list the workers."""
        keys, arguments = worker_registry.live_workers_arguments(
            self._keys, self._limits.worker_ttl, self._name
        )
        reply = await self._client.run_script(upkeep_scripts.LIVE_WORKERS, keys, *arguments)
        self.known_workers = worker_registry.parse_statuses(reply)

    async def _make_request(
        self, job: Job, parts: Sequence[Sequence[Input]], seconds: float
    ) -> PendingRequest:
        size = sum(len(item) for items in parts for item in items)
        packed = list[Part]()
        if size < LARGE_BYTES:
            self._pack(job, parts, packed)
        else:
            await asyncio.to_thread(self._pack, job, parts, packed)
        request = Parts(packed, int(seconds * 1000), CALLER.get())
        return PendingRequest(request, job.stream, ModelRequirement.of(job.encoder))

    def _pack(self, job: Job, parts: Sequence[Sequence[Input]], packed: list[Part]) -> None:
        """Add the jobs to a list; the future of a thread's result would keep it in memory."""
        request_id = traceparent = None
        for caller in CALLERS.get():
            request_id, traceparent = caller.request_id, caller.traceparent
        for items in parts:
            id_ = f"{self._name}{next(self._numbers):x}"
            data = pack_job(job, items, id_, self._name, request_id, traceparent)
            cost = sum(item_cost(item, job.encoder) for item in items)
            packed.append(Part(id_, data, len(items), cost))

    def _admission_limits(self, encoder: str, requirement: ModelRequirement) -> AdmissionLimits:
        workers = worker_registry.count_accepting(self.known_workers, requirement)
        capacity = self._loads.capacity(encoder, requirement, self.known_workers)
        return AdmissionLimits(*self._limits[:3], workers, capacity)

    async def _read(self) -> None:
        """Wait for replies, and deliver them."""
        command = ("BLMPOP", READ_SECONDS, 1, self._keys.replies(self._name), "LEFT")
        try:
            # A batch is answered at once: all replies that have come are fetched together.
            (popped,) = await self._blocking.send((*command, "COUNT", MAX_REPLIES))
        except UnavailableError as error:
            self._fail_all(QueueUnavailableError(f"the job was lost: {error.message}"))
            log_outage(error, "waiting callers get an error")
            await asyncio.sleep(RETRY_SECONDS)
            return
        for data in popped[1] if popped else ():
            self._deliver(data)

    async def _beat(self) -> None:
        """Send a heartbeat and list the workers; a server that refuses may still take jobs."""
        try:
            await self.refresh_workers()
            await self._loads.refresh(self._client, self._keys)
            await self._unserved.refuse({r for r, _ in self._waiting.values()}, self.known_workers)
            self.is_connected = True
        except QueueUnavailableError as error:
            self.is_connected = False
            self._loads.discard(self.shard.number)
            log_outage(error, "no heartbeat was sent")

    async def _remove_expired(self) -> None:
        """Remove what dead processes left."""
        try:
            await remove_expired(self._client, self._keys)
        except QueueUnavailableError as error:
            log_outage(error, "what dead processes left is removed later")

    def _deliver(self, data: bytes) -> None:
        try:
            reply = unpack_reply(data)
        except CorruptDataError as error:
            # Its job is unknown; the caller's answer is the deadline.
            log.error("reply corrupt", extra={"reason": error.message})
            return
        request, index = self._waiting.pop(reply.job, (None, 0))
        if request is not None:
            request.receive(index, reply)

    def _fail_all(self, error: StitchworkError) -> None:
        waiting, self._waiting = self._waiting, {}
        for request, _ in waiting.values():
            request.fail(error)
