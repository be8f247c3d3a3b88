"""What stands on the servers that all processes share, looked up when figures are asked for."""

import time
from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stitchwork.errors import UnavailableError
from stitchwork.queue import dead_letters, streams
from stitchwork.queue.producer import Producer
from stitchwork.registry.registry import Registry
from stitchwork.resources import Space
from stitchwork.telemetry.metrics import PREFIX

MOST_ENCODERS: Final = 32
"""Encoders that have series of their own: those whose queues have waited longest."""
MOST_SPACES: Final = 32
"""Spaces that have one: those whose anchors are conditioned worst."""
LOOKED_AT: Final = 1000
"""Spaces that are compared for that, in the order of their ids."""
PAGE: Final = 200
SPACES_SECONDS: Final = 10.0
"""How long what was read of them is shown again."""


class ServerMetricsCollector(Collector):
    """The queue and the registry as they are now; what is away is shown as down, and left out.

    Args:
        registry: What is registered.
        dispatcher: Knows the queue server, and who works for it.
    """

    def __init__(self, registry: Registry, dispatcher: Producer) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._worst: list[Space] = []
        self._look_again = float("-inf")

    def collect(self) -> Iterator[Metric]:
        """Ask both servers, each for no longer than one call may take."""
        up = GaugeMetricFamily(
            PREFIX + "redis_up", "1 if the server answers, else 0.", labels=["server"]
        )
        for name, look in (("queue", self._queued), ("registry", self._registered)):
            try:
                found = list(look())
            except UnavailableError:
                up.add_metric([name], 0)
                continue
            up.add_metric([name], 1)
            yield from found
        yield up

    def _queued(self) -> Iterator[Metric]:
        server = self._dispatcher.server
        waiting = streams.stream_backlogs(server)
        workers = self._dispatcher.workers()
        yield _gauge("workers", "Live workers.", len(workers))
        refused = {space for worker in workers for space in worker.refused}
        yield _gauge("refused_spaces", "Spaces that a worker refuses to serve.", len(refused))
        running = sum(backlog.running for backlog in waiting.values())
        held = sum(backlog.held for backlog in waiting.values())
        jobs = GaugeMetricFamily(PREFIX + "queue_jobs", "Queued jobs, by state.", labels=["state"])
        jobs.add_metric(["waiting"], held - running)
        jobs.add_metric(["running"], running)
        yield jobs
        ages = {name: (backlog.waited_ms or 0) / 1000 for name, backlog in waiting.items()}
        oldest = max(ages.values(), default=0.0)
        yield _gauge("queue_oldest_job_age_seconds", "Age of the oldest waiting job.", oldest)
        yield _gauge("queue_bytes", "Size of all queued jobs.", streams.queued_bytes(server))
        yield _gauge("dead_letters", "Stored dead letters.", dead_letters.count(server))
        by_encoder = ["encoder", "model"]
        depth = GaugeMetricFamily(
            PREFIX + "encoder_queue_jobs", "Waiting jobs, by encoder.", labels=by_encoder
        )
        age = GaugeMetricFamily(
            PREFIX + "encoder_queue_oldest_job_age_seconds",
            "Age of the oldest waiting job, by encoder.",
            labels=by_encoder,
        )
        for name in sorted(ages, key=lambda name: -ages[name])[:MOST_ENCODERS]:
            backlog = waiting[name]
            depth.add_metric([name, backlog.model], backlog.held - backlog.running)
            age.add_metric([name, backlog.model], ages[name])
        yield from (depth, age)

    def _registered(self) -> Iterator[Metric]:
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
        if time.monotonic() >= self._look_again:
            found = sorted(self._spaces(), key=lambda space: -space.condition_number)
            self._worst = found[:MOST_SPACES]
            self._look_again = time.monotonic() + SPACES_SECONDS
        return self._worst

    def _spaces(self) -> Iterator[Space]:
        cursor = None
        for _ in range(0, LOOKED_AT, PAGE):
            page = self._registry.spaces.page(PAGE, cursor)
            yield from (entry.record for entry in page.entries if entry.record)
            cursor = page.cursor
            if cursor is None:
                return


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, told, value=value)
