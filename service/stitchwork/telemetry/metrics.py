"""The figures of one process, as Prometheus counts them; their one home.

Seconds and bytes, `_total` for what only grows, and no label whose values a client could make up.
Each process has figures of its own and shows them where it is asked. The processes of one `serve`
answer on one address, so they keep theirs in files of one folder, where any of its APIs finds all.
"""

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

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

PREFIX: Final = "stitchwork_"
STEPS: Final = ("tokenise", "embed", "translate", "classify")
OPERATIONS: Final = ("translate", "classify", "embed", "stitch")
OUTCOMES: Final = ("done", "failed", "expired", "lost")
DEATHS: Final = ("corrupt", "delivered too often")
CACHES: Final = ("map", "inverse", "head")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED: Final = "unmatched"
OTHER: Final = "other"
MOST_HEADS: Final = 32
"""Heads that have a series of their own; what comes after them shares one."""

SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TENTHS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Cache(NamedTuple):
    """How often something was found, and how often it had to be made."""

    hit: Counter
    miss: Counter


class ArrayHistogram(Histogram):
    """A histogram that takes many values at a time."""

    def observe_many(self, found: ArrayLike) -> None:
        """Observe each of these numbers, at the cost of one."""
        array = np.asarray(found, np.float64)
        places = np.searchsorted(self._upper_bounds, array, side="left")
        for bucket, times in zip(self._buckets, np.bincount(places).tolist(), strict=False):
            if times:
                bucket.inc(times)
        self._sum.inc(float(array.sum()))


class Metrics:
    """What one process counts; series of known labels are there from the start, as zeros.

    Args:
        version: Of the service.
        shared: Folder and name under which this process keeps its figures beside those of others;
            None keeps them to itself. One process has one such place, for good.

    Attributes:
        registry: All of it, for Prometheus to show.
        requests_in_progress: Requests that this process answers at the moment.
        refusals: Answers that were errors, by status and code.
        cancelled: Jobs taken back from the queue because their callers had left.
        steps: Seconds that each of `STEPS` took, for all inputs at hand together.
        caches: How `CACHES` were used.
        unchecked: Requests that were let in although their rate could not be checked.
        corrupt_inverses: Cached inverses that failed their checksum.
        fused_bytes: Memory that fused maps hold.
        waits: Seconds from a job's admission until a worker has it.
        jobs: Jobs that were answered, by `OUTCOMES`.
        redeliveries: Jobs taken over from a worker that let go of them.
        dead: Jobs that were given up, by `DEATHS`.
        batch_jobs: Jobs that were worked on together.
        batch_inputs: Inputs in one forward pass.
        batch_fill: What part of a forward pass was not padding.
        batch_splits: Forward passes that did not fit the device and were split.
        models: Models that are loaded.
        model_bytes: Memory that they hold.
        model_loads: Models that were loaded, ever.
        model_evictions: Models that made room for others, or were refused.
    """

    def __init__(self, version: str = "", shared: Path | None = None) -> None:
        # The client would add when each series began, as one more series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._folder = shared.parent if shared else None
        if shared:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared.parent)
            # By name and not by process: who is started anew goes on where its predecessor died.
            values.ValueClass = values.MultiProcessValue(  # type: ignore[no-untyped-call]
                lambda: shared.name
            )
        else:
            ProcessCollector(registry=self.registry)
        # An Info would say it better; files of several processes cannot hold one.
        build = self._gauge("build_info", "1, by release and Python.", "version", "python")
        build.labels(version, platform.python_version()).set(1)

        self._routes: dict[tuple[str, str, int], tuple[Counter, ArrayHistogram]] = {}
        self._requests = self._counter(
            "requests", "Requests that were answered.", "method", "route", "status"
        )
        self._request_seconds = self._histogram(
            "request_duration_seconds",
            "Seconds until the answer.",
            SECONDS,
            "method",
            "route",
            "outcome",
        )
        self.requests_in_progress = self._gauge("requests_in_progress", "Requests under way.")
        self.refusals = self._counter(
            "error_responses", "Answers that were errors, by their code.", "status", "code"
        )

        self.unchecked_requests = self._counter(
            "rate_unchecked_requests",
            "Requests whose rate could not be checked, and which were let in.",
        )

        self._heads: set[str] = set()
        self._confidence = self._histogram(
            "confidence", "Confidence of predictions.", TENTHS, "head"
        )
        self._confidence.labels(OTHER)
        rows = self._counter("inputs", "Embeddings and raw inputs that were answered.", "operation")
        beyond = self._counter(
            "uncovered_inputs", "Those outside what the source's anchors cover.", "operation"
        )
        self._rows = {name: rows.labels(name) for name in OPERATIONS}
        self._uncovered = {name: beyond.labels(name) for name in OPERATIONS}
        steps = self._histogram(
            "step_duration_seconds", "Seconds of one step of the work.", SECONDS, "step"
        )
        self.steps = {name: steps.labels(name) for name in STEPS}

        lookups = self._counter("cache_lookups", "Look-ups in caches.", "cache", "result")
        self.caches = {
            name: Cache(lookups.labels(name, "hit"), lookups.labels(name, "miss"))
            for name in CACHES
        }
        self.corrupt_inverses = self._counter(
            "corrupt_inverses", "Cached inverses that failed their checksum."
        )
        self.map_cache_bytes = self._gauge("map_cache_bytes", "Memory of fused maps.")

        self.cancelled_jobs = self._counter(
            "cancelled_jobs", "Jobs taken back: their callers had left."
        )
        self.waits = self._histogram(
            "queue_wait_seconds", "Seconds from a job's admission to a worker.", SECONDS
        )
        jobs = self._counter("jobs", "Jobs that workers were done with.", "outcome")
        self.jobs = {name: jobs.labels(name) for name in OUTCOMES}
        self.redelivered_jobs = self._counter(
            "redelivered_jobs", "Jobs taken over from another worker."
        )
        dead = self._counter("dead_lettered_jobs", "Jobs that were given up.", "reason")
        self.dead_lettered_jobs = {name: dead.labels(name) for name in DEATHS}

        self.batch_jobs = self._histogram("batch_jobs", "Jobs worked on together.", SIZES)
        self.batch_inputs = self._histogram("batch_inputs", "Inputs of a forward pass.", SIZES)
        self.batch_fill = self._histogram(
            "batch_fill", "Part of a forward pass that is not padding.", TENTHS
        )
        self.batch_splits = self._counter(
            "batch_splits", "Forward passes that ran out of memory and were split."
        )
        self.models = self._gauge("models", "Models that are loaded.")
        self.model_bytes = self._gauge("model_bytes", "Memory of loaded models.")
        self.model_loads = self._counter("model_loads", "Models that were loaded.")
        self.model_evictions = self._counter("model_evictions", "Models that were let go of.")

    def combined_registry(self, *more: Collector) -> CollectorRegistry:
        """All there is to show: of this process or, where it shares a folder, of all in it.

        Args:
            more: What is looked up at this moment, and shown beside it.
        """
        shown = CollectorRegistry()
        if self._folder:
            multiprocess.MultiProcessCollector(shown, str(self._folder))  # type: ignore[no-untyped-call]
        else:
            shown.register(self.registry)
        for collector in more:
            shown.register(collector)
        return shown

    def initialize_series(
        self, routes: Iterable[tuple[str, str]], refusals: Iterable[tuple[int, str]]
    ) -> None:
        """Show these from the start, as zeros: methods with routes, and statuses with codes."""
        for method, route in routes:
            self._route(method, route, 200)
        for status, code in refusals:
            self.refusals.labels(str(status), code)

    def record_response(
        self, method: str, route: str | None, status: int, code: str | None, seconds: float
    ) -> None:
        """Count one answer.

        Args:
            method: Of the request.
            route: The template of its path; None where there is none.
            status: Of the answer; 0 where none was sent.
            code: Of the error, where it is one.
            seconds: How long it took.
        """
        known = method if method in METHODS else OTHER
        count, took = self._route(known, route or UNMATCHED, status)
        count.inc()
        took.observe(seconds)
        if status >= 400:
            self.refusals.labels(str(status), code or OTHER).inc()

    def record_inputs(self, operation: str, covered: NDArray[np.bool_]) -> None:
        """Count inputs of one of `OPERATIONS`: (n,), False for those the anchors do not cover."""
        self._rows[operation].inc(len(covered))
        self._uncovered[operation].inc(len(covered) - int(np.count_nonzero(covered)))

    def record_confidences(self, head: str, confidences: Sequence[float]) -> None:
        """Note how far the predictions of a head can be trusted, each in [0, 1]."""
        if head not in self._heads and len(self._heads) < MOST_HEADS:
            self._heads.add(head)
        known = head if head in self._heads else OTHER
        self._confidence.labels(known).observe_many(confidences)

    def _route(self, method: str, route: str, status: int) -> tuple[Counter, ArrayHistogram]:
        key = (method, route, status)
        found = self._routes.get(key)
        if found is None:
            outcome = f"{status // 100}xx" if status else "none"
            found = self._routes[key] = (
                self._requests.labels(method, route, str(status)),
                self._request_seconds.labels(method, route, outcome),
            )
        return found

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, told, labels, registry=self.registry)

    def _gauge(self, name: str, told: str, *labels: str) -> Gauge:
        # What a dead predecessor of the same name left in its file holds no longer.
        mode: Literal["max", "sum"] = "max" if labels else "sum"
        found = Gauge(PREFIX + name, told, labels, registry=self.registry, multiprocess_mode=mode)
        if not labels:
            found.set(0)
        return found

    def _histogram(
        self,
        name: str,
        told: str,
        buckets: Sequence[float],
        *labels: str,
    ) -> ArrayHistogram:
        return ArrayHistogram(PREFIX + name, told, labels, registry=self.registry, buckets=buckets)
