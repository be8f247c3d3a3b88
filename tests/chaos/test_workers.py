"""Workers that die, pause, hang, run out of memory or get a poison input."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from stitchwork.client import Floats, ServiceError, Stitchwork
from stitchwork.queue import dead_letters
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.shards import QueueShard
from stitchwork.supervisor import Plan, ServiceProcess, start
from stitchwork.telemetry.metrics import DeadLetterReason
from tests.support import cluster as clusters
from tests.support import faulty_model, machine
from tests.support.metric_samples import Scrape
from tests.support.servers import ServerBinary
from tests.support.waiting import result_of, wait_until

pytestmark = [pytest.mark.models, pytest.mark.drills]

LEASE, HANG, DEADLINE = 2.0, 4.0, 60.0
START = 120.0
"""Until a worker that died runs again, on a machine that is busy with something else."""
ANCHORS = 80
EMBED, ROUTE = "/embed/pixels", "/embed/{encoder}"
QUEUE_JOBS, ENOUGH = 24, 60
CALLER_JOBS = QUEUE_JOBS * 7 // 8
"""The share of one caller that is alone."""
SLOW_IMAGES, SLOW_TIMEOUT = 320, 3.0


def picture(seed: int) -> bytes:
    """A harmless image, different for each seed."""
    noise = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
    return png(Image.fromarray(noise))


def solid(colour: faulty_model.Colour) -> bytes:
    return png(Image.new("RGB", (32, 32), colour))


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Stage:
    """A service with two workers that run the faulty model, and the expected embeddings."""

    running: ServiceProcess
    client: Stitchwork
    http: httpx.Client
    folder: Path
    pictures: list[bytes]
    rows: Floats
    pool: ThreadPoolExecutor

    def call(self, *items: bytes, timeout: float = DEADLINE) -> httpx.Response:
        """Embed images in one request."""
        headers = {"X-Request-Timeout": str(timeout)}
        return embed(self.http, *items, headers=headers, timeout=timeout + 10)

    def later(self, *items: bytes, timeout: float = DEADLINE) -> Future[httpx.Response]:
        """The same in a thread."""
        return self.pool.submit(self.call, *items, timeout=timeout)

    def many(self, numbers: range) -> list[Future[httpx.Response]]:
        """One request for each of these pictures."""
        return [self.later(self.pictures[i]) for i in numbers]

    def right(self, answer: httpx.Response, i: int) -> bool:
        """Whether a response is the embedding of picture i, or a refusal."""
        if answer.status_code == 503:
            return "Retry-After" in answer.headers
        assert answer.status_code == 200, answer.text
        return bool(np.allclose(answer.json()["embeddings"], self.rows[i : i + 1], atol=1e-5))

    def waiting_worker(self) -> int:
        """The process whose model has begun with a `WAITS` image."""
        signals: list[Path] = []

        def has_begun() -> bool:
            signals[:] = self.folder.glob(faulty_model.WAITING)
            return bool(signals)

        wait_until("a worker begins", has_begun, START)
        signals[0].unlink()
        return int(signals[0].name.rpartition("-")[2])

    def workers(self) -> int:
        """Workers that are alive."""
        return int(self.http.get("/health/ready").json()["workers"])

    def settled(self) -> dict[str, int]:
        """The children's process ids, once both workers run and report themselves alive."""
        wait_until("both workers run", lambda: len(self.running.pids) >= 3, START)

        def both() -> bool:
            # Read each time: a worker that is about to die may be among them.
            children = self.running.pids.items()
            pids = {pid for name, pid in children if name.startswith("worker")}
            alive = self.http.get("/workers").json()["workers"]
            return pids <= {int(worker["worker"].split("-")[-2]) for worker in alive}

        wait_until("both workers are alive", both, START)
        return self.running.pids


@contextmanager
def staged(folder: Path, server_binary: ServerBinary, workers: int) -> Iterator[ServiceProcess]:
    """A service whose workers run the faulty model, and a space of its embeddings."""
    with clusters.Cluster(server_binary) as servers, _service(folder, servers, workers) as running:
        yield running


@contextmanager
def _service(folder: Path, servers: clusters.Cluster, workers: int) -> Iterator[ServiceProcess]:
    weights = faulty_model.write_weights(folder / "faulty_model.safetensors")
    settings = {
        "STITCHWORK_MODEL_ROOTS": str(folder),
        "STITCHWORK_LOG_LEVEL": "warning",
        "STITCHWORK_LEASE_SECONDS": str(LEASE),
        "STITCHWORK_FORWARD_TIMEOUT_SECONDS": str(HANG),
        "STITCHWORK_WORKER_TTL_SECONDS": "2",
        # Drills that end both workers wait for them.
        "STITCHWORK_WORKER_RESTART_SECONDS": str(START),
        "STITCHWORK_MAX_QUEUE_JOBS": str(QUEUE_JOBS),
        "STITCHWORK_OFFLINE": "true",
        "STITCHWORK_REQUEST_TIMEOUT_SECONDS": str(2 * DEADLINE),
        faulty_model.FOLDER: str(folder),
    }
    command = (sys.executable, "-m", "tests.support.faulty_model", "worker")
    data_dir = folder / "data"
    plan = Plan(
        port=0,
        data_dir=data_dir,
        workers=workers,
        env=settings,
        worker_command=command,
        redis_url=servers.registry.url,
        queue_url=servers.queue.url,
    )
    with start(plan) as running, Stitchwork(running.url) as client:
        pictures = [picture(i) for i in range(ANCHORS)]
        client.put_anchor_set("pictures", "image", items=pictures)
        spec = {"kind": "timm", "model": faulty_model.NAME, "weights": str(weights)}
        client.put_space("pixels", "pictures", encoder=spec)
        client.wait("spaces", "pixels")
        yield running


@pytest.fixture(scope="module")
def stage(server_binary: ServerBinary) -> Iterator[Stage]:
    with TemporaryDirectory(prefix="sw") as name, ThreadPoolExecutor(160) as pool:
        folder = Path(name)
        with (
            staged(folder, server_binary, 2) as running,
            Stitchwork(running.url) as client,
            many_calls(running.url) as http,
        ):
            pictures = [picture(i) for i in range(ANCHORS)]
            rows = client.embed("pixels", pictures)
            yield Stage(running, client, http, folder, pictures, rows, pool)


@pytest.fixture(autouse=True)
def both_workers_up(request: pytest.FixtureRequest) -> Iterator[None]:
    """Begin and end each drill on the shared service with both workers up."""
    if "stage" not in request.fixturenames:
        yield
        return
    stage: Stage = request.getfixturevalue("stage")
    stage.settled()
    yield
    patterns = (faulty_model.CONTINUE, faulty_model.SPARE, faulty_model.WAITING)
    for signal_file in (path for name in patterns for path in stage.folder.glob(name)):
        signal_file.unlink()
    stage.settled()


def test_worker_killed_during_a_batch_swaps_no_answers(stage: Stage) -> None:
    pending = stage.later(solid(faulty_model.WAITS))
    victim = stage.waiting_worker()
    others = stage.many(range(20))
    os.kill(victim, signal.SIGKILL)
    (stage.folder / faulty_model.CONTINUE).touch()
    assert result_of(pending, DEADLINE).status_code == 200, "redelivered to the other worker"
    for i, answer in enumerate(others):
        assert stage.right(result_of(answer, DEADLINE), i), f"row {i} belongs to another request"
    elapsed = wait_until("both are ready again", lambda: stage.workers() == 2, START)
    assert elapsed < machine.deadline(30)


def test_paused_worker_answers_nobody_a_second_time(stage: Stage) -> None:
    pending = stage.later(solid(faulty_model.WAITS))
    victim = stage.waiting_worker()
    (stage.folder / faulty_model.CONTINUE).touch()
    os.kill(victim, signal.SIGSTOP)
    try:
        answer = result_of(pending, DEADLINE)
        assert answer.status_code == 200, "claimed by the other worker"
        api = _replies(stage)
    finally:
        os.kill(victim, signal.SIGCONT)
    wait_until("it reports itself alive again", lambda: stage.workers() == 2, START)
    assert stage.right(stage.call(stage.pictures[3]), 3)
    assert _replies(stage) == api, "the paused worker left a reply"


def test_batch_out_of_memory_is_split_and_only_the_offender_fails(stage: Stage) -> None:
    before = {name: pid for name, pid in stage.running.pids.items() if name.startswith("worker")}
    crowded = stage.call(*stage.pictures[:5], solid(faulty_model.CROWDED), *stage.pictures[5:9])
    assert crowded.status_code == 200
    rows = np.delete(np.asarray(crowded.json()["embeddings"]), 5, axis=0)
    np.testing.assert_allclose(rows, stage.rows[:9], atol=1e-5)
    others = stage.many(range(12))
    offender = stage.call(stage.pictures[0], solid(faulty_model.STARVES)).json()
    assert (offender["status"], offender["code"]) == (413, "out-of-memory")
    assert offender["pointer"] == "/items/1"
    assert all(stage.right(result_of(answer, DEADLINE), i) for i, answer in enumerate(others))
    assert all(answer.result().status_code == 200 for answer in others)
    assert before.items() <= stage.running.pids.items(), "the workers live"


def test_poison_input_is_dead_lettered_alone(stage: Stage) -> None:
    others = stage.many(range(10))
    poison = stage.later(solid(faulty_model.KILLS), timeout=60)
    others += stage.many(range(10, 20))
    response = result_of(poison, 70)
    assert response.status_code == 503
    assert "workers failed at this job" in response.json()["detail"]
    assert all(stage.right(result_of(answer, DEADLINE), i) for i, answer in enumerate(others))
    assert all(answer.result().status_code == 200 for answer in others), "neighbours are answered"
    server = QueueShard(stage.running.queue_url or "", 5.0)
    (letter,) = dead_letters.list_all((server,))
    assert letter.reason == "max-deliveries"
    job, items = dead_letters.read((server,), letter.id)
    assert items == [solid(faulty_model.KILLS)]
    (facts,) = json.loads(_command(stage, "dead-letters", "list", "--json"))
    assert (facts["letter"], facts["model"], facts["inputs"]) == (letter.id, faulty_model.NAME, 1)
    summary = _command(stage, "dead-letters", "show", letter.id)
    assert "begins" not in summary, "inputs need --inputs"
    assert "PNG" in _command(stage, "dead-letters", "show", letter.id, "--inputs")
    (stage.folder / faulty_model.SPARE).touch()
    assert "succeeded with 1 rows" in _command(stage, "dead-letters", "requeue", letter.id)
    assert json.loads(_command(stage, "dead-letters", "list", "--json")) == []
    reason = DeadLetterReason(letter.reason)
    hopeless = dead_letters.add(server, job.stream, "0-1", job.pack([b"no image"]), reason)
    server.close()
    with pytest.raises(subprocess.CalledProcessError) as again:
        _command(stage, "dead-letters", "requeue", hopeless)
    assert "expected a file of JPEG, PNG, WEBP" in again.value.stderr
    for entry in json.loads(_command(stage, "dead-letters", "list", "--json")):
        _command(stage, "dead-letters", "drop", entry["letter"])
    assert json.loads(_command(stage, "dead-letters", "list", "--json")) == []
    stage.settled()
    assert len(json.loads(_command(stage, "status", "--json"))["workers"]) >= 2


@pytest.mark.slow
def test_device_call_that_never_returns_restarts_its_worker(stage: Stage) -> None:
    before = stage.running.pids
    hangs = stage.later(solid(faulty_model.HANGS), timeout=60)
    wait_until("it is being computed", lambda: _running(stage) > 0)
    others = stage.many(range(6))
    assert all(stage.right(result_of(answer, DEADLINE), i) for i, answer in enumerate(others))
    assert all(answer.result().status_code == 200 for answer in others)
    assert result_of(hangs, 70).status_code == 503
    changed = {name for name, pid in stage.settled().items() if before.get(name) != pid}
    assert changed, "a worker that hung was not started again"


def test_encoder_that_no_longer_yields_its_space_is_refused(stage: Stage) -> None:
    path = stage.folder / "drifts.safetensors"
    faulty_model.write_weights(path, 1.0)
    spec = {"kind": "timm", "model": faulty_model.NAME, "weights": str(path)}
    stage.client.put_space("drifts", "pictures", encoder=spec)
    stage.client.wait("spaces", "drifts")
    assert stage.client.embed("drifts", stage.pictures[:1]).shape == (1, 48)
    faulty_model.write_weights(path, 2.0)
    for pid in [pid for name, pid in stage.running.pids.items() if name.startswith("worker")]:
        os.kill(pid, signal.SIGKILL)
    stage.settled()
    with pytest.raises(ServiceError, match="no longer reproduces space drifts") as refused:
        stage.client.embed("drifts", stage.pictures[:1])
    assert (refused.value.status, refused.value.code) == (409, "encoder-mismatch")
    assert stage.right(stage.call(stage.pictures[0]), 0), "other spaces of the model still serve"

    def is_listed() -> bool:
        return "drifts" in stage.http.get("/health/ready").json()["refused"]

    wait_until("readiness lists it", is_listed)
    stage.client.delete("spaces", "drifts")


def test_large_call_to_a_slow_encoder_arrives_whole(stage: Stage) -> None:
    """It takes several times the timeout of a request, and hardly any image is computed twice."""
    stage.settled()
    items = [solid(faulty_model.SLOW)] * SLOW_IMAGES
    computed = faulty_model.computed(stage.folder)
    start = time.monotonic()
    with Stitchwork(stage.running.url, timeout=machine.deadline(SLOW_TIMEOUT)) as client:
        rows = client.embed("pixels", items)
    seconds = time.monotonic() - start
    computed = faulty_model.computed(stage.folder) - computed
    assert rows.shape == (SLOW_IMAGES, 48)
    assert np.allclose(rows, rows[0])
    of_the_models = SLOW_IMAGES * faulty_model.SLOW_SECONDS / 2
    assert of_the_models > 2 * SLOW_TIMEOUT
    logging.info("%d images took %.2f of the models' time", SLOW_IMAGES, seconds / of_the_models)
    assert computed <= 1.05 * SLOW_IMAGES, "work was thrown away"
    assert seconds < machine.deadline(2 * of_the_models)


def test_job_of_a_closed_connection_never_reaches_the_model(stage: Stage) -> None:
    pending = []
    for _ in range(2):
        pending.append(stage.later(solid(faulty_model.WAITS)))
        stage.waiting_worker()
    request = stage.http.build_request("POST", EMBED, files=parts(solid(faulty_model.KILLS)))
    with closing(HTTPConnection(request.url.host, request.url.port)) as connection:
        connection.request("POST", EMBED, request.read(), dict(request.headers))
        wait_until("its job waits", lambda: _waiting(stage) == 1)
    wait_until("its job is taken back", lambda: _waiting(stage) == 0)
    before = stage.running.pids
    (stage.folder / faulty_model.CONTINUE).touch()
    assert [result_of(answer, DEADLINE).status_code for answer in pending] == [200, 200]
    assert stage.right(stage.call(stage.pictures[0]), 0)
    assert stage.running.pids == before, "the image would have killed its worker"


def _command(stage: Stage, *arguments: str) -> str:
    urls = {
        "STITCHWORK_REDIS_URL": stage.running.redis_url or "",
        "STITCHWORK_QUEUE_URL": stage.running.queue_url or "",
    }
    command = [sys.executable, "-P", "-m", "stitchwork", *arguments]
    env = {**os.environ, **urls}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=True, timeout=machine.deadline(90)
    )
    return done.stdout


def _workers(stage: Stage) -> dict[str, object]:
    status: dict[str, object] = stage.http.get("/workers").json()
    return status


def _waiting(stage: Stage) -> int:
    return int(str(_workers(stage)["waiting"]))


def _running(stage: Stage) -> int:
    queues: list[dict[str, int]] = _workers(stage)["queues"]  # type: ignore[assignment]
    return sum(queue["running"] for queue in queues)


def _replies(stage: Stage) -> int:
    """Replies on the queue server that no API has read."""
    server = QueueShard(stage.running.queue_url or "", 5.0)
    try:
        keys = list(server.redis.scan_iter(ShardKeys().replies("*")))
        return sum(int(str(server.redis.llen(key))) for key in keys)
    finally:
        server.close()


def test_overload_is_refused_at_once_and_work_goes_on(stage: Stage) -> None:
    """By the service's clock, as clients compete with it for the machine's cores."""
    slow = [solid(faulty_model.SLOW)] * 2
    before_load, _ = goodput(stage.http, slow, callers=6)
    assert stage.call().is_client_error, "creates the series of refusals"
    before = Scrape(f"{stage.running.url}/metrics")
    under_load, codes = goodput(stage.http, slow, callers=3 * QUEUE_JOBS)
    after = Scrape(f"{stage.running.url}/metrics")
    assert codes.keys() == {200, 429}
    assert codes[429] > codes[200], "the load was too low"

    def mean(outcome: str) -> float:
        """Mean seconds of such responses under the load."""
        total, count = (
            after.sum(name, outcome=outcome, route=ROUTE)
            - before.sum(name, outcome=outcome, route=ROUTE)
            for name in ("request_duration_seconds_sum", "request_duration_seconds_count")
        )
        return total / count

    assert mean("4xx") < mean("2xx") / 2, "refusals waited for workers"
    # After the last refusal the API remembers for a moment that the queue is full.
    wait_until(
        "it takes work again", lambda: stage.call(stage.pictures[0]).status_code == 200, START
    )
    assert stage.right(stage.call(stage.pictures[0]), 0)
    # Goodput must not collapse. That it stays at 80% of its peak is for `python -m
    # tests.chaos.drill` to measure, on a machine without other work.
    after_load, _ = goodput(stage.http, slow, callers=6)
    assert under_load > min(before_load, after_load) / 2


def test_termination_under_load_answers_accepted_requests(
    server_binary: ServerBinary,
) -> None:
    with (
        TemporaryDirectory(prefix="sw") as name,
        staged(Path(name), server_binary, 1) as running,
        many_calls(running.url) as http,
        ThreadPoolExecutor(CALLER_JOBS) as pool,
    ):
        slow = [solid(faulty_model.SLOW)] * 2
        answers = [pool.submit(embed, http, *slow) for _ in range(CALLER_JOBS)]

        def arrived() -> bool:
            return _admitted(http) + sum(answer.done() for answer in answers) >= len(answers)

        wait_until("all have arrived", arrived)
        assert not all(answer.done() for answer in answers)
        assert running.stop() == 0, "a process had to be killed"
        codes = {result_of(answer, DEADLINE).status_code for answer in answers}
        assert codes == {200}, "accepted before the signal, answered after it"
        with pytest.raises(httpx.ConnectError):
            http.get("/health/live")


def goodput(http: httpx.Client, items: list[bytes], callers: int) -> tuple[float, Counter[int]]:
    """Results per second of so many threads until `ENOUGH` results, and counts of all statuses."""
    codes: Counter[int] = Counter()
    session = threading.Lock()

    def call() -> None:
        while codes[200] < ENOUGH:
            code = embed(http, *items).status_code
            with session:
                codes[code] += 1

    start_time = time.monotonic()
    with ThreadPoolExecutor(callers) as pool:
        for caller in [pool.submit(call) for _ in range(callers)]:
            caller.result()
    return codes[200] / (time.monotonic() - start_time), codes


def many_calls(url: str) -> httpx.Client:
    """A client for many threads, which keeps all its connections."""
    return httpx.Client(
        base_url=url,
        timeout=machine.deadline(2 * DEADLINE),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    )


def parts(*items: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("items", ("i.png", item, "image/png")) for item in items]


def embed(http: httpx.Client, *items: bytes, **options: Any) -> httpx.Response:
    return http.post(EMBED, files=parts(*items), **options)


def _admitted(http: httpx.Client) -> int:
    queues = http.get("/workers").json()["queues"]
    return sum(queue["waiting"] + queue["running"] for queue in queues)
