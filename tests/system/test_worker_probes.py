"""A worker's own port: its probes tell the truth from memory, and its end takes no time."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.processes.listener import listen
from stitchwork.queue.keys import ShardKeys
from tests.support import machine
from tests.support.cluster import BoundedClient, Cluster, Process
from tests.support.servers import VALKEY_9, server_binary
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

SPEC = {"kind": "transformers", "model": str(minilm_folder())}
PROBE_SECONDS = 30.0


class ProbedWorker:
    """A service with a worker that preloads a model.

    Attributes:
        cluster: Its servers.
        client: A client of the API.
        process: The worker.
        answers: The pairs of path and status before it was ready.
        announcements: How many workers were announced as starting before it was ready.
    """

    def __init__(self, cluster: Cluster, client: BoundedClient) -> None:
        self.cluster = cluster
        self.client = client
        with listen("127.0.0.1", 0) as free:
            self._port = free.getsockname()[1]
        settings = {"STITCHWORK_WORKER_PORT": str(self._port), "STITCHWORK_PRELOAD": "texts"}
        self.process: Process = cluster.start("worker", **settings)
        self.answers: set[tuple[str, int]] = set()
        self.announcements: set[int] = set()
        wait_until("it is ready", self._is_ready, 240)

    def status(self, path: str) -> int:
        """The status of a page; 0 while nothing listens."""
        url = f"http://127.0.0.1:{self._port}{path}"
        try:
            return httpx.get(url, timeout=machine.deadline(PROBE_SECONDS)).status_code
        except httpx.ConnectError:
            return 0

    def starting(self) -> int:
        """Number of workers that are announced as starting."""
        return int(str(self.cluster.jobs.zcard(ShardKeys().starting)))

    def _is_ready(self) -> bool:
        self.announcements.add(self.starting())
        # In this order: what was not live when it was asked is not ready a moment later.
        answers = [(path, self.status(path)) for path in ("/live", "/ready")]
        self.answers.update(answers)
        return answers[1][1] == 200


@pytest.fixture(scope="module")
def worker() -> Iterator[ProbedWorker]:
    env = {"STITCHWORK_MODEL_ROOTS": SPEC["model"], "STITCHWORK_REDIS_TIMEOUT_SECONDS": "1"}
    with (
        Cluster(server_binary(VALKEY_9), **env) as cluster,
        BoundedClient(cluster.api().url) as client,
    ):
        anchors = np.random.default_rng(0).normal(size=(64, 384)).astype(np.float32)
        response = client.put_space("texts", anchors, encoder=SPEC)
        assert response.status_code == 201, response.text
        yield ProbedWorker(cluster, client)


def test_worker_is_announced_until_it_is_ready(worker: ProbedWorker) -> None:
    assert 1 in worker.announcements, "nobody would wait for it"
    wait_until("the announcement ends", lambda: not worker.starting())


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_worker_is_live_from_the_start_and_ready_once_it_has_loaded(worker: ProbedWorker) -> None:
    assert ("/live", 503) not in worker.answers
    assert ("/ready", 503) in worker.answers
    # A heartbeat is sent before it is ready.
    (status,) = worker.client.send("GET", "/workers").json()["workers"]
    assert len(status["loaded"]) == 1, "no request has come yet"
    assert worker.status("/metrics") == 200
    assert worker.status("/other") == 404


def test_worker_stays_live_and_ready_without_its_servers(worker: ProbedWorker) -> None:
    cluster = worker.cluster
    cluster.queue.pause()
    try:
        warnings = worker.process.log().count("server unavailable")
        wait_until(
            "it knows of the outage",
            lambda: worker.process.log().count("server unavailable") > warnings,
        )
        assert [worker.status(path) for path in ("/live", "/ready")] == [200, 200]
    finally:
        cluster.queue.resume()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_probes_of_a_worker_cost_a_few_milliseconds(worker: ProbedWorker) -> None:
    before = cpu_seconds(worker.process.process.pid)
    for _ in range(50):
        assert worker.status("/live") == 200
    assert cpu_seconds(worker.process.process.pid) - before < 50 * machine.deadline(0.05)


def test_worker_ends_without_work_after_its_last_answer(worker: ProbedWorker) -> None:
    def embed() -> bool:
        return worker.client.send("POST", "/embed/texts", {"items": ["a text"]}).is_success

    wait_until("it embeds", embed)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = cpu_seconds(worker.process.process.pid)
    assert worker.process.stop() == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    # The interpreter alone would take 2 s and more to take torch and its libraries apart.
    assert total - before < machine.deadline(1.5)
