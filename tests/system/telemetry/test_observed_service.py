"""Telemetry of a service under load: metrics change, a request is one trace, logs name it.

The tests share one service and run in order: first without a worker, then with one.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest

from stitchwork.queue.consumer import Consumer
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.shards import QueueShard
from stitchwork.telemetry.metrics import STEPS
from tests.support.waiting import wait_until
from tests.system.telemetry.conftest import QUEUE_JOBS, WIDTH, ObservedService

pytestmark = pytest.mark.models

TEXTS = ["short", "a text that is somewhat longer than the first", "two words"]
LONG_TEXTS = ["many words " * 8] * 8
"""They are one job; of a larger cost, on a slow machine, they would be more than the queue has."""


@contextmanager
def dying_worker(service: ObservedService) -> Iterator[None]:
    """A worker that takes the oldest job, and disappears without releasing it at exit."""
    server = QueueShard(service.cluster.queue.url, 5.0)
    # Without `start` it renews no lease.
    jobs = Consumer((server,), "dying", items_per_batch=1).take()
    assert len(jobs) == 1
    yield
    server.close()


def translate(service: ObservedService, rows: Any) -> httpx.Response:
    return service.send("POST", "/translate", {"source": "m", "target": "n", "embeddings": rows})


def traceparent(trace: str) -> dict[str, str]:
    """The header of a client that traces its requests."""
    return {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}


def test_series_are_zero_before_the_first_request(service: ObservedService) -> None:
    scrape = service.api_metrics()
    assert scrape.sum("requests_total", route="/stitch/{encoder}/{head}", status="200") == 0
    for status, code in (("429", "queue-full"), ("503", "no-worker"), ("413", "input-too-large")):
        assert scrape.sum("error_responses_total", status=status, code=code) == 0
    for step in STEPS:
        assert scrape.sum("step_duration_seconds_count", step=step) == 0
    assert scrape.sum("prediction_confidence_count") == 0
    assert scrape.sum("redis_up", server="queue") == scrape.sum("redis_up", server="registry") == 1


def test_requests_without_a_worker_change_the_metrics_of_the_api(service: ObservedService) -> None:
    rows = np.random.default_rng(1).normal(size=(20, WIDTH)).tolist()
    before = service.api_metrics()
    translations = [translate(service, rows) for _ in range(2)]
    assert [response.status_code for response in translations] == [200, 200]
    uncovered = sum(len(response.json()["uncovered"]) for response in translations)
    body = {"space": "m", "embeddings": rows}
    confidences = [
        prediction["confidence"]
        for prediction in service.send("POST", "/classify/h", body).json()["predictions"]
    ]
    assert service.send("POST", "/classify/h", body, **traceparent("a" * 32)).status_code == 200
    for response, status in ((translate(service, [[1.0]]), 422), (service.stitch("x"), 503)):
        assert response.status_code == status
    assert service.stitch(*["x"] * 3000).status_code == 413
    assert service.send("BREW", "/no/such/path").status_code == 400
    scrape = service.api_metrics()

    def increase(name: str, **labels: str) -> float:
        series = [key for key in before.series if key[0].endswith(name)]
        return scrape.sum(name, **labels) - (before.sum(name, **labels) if series else 0)

    assert increase("requests_total", route="/translate", status="200") == 2
    assert scrape.sum("requests_total", route="/translate", status="422") == 1
    assert (
        scrape.sum("request_duration_seconds_count", route="/classify/{head}", outcome="2xx") == 2
    )
    assert scrape.sum("request_duration_seconds_sum", route="/classify/{head}", outcome="2xx") > 0
    assert scrape.sum("error_responses_total", status="422", code="wrong-width") == 1
    assert increase("error_responses_total", status="503", code="no-worker") == 1
    assert increase("error_responses_total", status="413") == 1
    assert increase("step_duration_seconds_count", step="translate") == 4
    assert increase("step_duration_seconds_count", step="classify") == 2
    assert increase("inputs_total", operation="translate") == 40
    assert increase("uncovered_inputs_total", operation="translate") == uncovered
    assert scrape.sum("cache_lookups_total", cache="map", result="hit") >= 3
    assert scrape.sum("cache_lookups_total", cache="map", result="miss") == 1
    assert increase("cache_lookups_total", cache="inverse") > 0
    assert scrape.sum("cache_lookups_total", cache="head", result="hit") == 1
    assert scrape.sum("map_cache_bytes") > 0
    assert scrape.sum("prediction_confidence_count", head="h") == 2 * len(confidences)
    assert scrape.sum("prediction_confidence_sum", head="h") == pytest.approx(
        2 * sum(confidences), rel=1e-5
    )
    assert {"m", "n"} <= {
        dict(labels)["space"]
        for name, labels in scrape.series
        if name == "stitchwork_space_condition_number"
    }
    assert scrape.sum("space_condition_number", space="m") == pytest.approx(
        service.send("GET", "/spaces/m").json()["condition_number"]
    )
    assert scrape.sum("registered_resources", kind="space") == 2
    names = {"POST /classify/{head}", "translate", "classify"}
    wait_until("the spans arrive", lambda: service.collector.spans("a" * 32).keys() == names)


def test_a_stitch_request_is_one_trace_that_the_logs_name(service: ObservedService) -> None:
    service.start_worker()
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = traceparent(trace) | {"X-Request-ID": "request-1"}
    response = service.stitch(*TEXTS, **headers)
    assert response.status_code == 200, response.text + service.worker.log()
    names = {"POST /stitch/{encoder}/{head}", "queue", "model", "preprocess", "embed"}
    names |= {"translate", "classify"}
    wait_until("all spans arrive", lambda: service.collector.spans(trace).keys() >= names)
    spans = service.collector.spans(trace)
    assert spans.keys() == names
    request = spans["POST /stitch/{encoder}/{head}"]
    assert request.parent in traceparent(trace)["traceparent"]
    assert request.service == "stitchwork-api"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["stitchwork.request_id"] == "request-1"
    for name in ("queue", "model", "translate", "classify"):
        assert spans[name].parent == request.id, name
        assert spans[name].service == "stitchwork-worker"
    for name in ("preprocess", "embed"):
        assert spans[name].parent == spans["model"].id
    order = [spans[n] for n in ("queue", "preprocess", "embed", "translate", "classify")]
    for first, second in pairwise(order):
        assert first.start_ns <= first.end_ns
        # The clock of the queue server has a resolution of one millisecond.
        assert first.end_ns <= second.start_ns + 2_000_000
    wait_until("the worker logs it", lambda: "batch completed" in service.worker.log())
    wait_until("the API logs it", lambda: "request-1" in service.api.log())
    for process, event in (
        (service.api, "request completed"),
        (service.worker, "batch completed"),
    ):
        lines = [json.loads(line) for line in process.log().splitlines()]
        own = [line for line in lines if line.get("request_id") == "request-1"]
        assert event in {line["message"] for line in own}
        assert {line["trace_id"] for line in own} == {trace}
        assert not any(text in process.log() for text in TEXTS)


def test_a_request_with_an_invalid_traceparent_starts_a_trace(service: ObservedService) -> None:
    response = service.stitch(
        "hello", **{"traceparent": "no such thing", "X-Request-ID": "request-2"}
    )
    assert response.status_code == 200
    wait_until("the request is logged", lambda: "request-2" in service.api.log())
    logged = [json.loads(line) for line in service.api.log().splitlines() if "request-2" in line]
    trace = logged[0]["trace_id"]
    wait_until("the trace arrives", lambda: "queue" in service.collector.spans(trace))
    wait_until("all spans arrive", lambda: len(service.collector.spans(trace)) == 7)
    request = service.collector.spans(trace)["POST /stitch/{encoder}/{head}"]
    assert request.parent == ""


def test_load_changes_the_metrics_of_queue_and_worker(service: ObservedService) -> None:
    worker = service.worker
    worker.pause()
    # A worker that is paused while it waits for jobs still receives the next one.
    first = service.pool.submit(service.stitch, "the first")
    wait_until("the job is queued", lambda: service.api_metrics().sum("queue_jobs") == 1)
    # Before the queue may be full.
    with (
        httpx.Client(base_url=service.api.url, timeout=1.0) as http,
        pytest.raises(httpx.ReadTimeout),
    ):
        http.post("/stitch/m/h", json={"items": ["of a client that leaves"]})
    wait_until(
        "its job is cancelled", lambda: service.api_metrics().sum("cancelled_jobs_total") == 1
    )
    slow = service.pool.submit(service.stitch, *LONG_TEXTS)
    # Where the encoder is slow, as on a busy machine, the request is more than one job.
    wait_until("both are queued", lambda: service.api_metrics().sum("queue_jobs") >= 2)
    scrape = service.api_metrics()
    assert scrape.sum("queue_bytes") > 0
    waiting, running = (scrape.sum("queue_jobs", state=state) for state in ("waiting", "running"))
    assert scrape.sum("encoder_queue_jobs") == waiting >= 1
    age = scrape.sum("queue_oldest_job_age_seconds")
    assert scrape.sum("encoder_queue_oldest_job_age_seconds") == age
    wait_until(
        "the job grows older",
        lambda: service.api_metrics().sum("queue_oldest_job_age_seconds") > age,
    )
    with dying_worker(service):
        wait_until(
            "the other worker takes a job",
            lambda: service.api_metrics().sum("queue_jobs", state="running") == running + 1,
        )
    burst = [service.pool.submit(service.stitch, f"text {i}") for i in range(QUEUE_JOBS + 2)]
    wait_until(
        "a request is refused",
        lambda: service.api_metrics().sum("error_responses_total", status="429") > 0,
    )
    worker.resume()
    responses = [future.result() for future in (first, slow, *burst)]
    assert {response.status_code for response in responses} == {200, 429}
    assert slow.result().status_code == 200
    scrape = service.worker_metrics()
    assert scrape.sum("redelivered_jobs_total") >= 1
    assert scrape.sum("jobs_total", outcome="done") >= QUEUE_JOBS
    assert scrape.sum("queue_wait_seconds_count") >= QUEUE_JOBS
    assert scrape.sum("queue_wait_seconds_sum") > 0
    assert scrape.sum("batch_jobs_count") >= 1
    assert scrape.sum("batch_inputs_sum") >= len(LONG_TEXTS) + QUEUE_JOBS - 1
    assert 0 < scrape.sum("batch_fill_ratio_sum") <= scrape.sum("batch_fill_ratio_count")
    for step in STEPS:
        assert scrape.sum("step_duration_seconds_count", step=step) >= 1
        assert scrape.sum("step_duration_seconds_sum", step=step) > 0
    assert scrape.sum("loaded_models") == scrape.sum("model_loads_total") == 1
    assert scrape.sum("loaded_model_bytes") > 1e7
    assert "process_resident_memory_bytes" in scrape.families
    assert service.api_metrics().sum("inputs_total", operation="stitch") >= len(LONG_TEXTS)


def test_a_dead_lettered_job_is_counted(service: ObservedService) -> None:
    service.worker.pause()
    lost = service.pool.submit(
        service.stitch, "corrupt bytes " * 4_000, **{"X-Request-Timeout": "5"}
    )

    def jobs() -> list[bytes]:
        keys: Any = service.cluster.jobs.keys(ShardKeys().payload("*"))
        return list(keys)

    wait_until("the job waits", jobs)
    service.cluster.jobs.set(jobs()[0], b"corrupt")
    service.worker.resume()
    wait_until(
        "the job is dead-lettered",
        lambda: service.worker_metrics().sum("dead_lettered_jobs_total", reason="corrupt") == 1,
    )
    assert service.api_metrics().sum("dead_letters") == 1
    assert lost.result().status_code == 504


def test_an_unreachable_server_is_reported_as_down(service: ObservedService) -> None:
    service.cluster.queue.pause()
    scrape = service.api_metrics()
    service.cluster.queue.resume()
    assert scrape.sum("redis_up", server="queue") == 0
    assert scrape.sum("redis_up", server="registry") == 1
    assert "stitchwork_queue_jobs" not in scrape.families
    wait_until(
        "the server answers again",
        lambda: service.api_metrics().sum("redis_up", server="queue") == 1,
    )
