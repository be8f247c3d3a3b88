"""Metrics of the queue and the registry, read from their servers on each scrape."""

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stitchwork.errors import UnavailableError
from stitchwork.queue import dead_letters, streams
from stitchwork.queue.producer import Producer
from stitchwork.queue.shards import QueueShard, read_shards
from stitchwork.registry.registry import Registry
from stitchwork.resources import Space
from stitchwork.telemetry.metrics import PREFIX

MAX_ENCODERS: Final = 32
"""Encoders with series of their own: those whose oldest jobs have waited longest."""
MAX_SPACES: Final = 32
"""Spaces with a series of their own: those with the worst-conditioned anchors."""
MAX_COMPARED_SPACES: Final = 1000
"""Spaces among which the worst-conditioned ones are searched, in the order of their ids."""
PAGE_SIZE: Final = 200
SPACES_REFRESH_SECONDS: Final = 10.0
"""Time for which the worst-conditioned spaces are not read again."""


class ServerMetricsCollector(Collector):
    """Collects the state of the queue and the registry.

    A server that does not respond has `redis_up` 0, and its other metrics are missing.

    Args:
        registry: The registry.
        producer: The producer of jobs, which knows the queue server and the workers.
    """

    def __init__(self, registry: Registry, producer: Producer) -> None:
        self._registry = registry
        self._producer = producer
        self._worst_conditioned: list[Space] = []
        self._next_refresh = float("-inf")

    def collect(self) -> Iterator[Metric]:
        """Read both servers, with the timeouts of their clients."""
        up = GaugeMetricFamily(
            PREFIX + "redis_up",
            "1 if the server answers, else 0; if the queue has shards, `queue` is 1 if one of them "
            "answers, and `queue-q1` is that of one.",
            labels=["server"],
        )
        for name, collect in (("queue", self._queue), ("registry", self._resources)):
            try:
                metrics = list(collect())
            except UnavailableError:
                up.add_metric([name], 0)
                continue
            up.add_metric([name], 1)
            yield from metrics
        for shard in self._producer.shards if len(self._producer.shards) > 1 else ():
            up.add_metric([f"queue-{shard.tag}"], float(shard.is_answering))
        yield up

    def _queue(self) -> Iterator[Metric]:
        shards = self._producer.shards
        parts, _ = read_shards(shards, _read_shard)
        backlogs = streams.merge_backlogs(part.backlogs for part in parts)
        workers = self._producer.workers()
        yield _gauge("workers", "Live workers.", len(workers))
        refused = {space for worker in workers for space in worker.refused}
        yield _gauge("refused_spaces", "Spaces that a worker refuses to serve.", len(refused))
        running = sum(backlog.running for backlog in backlogs.values())
        queued = sum(backlog.jobs for backlog in backlogs.values())
        jobs = GaugeMetricFamily(PREFIX + "queue_jobs", "Queued jobs, by state.", labels=["state"])
        jobs.add_metric(["waiting"], queued - running)
        jobs.add_metric(["running"], running)
        yield jobs
        ages = {name: (backlog.waited_ms or 0) / 1000 for name, backlog in backlogs.items()}
        oldest = max(ages.values(), default=0.0)
        yield _gauge("queue_oldest_job_age_seconds", "Age of the oldest waiting job.", oldest)
        yield _gauge("queue_bytes", "Size of all queued jobs.", sum(part.bytes for part in parts))
        letters = sum(part.dead_letters for part in parts)
        yield _gauge("dead_letters", "Stored dead letters.", letters)
        by_encoder = ["encoder", "model"]
        depth = GaugeMetricFamily(
            PREFIX + "encoder_queue_jobs", "Waiting jobs, by encoder.", labels=by_encoder
        )
        age = GaugeMetricFamily(
            PREFIX + "encoder_queue_oldest_job_age_seconds",
            "Age of the oldest waiting job, by encoder.",
            labels=by_encoder,
        )
        for name in sorted(ages, key=lambda name: -ages[name])[:MAX_ENCODERS]:
            backlog = backlogs[name]
            depth.add_metric([name, backlog.model], backlog.jobs - backlog.running)
            age.add_metric([name, backlog.model], ages[name])
        yield from (depth, age)

    def _resources(self) -> Iterator[Metric]:
        registry = self._registry
        kinds = GaugeMetricFamily(
            PREFIX + "registered_resources", "Registered resources, by kind.", labels=["kind"]
        )
        for table in (registry.anchor_sets, registry.spaces, registry.heads):
            kinds.add_metric([table.kind], table.count())
        yield kinds
        worst = GaugeMetricFamily(
            PREFIX + "space_condition_number",
            "Condition number of a space's anchors; only the worst-conditioned spaces.",
            labels=["space"],
        )
        for space in self._ill_conditioned():
            worst.add_metric([space.id], space.condition_number)
        yield worst

    def _ill_conditioned(self) -> list[Space]:
        if time.monotonic() >= self._next_refresh:
            spaces = sorted(self._spaces(), key=lambda space: -space.condition_number)
            self._worst_conditioned = spaces[:MAX_SPACES]
            self._next_refresh = time.monotonic() + SPACES_REFRESH_SECONDS
        return self._worst_conditioned

    def _spaces(self) -> Iterator[Space]:
        cursor = None
        for _ in range(0, MAX_COMPARED_SPACES, PAGE_SIZE):
            page = self._registry.spaces.page(PAGE_SIZE, cursor)
            yield from (entry.record for entry in page.entries if entry.record)
            cursor = page.cursor
            if cursor is None:
                return


class _ShardState(NamedTuple):
    """What waits in a shard."""

    backlogs: dict[str, streams.StreamBacklog]
    bytes: int
    dead_letters: int


def _read_shard(shard: QueueShard) -> _ShardState:
    return _ShardState(
        streams.stream_backlogs(shard), streams.queued_bytes(shard), dead_letters.count(shard)
    )


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, description, value=value)
