"""What is seen of a service under load: every figure moves, a request is one trace, logs name it.

The tests share one service, and go in order: first nobody embeds, then a worker does.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest

from stitchwork.errors import QueueUnavailableError
from stitchwork.queue import streams
from stitchwork.queue.consumer import Consumer
from stitchwork.redis.client import RedisClient
from stitchwork.telemetry.metrics import STEPS
from tests.support.waiting import wait_until
from tests.system.telemetry.conftest import QUEUE_JOBS, WIDTH, Scene

pytestmark = pytest.mark.models

TEXTS = ["short", "a text that is somewhat longer than the first", "two words"]
LONG = ["many words " * 100] * 64


@contextmanager
def leaving_worker(scene: Scene) -> Iterator[None]:
    """A worker that takes the job in line, and ends without a word once this is left."""
    server = RedisClient(scene.stage.queue.url, 5.0, QueueUnavailableError)
    # It was never started, and so holds on to nothing.
    taken = Consumer(server, "leaving", items_per_batch=1).take()
    assert len(taken) == 1
    yield
    server.close()


def translate(scene: Scene, rows: Any) -> httpx.Response:
    return scene.send("POST", "/translate", {"source": "m", "target": "n", "embeddings": rows})


def parent(trace: str) -> dict[str, str]:
    """A header of a client that traces."""
    return {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}


def test_zeros_are_there_before_anything_happens(scene: Scene) -> None:
    seen = scene.figures()
    assert seen.sum("requests_total", route="/stitch/{encoder}/{head}", status="200") == 0
    for status, code in (("429", "queue-full"), ("503", "no-worker"), ("413", "input-too-large")):
        assert seen.sum("error_responses_total", status=status, code=code) == 0
    for step in STEPS:
        assert seen.sum("step_duration_seconds_count", step=step) == 0
    assert seen.sum("confidence_count") == 0
    assert seen.sum("redis_up", server="queue") == seen.sum("redis_up", server="registry") == 1


def test_what_an_api_does_alone_moves_its_figures(scene: Scene) -> None:
    rows = np.random.default_rng(1).normal(size=(20, WIDTH)).tolist()
    before = scene.figures()
    assert translate(scene, rows).status_code == 200
    assert translate(scene, rows).status_code == 200
    body = {"space": "m", "embeddings": rows}
    confidences = [
        told["confidence"] for told in scene.send("POST", "/classify/h", body).json()["predictions"]
    ]
    assert scene.send("POST", "/classify/h", body, **parent("a" * 32)).status_code == 200
    for wrong, status in ((translate(scene, [[1.0]]), 422), (scene.stitch("x"), 503)):
        assert wrong.status_code == status
    assert scene.stitch(*["x"] * 2000).status_code == 413
    assert scene.send("BREW", "/no/such/path").status_code in (400, 404)
    seen = scene.figures()

    def moved(name: str, **labels: str) -> float:
        known = [key for key in before.series if key[0].endswith(name)]
        return seen.sum(name, **labels) - (before.sum(name, **labels) if known else 0)

    assert moved("requests_total", route="/translate", status="200") == 2
    assert seen.sum("requests_total", route="/translate", status="422") == 1
    assert seen.sum("request_duration_seconds_count", route="/classify/{head}", outcome="2xx") == 2
    assert seen.sum("request_duration_seconds_sum", route="/classify/{head}", outcome="2xx") > 0
    assert seen.sum("error_responses_total", status="422", code="wrong-width") == 1
    assert moved("error_responses_total", status="503", code="no-worker") == 1
    assert moved("error_responses_total", status="413") == 1
    assert moved("step_duration_seconds_count", step="translate") == 4
    assert moved("step_duration_seconds_count", step="classify") == 2
    assert moved("inputs_total", operation="translate") == 40
    assert moved("uncovered_inputs_total") >= 0
    assert seen.sum("cache_lookups_total", cache="map", result="hit") >= 3
    assert seen.sum("cache_lookups_total", cache="map", result="miss") == 1
    assert moved("cache_lookups_total", cache="inverse") > 0
    assert seen.sum("cache_lookups_total", cache="head", result="hit") == 1
    assert seen.sum("map_cache_bytes") > 0
    assert seen.sum("confidence_count", head="h") == 2 * len(confidences)
    assert seen.sum("confidence_sum", head="h") == pytest.approx(2 * sum(confidences), rel=1e-5)
    assert {"m", "n"} <= {
        dict(labels)["space"]
        for name, labels in seen.series
        if name == "stitchwork_space_condition_number"
    }
    assert seen.sum("space_condition_number", space="m") == pytest.approx(
        scene.send("GET", "/spaces/m").json()["condition_number"]
    )
    assert seen.sum("registered_resources", kind="space") == 2
    names = {"POST /classify/{head}", "translate", "classify"}
    wait_until("its spans come", lambda: scene.collector.spans("a" * 32).keys() == names)


def test_one_stitch_is_one_trace_and_logs_name_it(scene: Scene) -> None:
    scene.hire()
    trace = "0af7651916cd43dd8448eb211c80319c"
    assert scene.stitch(*TEXTS, **parent(trace), **{"X-Request-ID": "seen-1"}).status_code == 200
    names = {"POST /stitch/{encoder}/{head}", "queue", "model", "preprocess", "embed"}
    names |= {"translate", "classify"}
    wait_until("all spans come", lambda: scene.collector.spans(trace).keys() >= names)
    spans = scene.collector.spans(trace)
    assert spans.keys() == names
    request = spans["POST /stitch/{encoder}/{head}"]
    assert request.parent in parent(trace)["traceparent"]
    assert request.service == "stitchwork-api"
    assert request.facts["http.response.status_code"] == 200
    assert request.facts["stitchwork.request_id"] == "seen-1"
    for name in ("queue", "model", "translate", "classify"):
        assert spans[name].parent == request.id, name
        assert spans[name].service == "stitchwork-worker"
    for name in ("preprocess", "embed"):
        assert spans[name].parent == spans["model"].id
    order = [spans[n] for n in ("queue", "preprocess", "embed", "translate", "classify")]
    for first, second in pairwise(order):
        assert first.began_ns <= first.ended_ns
        # The queue server's clock counts milliseconds.
        assert first.ended_ns <= second.began_ns + 2_000_000
    wait_until("the worker logs it", lambda: "batch" in scene.worker.log())
    wait_until("the API logs it", lambda: "seen-1" in scene.api.log())
    for process, message in ((scene.api, "request"), (scene.worker, "batch")):
        lines = [json.loads(line) for line in process.log().splitlines()]
        mine = [line for line in lines if line.get("request_id") == "seen-1"]
        assert message in {line["message"] for line in mine}
        assert {line["trace_id"] for line in mine} == {trace}
        assert not any(text in process.log() for text in TEXTS)


def test_a_trace_begins_here_where_the_client_names_none(scene: Scene) -> None:
    answer = scene.stitch("hello", **{"traceparent": "no such thing", "X-Request-ID": "seen-2"})
    assert answer.status_code == 200
    wait_until("it is logged", lambda: "seen-2" in scene.api.log())
    logged = [json.loads(line) for line in scene.api.log().splitlines() if "seen-2" in line]
    trace = logged[0]["trace_id"]
    wait_until("the trace comes", lambda: "queue" in scene.collector.spans(trace))
    wait_until("the request comes", lambda: len(scene.collector.spans(trace)) == 7)
    request = scene.collector.spans(trace)["POST /stitch/{encoder}/{head}"]
    assert request.parent == ""


def test_load_on_a_worker_moves_its_figures(scene: Scene) -> None:
    worker = scene.worker
    worker.pause()
    # A worker that was stopped while it waited for work has what comes next in its hand.
    caught = scene.pool.submit(scene.stitch, "the first")
    wait_until("it is queued", lambda: scene.figures().sum("queue_jobs") == 1)
    slow = scene.pool.submit(scene.stitch, *LONG)
    wait_until("both are queued", lambda: scene.figures().sum("queue_jobs") == 2)
    seen = scene.figures()
    assert seen.sum("queue_bytes") > 0
    waiting, running = (seen.sum("queue_jobs", state=state) for state in ("waiting", "running"))
    assert seen.sum("encoder_queue_jobs") == waiting >= 1
    age = seen.sum("queue_oldest_seconds")
    assert seen.sum("encoder_queue_oldest_seconds") == age
    wait_until("it grows older", lambda: scene.figures().sum("queue_oldest_seconds") > age)
    with leaving_worker(scene):
        wait_until(
            "another takes one",
            lambda: scene.figures().sum("queue_jobs", state="running") == running + 1,
        )
    late = scene.pool.submit(scene.stitch, "too late", **{"X-Request-Timeout": "1"})
    assert late.result().status_code == 504
    wait_until("it is taken back", lambda: scene.figures().sum("cancelled_jobs_total") == 1)
    crowd = [scene.pool.submit(scene.stitch, f"text {i}") for i in range(QUEUE_JOBS + 2)]
    wait_until(
        "one is refused", lambda: scene.figures().sum("error_responses_total", status="429") > 0
    )
    worker.resume()
    answers = [future.result() for future in (caught, slow, *crowd)]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert slow.result().status_code == 200
    seen = scene.worker_figures()
    assert seen.sum("redelivered_jobs_total") >= 1
    assert seen.sum("jobs_total", outcome="done") >= QUEUE_JOBS
    assert seen.sum("queue_wait_seconds_count") >= QUEUE_JOBS
    assert seen.sum("queue_wait_seconds_sum") > 0
    assert seen.sum("batch_jobs_count") >= 1
    assert seen.sum("batch_inputs_sum") >= len(LONG) + QUEUE_JOBS - 1
    assert 0 < seen.sum("batch_fill_sum") <= seen.sum("batch_fill_count")
    for step in STEPS:
        assert seen.sum("step_duration_seconds_count", step=step) >= 1
        assert seen.sum("step_duration_seconds_sum", step=step) > 0
    assert seen.sum("models") == seen.sum("model_loads_total") == 1
    assert seen.sum("model_bytes") > 1e7
    assert "process_resident_memory_bytes" in seen.families
    assert scene.figures().sum("inputs_total", operation="stitch") >= len(LONG)


def test_a_job_that_is_given_up_is_counted(scene: Scene) -> None:
    scene.worker.pause()
    lost = scene.pool.submit(scene.stitch, "bytes that rot", **{"X-Request-Timeout": "5"})

    def held() -> list[bytes]:
        keys: Any = scene.stage.jobs.keys(f"{streams.JOBS}:*:*-*")
        return list(keys)

    wait_until("it waits", held)
    scene.stage.jobs.set(held()[0], b"rotten")
    scene.worker.resume()
    buried = {"reason": "corrupt"}
    wait_until(
        "it is buried",
        lambda: scene.worker_figures().sum("dead_lettered_jobs_total", **buried) == 1,
    )
    assert scene.figures().sum("dead_letters") == 1
    assert lost.result().status_code == 504


def test_a_server_that_is_away_is_shown_as_such(scene: Scene) -> None:
    scene.stage.queue.pause()
    seen = scene.figures()
    scene.stage.queue.resume()
    assert seen.sum("redis_up", server="queue") == 0
    assert seen.sum("redis_up", server="registry") == 1
    assert "stitchwork_queue_jobs" not in seen.families
    wait_until("it is back", lambda: scene.figures().sum("redis_up", server="queue") == 1)
