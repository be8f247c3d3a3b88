"""The metrics of one process, in Prometheus's terms.

`api.server_metrics` adds those that are read from the servers when they are scraped.

Durations are in seconds and sizes in bytes, counters end in `_total`, and no label takes values
that a client can make up. Each process exposes its own metrics. The processes of one `serve`
share an address, so they write theirs to files in one folder, and any of its APIs exposes the sum.
"""

import os
import platform
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    multiprocess,
    values,
)
from prometheus_client.registry import Collector

from stitchwork.telemetry.metric_buffer import BufferedCounter, BufferedHistogram, MetricBuffer

PREFIX: Final = "stitchwork_"
STEPS: Final = ("preprocess", "embed", "translate", "classify")
OPERATIONS: Final = ("translate", "classify", "embed", "stitch")
OUTCOMES: Final = ("done", "failed", "expired", "lost")
CACHES: Final = ("record", "map", "inverse", "head")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED: Final = "unmatched"
OTHER: Final = "other"
MAX_HEADS: Final = 32
"""Heads with a series each; all later ones share the series `other`."""

SECONDS_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RATIO_BUCKETS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class DeadLetterReason(StrEnum):
    """Why a job was dead-lettered."""

    CORRUPT = "corrupt"
    INCOMPATIBLE_FORMAT = "incompatible-format"
    DELIVERED_TOO_OFTEN = "max-deliveries"


class CacheCounters(NamedTuple):
    """Hits and misses of one cache."""

    hit: BufferedCounter
    miss: BufferedCounter


class HistogramCells(NamedTuple):
    """The mutable values behind one series of a histogram.

    Attributes:
        upper_bounds: Ascending upper bounds of the buckets; the last is infinite.
        buckets: One counter for each bucket, not cumulative.
        sum: The sum of all observations.
    """

    upper_bounds: Sequence[float]
    buckets: Sequence[Any]
    sum: Any


def histogram_cells(histogram: Histogram) -> HistogramCells:
    """The private values of a histogram; prometheus_client has no public access to them."""
    return HistogramCells(histogram._upper_bounds, histogram._buckets, histogram._sum)


class ArrayHistogram(Histogram):
    """A histogram that observes an array of values at the cost of one."""

    def observe_many(self, observations: ArrayLike) -> None:
        """Observe each value of an array."""
        array = np.asarray(observations, np.float64)
        cells = histogram_cells(self)
        indices = np.searchsorted(cells.upper_bounds, array, side="left")
        for bucket, count in zip(cells.buckets, np.bincount(indices).tolist(), strict=False):
            if count:
                bucket.inc(count)
        cells.sum.inc(float(array.sum()))


class Metrics:
    """The metrics of one process; series with known labels exist from the start, as zeros.

    Args:
        version: Version of the service.
        shared: File-name prefix, in a folder shared with other processes, of the files that hold
            this process's metrics; None keeps them in memory. It cannot change within a process.

    Attributes:
        registry: All metrics of this process.
        buffer: Collects what is frequent; it is added up at the latest when metrics are scraped.
        requests_in_progress: HTTP requests that this process is handling.
        error_responses: Error responses, by status and code.
        cancelled_jobs: Jobs removed from the queue because their clients had disconnected.
        steps: Seconds of each of `STEPS`, for a whole batch.
        caches: Hits and misses of each of `CACHES`.
        ignored_fields: Fields in bodies of other protocols that were ignored.
        unchecked_requests: Requests admitted although their rate limit could not be checked.
        corrupt_inverses: Cached inverses that failed their checksum.
        map_cache_bytes: Memory of cached maps.
        queue_wait_seconds: Seconds from a job's admission until a worker receives it.
        jobs: Processed jobs, by `OUTCOMES`.
        redelivered_jobs: Jobs taken over from a worker whose lease on them had expired.
        dead_lettered_jobs: Dead-lettered jobs, by `DeadLetterReason`.
        batch_jobs: Jobs in one batch.
        batch_inputs: Inputs in one forward pass.
        batch_fill_ratio: Share of a forward pass that is not padding.
        batch_splits: Forward passes that ran out of memory and were split.
        loaded_models: Models that are loaded.
        loaded_model_bytes: Memory of the loaded models.
        model_loads: Models that were loaded.
        model_evictions: Models that were evicted.
    """

    def __init__(self, version: str = "", shared: Path | None = None) -> None:
        # The client would add the creation time of each series as one more series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.buffer = MetricBuffer()
        self.registry = CollectorRegistry()
        self._folder = shared.parent if shared else None
        if shared:
            _write_to_files(shared)
        else:
            ProcessCollector(registry=self.registry)
        # An Info would be the type for it, but files shared by several processes cannot hold one.
        build = self._gauge(
            "build_info", "Always 1; the labels name the version and Python.", "version", "python"
        )
        build.labels(version, platform.python_version()).set(1)
        self._define_request_metrics()
        self._define_inference_metrics()
        self._define_queue_metrics()
        self._define_model_metrics()

    def _define_request_metrics(self) -> None:
        self._routes: dict[tuple[str, str, int], tuple[BufferedCounter, BufferedHistogram]] = {}
        self._requests = self._counter("requests", "HTTP requests.", "method", "route", "status")
        self._request_seconds = self._histogram(
            "request_duration_seconds",
            "Duration of HTTP requests.",
            SECONDS_BUCKETS,
            "method",
            "route",
            "outcome",
        )
        self.requests_in_progress = self._gauge(
            "requests_in_progress", "HTTP requests in progress."
        )
        self.error_responses = self._counter(
            "error_responses", "Error responses, by status and error code.", "status", "code"
        )
        self.unchecked_requests = self._counter(
            "rate_limit_unchecked_requests",
            "Requests admitted although their rate limit could not be checked.",
        )
        self.ignored_fields = self._counter(
            "ignored_fields", "Fields in bodies under `/v1` and `/v2` that were ignored."
        )

    def _define_inference_metrics(self) -> None:
        self._heads: dict[str, BufferedHistogram] = {}
        self._confidence = self._histogram(
            "prediction_confidence", "Confidence of predictions, by head.", RATIO_BUCKETS, "head"
        )
        self._confidence.labels(OTHER)
        inputs = self._counter("inputs", "Embeddings and raw inputs processed.", "operation")
        uncovered = self._counter(
            "uncovered_inputs", "Inputs that the source's anchors do not cover.", "operation"
        )
        buffer = self.buffer
        self._inputs = {name: BufferedCounter(inputs.labels(name), buffer) for name in OPERATIONS}
        self._uncovered = {
            name: BufferedCounter(uncovered.labels(name), buffer) for name in OPERATIONS
        }
        steps = self._histogram(
            "step_duration_seconds", "Duration of one inference step.", SECONDS_BUCKETS, "step"
        )
        self.steps = {name: BufferedHistogram(steps.labels(name), buffer) for name in STEPS}
        lookups = self._counter("cache_lookups", "Cache lookups.", "cache", "result")
        self.caches = {
            name: CacheCounters(
                BufferedCounter(lookups.labels(name, "hit"), buffer),
                BufferedCounter(lookups.labels(name, "miss"), buffer),
            )
            for name in CACHES
        }
        self.corrupt_inverses = self._counter(
            "corrupt_inverses", "Cached inverses that failed their checksum."
        )
        self.map_cache_bytes = self._gauge("map_cache_bytes", "Memory of cached maps.")

    def _define_queue_metrics(self) -> None:
        self.cancelled_jobs = self._counter(
            "cancelled_jobs", "Jobs cancelled because their clients had disconnected."
        )
        waits = self._histogram(
            "queue_wait_seconds", "Time from a job's admission to a worker.", SECONDS_BUCKETS
        )
        self.queue_wait_seconds = BufferedHistogram(waits, self.buffer)
        jobs = self._counter("jobs", "Jobs processed by workers, by outcome.", "outcome")
        self.jobs = {name: BufferedCounter(jobs.labels(name), self.buffer) for name in OUTCOMES}
        self.redelivered_jobs = self._counter(
            "redelivered_jobs", "Jobs taken over from another worker."
        )
        dead_lettered = self._counter("dead_lettered_jobs", "Dead-lettered jobs.", "reason")
        self.dead_lettered_jobs = {
            reason: dead_lettered.labels(reason) for reason in DeadLetterReason
        }

    def _define_model_metrics(self) -> None:
        jobs = self._histogram("batch_jobs", "Jobs per batch.", SIZE_BUCKETS)
        inputs = self._histogram("batch_inputs", "Inputs per forward pass.", SIZE_BUCKETS)
        fill_ratio = self._histogram(
            "batch_fill_ratio", "Share of a forward pass that is not padding.", RATIO_BUCKETS
        )
        self.batch_jobs = BufferedHistogram(jobs, self.buffer)
        self.batch_inputs = BufferedHistogram(inputs, self.buffer)
        self.batch_fill_ratio = BufferedHistogram(fill_ratio, self.buffer)
        self.batch_splits = self._counter(
            "batch_splits", "Forward passes that ran out of memory and were split."
        )
        self.loaded_models = self._gauge("loaded_models", "Loaded models.")
        self.loaded_model_bytes = self._gauge("loaded_model_bytes", "Memory of loaded models.")
        self.model_loads = self._counter("model_loads", "Models loaded.")
        self.model_evictions = self._counter("model_evictions", "Models evicted from memory.")

    def combined_registry(self, *collectors: Collector) -> CollectorRegistry:
        """A registry of all metrics of this process or, where it shares a folder, of all in it.

        Args:
            collectors: Further collectors, which read their values when they are scraped.
        """
        self.buffer.flush()
        registry = CollectorRegistry()
        if self._folder:
            multiprocess.MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
        else:
            registry.register(self.registry)
        for collector in collectors:
            registry.register(collector)
        return registry

    def initialize_series(
        self, routes: Iterable[tuple[str, str]], errors: Iterable[tuple[int, str]]
    ) -> None:
        """Create the series of these methods and routes, and statuses and codes, as zeros."""
        for method, route in routes:
            self._route(method, route, 200)
        for status, code in errors:
            self.error_responses.labels(str(status), code)

    def record_response(
        self, method: str, route: str | None, status: int, code: str | None, seconds: float
    ) -> None:
        """Count one HTTP response.

        Args:
            method: Method of the request.
            route: Path template of the request; None if no route matched.
            status: Status of the response; 0 if none was sent.
            code: Error code, if the response is an error.
            seconds: Duration of the request.
        """
        label = method if method in METHODS else OTHER
        counter, duration = self._route(label, route or UNMATCHED, status)
        counter.inc()
        duration.observe(seconds)
        if status >= 400:
            self.error_responses.labels(str(status), code or OTHER).inc()

    def record_inputs(self, operation: str, covered: NDArray[np.bool_]) -> None:
        """Count inputs of one of `OPERATIONS`: (n,) bool, False where anchors do not cover one."""
        self._inputs[operation].inc(len(covered))
        uncovered = len(covered) - int(np.count_nonzero(covered))
        if uncovered:
            self._uncovered[operation].inc(uncovered)

    def record_confidences(self, head: str, confidences: Sequence[float]) -> None:
        """Observe the confidences of a head's predictions, each in [0, 1]."""
        histogram = self._heads.get(head)
        if histogram is None:
            label = head if len(self._heads) < MAX_HEADS else OTHER
            histogram = BufferedHistogram(self._confidence.labels(label), self.buffer)
            if label == head:
                self._heads[head] = histogram
        histogram.observe_many(confidences)

    def _route(
        self, method: str, route: str, status: int
    ) -> tuple[BufferedCounter, BufferedHistogram]:
        key = (method, route, status)
        series = self._routes.get(key)
        if series is None:
            outcome = f"{status // 100}xx" if status else "none"
            series = self._routes[key] = (
                BufferedCounter(self._requests.labels(method, route, str(status)), self.buffer),
                BufferedHistogram(
                    self._request_seconds.labels(method, route, outcome), self.buffer
                ),
            )
        return series

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, description, labels, registry=self.registry)

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        mode: Literal["max", "sum"] = "max" if labels else "sum"
        gauge = Gauge(
            PREFIX + name, description, labels, registry=self.registry, multiprocess_mode=mode
        )
        if not labels:
            # A process that died under the same name left a value in its file, which is now wrong.
            gauge.set(0)
        return gauge

    def _histogram(
        self, name: str, description: str, buckets: Sequence[float], *labels: str
    ) -> ArrayHistogram:
        return ArrayHistogram(
            PREFIX + name, description, labels, registry=self.registry, buckets=buckets
        )


def _write_to_files(shared: Path) -> None:
    """Let this process keep its metrics in files whose names begin with this path."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared.parent)
    # By name and not by process id: a restarted process continues where its predecessor died.
    values.ValueClass = values.MultiProcessValue(  # type: ignore[no-untyped-call]
        lambda: shared.name
    )
