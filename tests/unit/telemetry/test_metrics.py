"""Metrics of one process: series, labels and the private parts of prometheus_client."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from stitchwork.telemetry import Metrics, Telemetry
from stitchwork.telemetry.metrics import (
    MAX_HEADS,
    PREFIX,
    RATIO_BUCKETS,
    ArrayHistogram,
    histogram_cells,
)
from tests.support.metric_samples import sample_value


def label_sets(metrics: Metrics, name: str) -> list[dict[str, str]]:
    """The labels of all series of this name, without the prefix."""
    return [
        dict(sample.labels)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == PREFIX + name
    ]


def test_histogram_cells_hold_the_values_that_are_exposed() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "A histogram.", registry=registry, buckets=(1.0, 2.0))
    cells = histogram_cells(histogram)
    assert list(cells.upper_bounds) == [1.0, 2.0, float("inf")]
    cells.buckets[0].inc(2)
    cells.buckets[2].inc(1)
    cells.sum.inc(7.5)
    assert registry.get_sample_value("h_bucket", {"le": "1.0"}) == 2
    assert registry.get_sample_value("h_bucket", {"le": "2.0"}) == 2
    assert registry.get_sample_value("h_bucket", {"le": "+Inf"}) == 3
    assert registry.get_sample_value("h_count") == 3
    assert registry.get_sample_value("h_sum") == 7.5


@given(st.lists(st.one_of(st.floats(-1, 2), st.sampled_from(RATIO_BUCKETS)), max_size=30))
def test_observe_many_equals_observing_one_by_one(values: list[float]) -> None:
    together, single = (
        ArrayHistogram("s", "A histogram.", registry=None, buckets=RATIO_BUCKETS) for _ in range(2)
    )
    together.observe_many(values)
    for value in values:
        single.observe(value)
    actual, expected = (
        {
            (sample.name, sample.labels.get("le")): sample.value
            for family in histogram.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        for histogram in (together, single)
    )
    assert len(expected) == len(RATIO_BUCKETS) + 3, "buckets, the infinite one, count and sum"
    assert actual == pytest.approx(expected, abs=1e-9)


def test_labels_are_bounded_whatever_clients_send() -> None:
    metrics = Metrics()
    for i in range(3 * MAX_HEADS):
        metrics.record_confidences(f"head-{i}", [0.5])
        metrics.record_response(f"BREW{i}", None, 404, None, 0.1)
    heads = {labels["head"] for labels in label_sets(metrics, "prediction_confidence_count")}
    assert len(heads) == MAX_HEADS + 1
    assert sample_value(metrics, "prediction_confidence_count", head="other") == 2 * MAX_HEADS
    expected = {"method": "other", "route": "unmatched", "status": "404"}
    assert label_sets(metrics, "requests_total") == [expected]


def test_initialized_series_are_zero() -> None:
    metrics = Metrics()
    metrics.initialize_series([("GET", "/spaces")], [(429, "queue-full")])
    labels = {"method": "GET", "route": "/spaces"}
    assert sample_value(metrics, "requests_total", **labels, status="200") == 0
    assert sample_value(metrics, "error_responses_total", status="429", code="queue-full") == 0


def test_uncovered_inputs_are_counted() -> None:
    metrics = Metrics()
    metrics.record_inputs("translate", np.array([True, False, True, False, False]))
    assert sample_value(metrics, "inputs_total", operation="translate") == 5
    assert sample_value(metrics, "uncovered_inputs_total", operation="translate") == 3


def test_a_step_that_raises_is_timed() -> None:
    telemetry = Telemetry()
    with pytest.raises(ZeroDivisionError), telemetry.step("embed"):
        _ = 1 / 0
    assert sample_value(telemetry.metrics, "step_duration_seconds_count", step="embed") == 1
