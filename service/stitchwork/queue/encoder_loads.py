"""How fast each encoder is, and what share of the workers it gets beside the others."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from stitchwork.queue import streams
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.redis.async_client import AsyncRedisClient

WINDOW_MS: Final = 10_000
"""Time over which the work on an encoder is averaged."""
MAX_JOB_MS: Final = 1000.0
"""Expected time of a job of several inputs: a worker answers it as a whole, and what its caller no
longer waits for is computed to its end."""


class EncoderSample(NamedTuple):
    """The work on one encoder so far.

    Attributes:
        requirement: What its jobs require of a worker.
        pace: Milliseconds that a unit of cost takes; None if it is not known.
        work_ms: Milliseconds of all work on it.
    """

    requirement: ModelRequirement
    pace: float | None
    work_ms: int


class EncoderLoads:
    """The pace of each encoder, and the work on it in the last seconds."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[tuple[int, Mapping[str, EncoderSample]]]] = {}
        self._capacities: dict[str, tuple[Sequence[WorkerStatus], float]] = {}

    async def refresh(self, client: AsyncRedisClient, shard: ShardKeys) -> None:
        """Read the current state of the encoders of a shard.

        Args:
            client: A client of the shard's server.
            shard: Its keys.

        Raises:
            QueueUnavailableError: If the queue server is unavailable.
        """
        now_ms = await client.now_ms()
        (reply,) = await client.execute(("HGETALL", shard.encoders))
        encoders = list(streams.parse_encoders(reply))
        commands = [("HMGET", shard.pace(encoder.encoder), "ms", "work") for encoder in encoders]
        rows = await client.execute(*commands) if commands else []
        self.add(
            now_ms,
            {
                encoder.encoder: EncoderSample(
                    encoder.requirement, pace and float(pace), int(work or 0)
                )
                for encoder, (pace, work) in zip(encoders, rows, strict=True)
            },
            shard.number,
        )

    def add(self, now_ms: int, sample: Mapping[str, EncoderSample], shard: int = 0) -> None:
        """Add a sample of the encoders of a shard, taken at a time of its server."""
        samples = self._samples.setdefault(shard, deque())
        samples.append((now_ms, sample))
        while len(samples) > 2 and now_ms - samples[1][0] >= WINDOW_MS:
            samples.popleft()
        self._capacities.clear()

    def discard(self, shard: int) -> None:
        """Forget the samples of a shard whose server does not answer."""
        self._samples.pop(shard, None)
        self._capacities.clear()

    def max_job_cost(self, encoder: str) -> float:
        """The largest cost of a job of several inputs of an encoder."""
        for samples in self._samples.values():
            current = samples[-1][1].get(encoder)
            if current and current.pace:
                return MAX_JOB_MS / current.pace
        return float("inf")

    def capacity(
        self, encoder: str, requirement: ModelRequirement, workers: Sequence[WorkerStatus]
    ) -> float:
        """How many workers, without other work, would be as fast for an encoder as the live ones.

        Workers share their time among the encoders that have jobs. Of the others each takes what it
        took in the last seconds, but no more than an equal share.

        Args:
            encoder: Key of the encoder.
            requirement: What its jobs require of a worker.
            workers: The live workers.
        """
        known_workers, capacity = self._capacities.get(encoder, ((), 1.0))
        if known_workers is not workers:
            accepting = [worker for worker in workers if worker.takes(requirement)]
            others = [
                usage * _common_share(other, accepting, workers)
                for name, (other, usage) in self._usages().items()
                if name != encoder
            ]
            capacity = fair_share(max(1, len(accepting)), others)
            self._capacities[encoder] = workers, capacity
        return capacity

    def _usages(self) -> dict[str, tuple[ModelRequirement, float]]:
        """Requirement and workers in use of each encoder, over the window."""
        usages = {}
        for samples in self._samples.values():
            (first_ms, first), (last_ms, last) = samples[0], samples[-1]
            elapsed_ms = max(1, last_ms - first_ms)
            for name, sample in last.items() if len(samples) > 1 else ():
                before = first[name].work_ms if name in first else 0
                usages[name] = sample.requirement, max(0, sample.work_ms - before) / elapsed_ms
        return usages


def fair_share(capacity: float, demands: Sequence[float]) -> float:
    """What is left for one more of those who share a capacity, who takes what it can get.

    Args:
        capacity: What all share.
        demands: What each of the others takes, unless that is more than an equal share.
    """
    sharing = len(demands) + 1
    for demand in sorted(demands):
        if demand >= capacity / sharing:
            break
        capacity, sharing = capacity - demand, sharing - 1
    return capacity / sharing


def _common_share(
    requirement: ModelRequirement,
    accepting: Sequence[WorkerStatus],
    workers: Sequence[WorkerStatus],
) -> float:
    """The share of the workers for a model that are among these."""
    serving = [worker for worker in workers if worker.takes(requirement)]
    common = sum(worker.takes(requirement) for worker in accepting)
    return common / len(serving) if serving else 0.0
