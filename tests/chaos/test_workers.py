"""Workers that die, pause, hang, run out of memory or meet a poison."""

import json
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
from stitchwork.errors import QueueUnavailableError
from stitchwork.queue import dead_letters
from stitchwork.redis.client import RedisClient
from stitchwork.supervisor import Plan, ServiceProcess, start
from tests.support import cluster as clusters
from tests.support import faulty_model
from tests.support.metric_samples import Scrape
from tests.support.servers import ServerBinary
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.models, pytest.mark.drills]

LEASE, HANG, DEADLINE = 2.0, 4.0, 60.0
START = 120.0
"""Until a worker that died is there again, on a machine that is busy with something else."""
ANCHORS = 80
EMBED, ROUTE = "/embed/pixels", "/embed/{encoder}"
QUEUE_JOBS, ENOUGH = 24, 60


def picture(seed: int) -> bytes:
    """A harmless image, unlike any other."""
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
    """A service with two workers that know the saboteur, and the right answers."""

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
        """The same from a thread."""
        return self.pool.submit(self.call, *items, timeout=timeout)

    def many(self, numbers: range) -> list[Future[httpx.Response]]:
        """One request for each of the pictures."""
        return [self.later(self.pictures[i]) for i in numbers]

    def right(self, answer: httpx.Response, i: int) -> bool:
        """Whether an answer is the embedding of picture i, or an honest refusal."""
        if answer.status_code == 503:
            return "Retry-After" in answer.headers
        assert answer.status_code == 200, answer.text
        return bool(np.allclose(answer.json()["embeddings"], self.rows[i : i + 1], atol=1e-5))

    def waiting_worker(self) -> int:
        """The process whose model has begun with an image that waits."""
        found: list[Path] = []

        def seen() -> bool:
            found[:] = self.folder.glob("waits-*")
            return bool(found)

        wait_until("a worker begins", seen, START)
        found[0].unlink()
        return int(found[0].name.removeprefix("waits-"))

    def workers(self) -> int:
        """Workers that are alive."""
        return int(self.http.get("/health/ready").json()["workers"])

    def settled(self) -> dict[str, int]:
        """The children's processes, once both workers are up and say so."""
        wait_until("both workers run", lambda: len(self.running.pids) >= 3, START)

        def both() -> bool:
            # A worker that is just dying may still be among them, so they are read each time.
            pids = self.running.pids.items()
            names = {pid for name, pid in pids if name.startswith("worker")}
            told = self.http.get("/workers").json()["workers"]
            return names <= {int(worker["worker"].split("-")[-2]) for worker in told}

        wait_until("both workers are alive", both, START)
        return self.running.pids


@contextmanager
def staged(folder: Path, server_binary: ServerBinary, workers: int) -> Iterator[ServiceProcess]:
    """A service with workers that know the saboteur, and a space of its embeddings."""
    with clusters.Cluster(server_binary) as servers, _service(folder, servers, workers) as running:
        yield running


@contextmanager
def _service(folder: Path, servers: clusters.Cluster, workers: int) -> Iterator[ServiceProcess]:
    weights = faulty_model.write_weights(folder / "saboteur.safetensors")
    given = {
        "STITCHWORK_MODEL_ROOTS": str(folder),
        "STITCHWORK_LOG_LEVEL": "warning",
        "STITCHWORK_LEASE_SECONDS": str(LEASE),
        "STITCHWORK_FORWARD_TIMEOUT_SECONDS": str(HANG),
        "STITCHWORK_WORKER_TTL_SECONDS": "2",
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
        env=given,
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
def calm(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each drill on the shared stage begins and ends with both workers up."""
    if "stage" not in request.fixturenames:
        yield
        return
    stage: Stage = request.getfixturevalue("stage")
    stage.settled()
    yield
    told = (faulty_model.GO, faulty_model.MERCY, "waits-*")
    for left in (path for name in told for path in stage.folder.glob(name)):
        left.unlink()
    stage.settled()


def test_worker_killed_during_a_batch_swaps_no_answers(stage: Stage) -> None:
    held = stage.later(solid(faulty_model.WAITS))
    victim = stage.waiting_worker()
    others = stage.many(range(20))
    os.kill(victim, signal.SIGKILL)
    (stage.folder / faulty_model.GO).touch()
    assert held.result(DEADLINE + 10).status_code == 200, "redelivered to the other worker"
    for i, answer in enumerate(others):
        assert stage.right(answer.result(DEADLINE + 10), i), f"row {i} is another's"
    took = wait_until("both are ready again", lambda: stage.workers() == 2, START)
    assert took < 30


def test_paused_worker_answers_nobody_a_second_time(stage: Stage) -> None:
    held = stage.later(solid(faulty_model.WAITS))
    victim = stage.waiting_worker()
    (stage.folder / faulty_model.GO).touch()
    os.kill(victim, signal.SIGSTOP)
    try:
        answer = held.result(DEADLINE)
        assert answer.status_code == 200, "claimed by the other worker"
        api = _replies(stage)
    finally:
        os.kill(victim, signal.SIGCONT)
    wait_until("it is heard of again", lambda: stage.workers() == 2, START)
    assert stage.right(stage.call(stage.pictures[3]), 3)
    assert _replies(stage) == api, "no reply was left over by the one that woke up"


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
    assert all(stage.right(answer.result(DEADLINE), i) for i, answer in enumerate(others))
    assert all(answer.result().status_code == 200 for answer in others)
    assert before.items() <= stage.running.pids.items(), "the workers live"


def test_poison_input_is_dead_lettered_alone(stage: Stage) -> None:
    others = stage.many(range(10))
    poison = stage.later(solid(faulty_model.KILLS), timeout=60)
    others += stage.many(range(10, 20))
    told = poison.result(70)
    assert told.status_code == 503
    assert "workers failed at this job" in told.json()["detail"]
    assert all(stage.right(answer.result(DEADLINE + 10), i) for i, answer in enumerate(others))
    assert all(answer.result().status_code == 200 for answer in others), "neighbours are answered"
    server = RedisClient(stage.running.queue_url or "", 5.0, QueueUnavailableError)
    (letter,) = dead_letters.list_all(server)
    assert letter.reason == "max-deliveries"
    job, items = dead_letters.read(server, letter.id)
    assert items == [solid(faulty_model.KILLS)]
    (facts,) = json.loads(_command(stage, "dead-letters", "list", "--json"))
    assert (facts["letter"], facts["model"], facts["inputs"]) == (letter.id, faulty_model.NAME, 1)
    shown = _command(stage, "dead-letters", "show", letter.id)
    assert "begins" not in shown, "inputs are shown only where asked for"
    assert "PNG" in _command(stage, "dead-letters", "show", letter.id, "--inputs")
    (stage.folder / faulty_model.MERCY).touch()
    assert "succeeded with 1 rows" in _command(stage, "dead-letters", "requeue", letter.id)
    assert json.loads(_command(stage, "dead-letters", "list", "--json")) == []
    hopeless = dead_letters.add(server, job.stream, "0-1", job.pack([b"no image"]), letter.reason)
    server.close()
    with pytest.raises(subprocess.CalledProcessError) as again:
        _command(stage, "dead-letters", "requeue", hopeless)
    assert "expected a file of JPEG, PNG, WEBP" in again.value.stderr
    for kept in json.loads(_command(stage, "dead-letters", "list", "--json")):
        _command(stage, "dead-letters", "drop", kept["letter"])
    assert json.loads(_command(stage, "dead-letters", "list", "--json")) == []
    stage.settled()
    assert len(json.loads(_command(stage, "status", "--json"))["workers"]) >= 2
    assert _command(stage, "status", "--here")


@pytest.mark.slow
def test_device_call_that_never_returns_restarts_its_worker(stage: Stage) -> None:
    before = stage.running.pids
    hangs = stage.later(solid(faulty_model.HANGS), timeout=60)
    wait_until("it is being computed", lambda: _running(stage) > 0)
    others = stage.many(range(6))
    assert all(stage.right(answer.result(DEADLINE + 10), i) for i, answer in enumerate(others))
    assert all(answer.result().status_code == 200 for answer in others)
    assert hangs.result(70).status_code == 503
    changed = {name for name, pid in stage.settled().items() if before.get(name) != pid}
    assert changed, "a worker that hung was started again"


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

    def shown() -> bool:
        return "drifts" in stage.http.get("/health/ready").json()["refused"]

    wait_until("readiness shows it", shown)
    stage.client.delete("spaces", "drifts")


def test_job_of_a_closed_connection_never_reaches_the_model(stage: Stage) -> None:
    held = []
    for _ in range(2):
        held.append(stage.later(solid(faulty_model.WAITS)))
        stage.waiting_worker()
    asked = stage.http.build_request("POST", EMBED, files=parts(solid(faulty_model.KILLS)))
    with closing(HTTPConnection(asked.url.host, asked.url.port)) as leaves:
        leaves.request("POST", EMBED, asked.read(), dict(asked.headers))
        wait_until("its job waits", lambda: _waiting(stage) == 1)
    wait_until("its job is taken back", lambda: _waiting(stage) == 0)
    before = stage.running.pids
    (stage.folder / faulty_model.GO).touch()
    assert [answer.result(DEADLINE).status_code for answer in held] == [200, 200]
    assert stage.right(stage.call(stage.pictures[0]), 0)
    assert stage.running.pids == before, "the image would have killed its worker"


def _command(stage: Stage, *arguments: str) -> str:
    urls = {
        "STITCHWORK_REDIS_URL": stage.running.redis_url or "",
        "STITCHWORK_QUEUE_URL": stage.running.queue_url or "",
    }
    command = [sys.executable, "-P", "-m", "stitchwork", *arguments]
    env = {**os.environ, **urls}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=90)
    return done.stdout


def _workers(stage: Stage) -> dict[str, object]:
    found: dict[str, object] = stage.http.get("/workers").json()
    return found


def _waiting(stage: Stage) -> int:
    return int(str(_workers(stage)["waiting"]))


def _running(stage: Stage) -> int:
    queues: list[dict[str, int]] = _workers(stage)["queues"]  # type: ignore[assignment]
    return sum(queue["running"] for queue in queues)


def _replies(stage: Stage) -> int:
    """Replies that lie on the queue server and that no API has read."""
    server = RedisClient(stage.running.queue_url or "", 5.0, QueueUnavailableError)
    try:
        keys = list(server.redis.scan_iter("stitchwork:replies:*"))
        return sum(int(str(server.redis.llen(key))) for key in keys)
    finally:
        server.close()


def test_overload_is_refused_at_once_and_work_goes_on(stage: Stage) -> None:
    """Judged by the service's own clock: its callers compete with it for the machine's cores."""
    slow = [solid(faulty_model.SLOW)] * 2
    calm, _ = goodput(stage.http, slow, callers=6)
    assert stage.call().is_client_error, "so that there is a figure to begin with"
    before = Scrape(f"{stage.running.url}/metrics")
    under_load, codes = goodput(stage.http, slow, callers=3 * QUEUE_JOBS)
    seen = Scrape(f"{stage.running.url}/metrics")
    assert codes.keys() == {200, 429}
    assert codes[429] > codes[200], "no load to speak of"

    def mean(outcome: str) -> float:
        """Seconds until such an answer, while the load was on."""
        total, count = (
            seen.sum(name, outcome=outcome, route=ROUTE)
            - before.sum(name, outcome=outcome, route=ROUTE)
            for name in ("request_duration_seconds_sum", "request_duration_seconds_count")
        )
        return total / count

    assert mean("4xx") < mean("2xx") / 2, "a refusal waits for no worker"
    # Whoever was refused at the very end may have left word that the queue is full, for a moment.
    wait_until(
        "it takes work again", lambda: stage.call(stage.pictures[0]).status_code == 200, START
    )
    assert stage.right(stage.call(stage.pictures[0]), 0)
    # Work must not collapse. That goodput keeps four fifths of its peak is for `stitchwork drill`
    # to measure, which has a machine to itself; here it may have been faster before, or after.
    calm_again, _ = goodput(stage.http, slow, callers=6)
    assert under_load > min(calm, calm_again) / 2


def test_termination_under_load_answers_accepted_requests(
    server_binary: ServerBinary,
) -> None:
    with (
        TemporaryDirectory(prefix="sw") as name,
        staged(Path(name), server_binary, 1) as running,
        many_calls(running.url) as http,
        ThreadPoolExecutor(QUEUE_JOBS) as pool,
    ):
        slow = [solid(faulty_model.SLOW)] * 2
        answers = [pool.submit(embed, http, *slow) for _ in range(QUEUE_JOBS)]

        def arrived() -> bool:
            return _held(http) + sum(answer.done() for answer in answers) >= len(answers)

        wait_until("all have arrived", arrived)
        assert not all(answer.done() for answer in answers)
        assert running.stop() == 0, "nobody had to be killed when the time for it was over"
        codes = {answer.result(DEADLINE).status_code for answer in answers}
        assert codes == {200}, "accepted before the signal, answered after it"
        with pytest.raises(httpx.ConnectError):
            http.get("/health/live")


def goodput(http: httpx.Client, items: list[bytes], callers: int) -> tuple[float, Counter[int]]:
    """Ask from so many threads until enough was answered; answers a second, and all statuses."""
    codes: Counter[int] = Counter()
    session = threading.Lock()

    def ask() -> None:
        while codes[200] < ENOUGH:
            code = embed(http, *items).status_code
            with session:
                codes[code] += 1

    began = time.monotonic()
    with ThreadPoolExecutor(callers) as pool:
        for asker in [pool.submit(ask) for _ in range(callers)]:
            asker.result()
    return codes[200] / (time.monotonic() - began), codes


def many_calls(url: str) -> httpx.Client:
    """One client for many threads, as keeping a connection costs less than making one."""
    return httpx.Client(
        base_url=url,
        timeout=2 * DEADLINE,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    )


def parts(*items: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("items", ("i.png", item, "image/png")) for item in items]


def embed(http: httpx.Client, *items: bytes, **options: Any) -> httpx.Response:
    return http.post(EMBED, files=parts(*items), **options)


def _held(http: httpx.Client) -> int:
    told = http.get("/workers").json()
    return sum(queue["waiting"] + queue["running"] for queue in told["queues"])
