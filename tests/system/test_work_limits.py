"""What reaches a worker is bounded too, and so is work that waits; each names its setting."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.settings import Settings
from stitchwork.supervisor import ServiceProcess
from tests.integration.api.test_fetching import LIMITS as FETCHING
from tests.integration.api.test_limits import SETTINGS as BOUNDED
from tests.support.running_service import running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

SETTINGS: dict[str, Any] = {
    "max_text_tokens": 16,
    "max_items": 4,
    "max_queue_jobs": 3,
    "max_queue_bytes": 100_000,
    "max_queue_wait_seconds": 2,
    "rate_limits": "admin=3/day",
    "items_per_job": 1,
}


class House(NamedTuple):
    """A service with low limits, and a space `t` of texts on its one worker."""

    http: httpx.Client
    running: ServiceProcess


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    env: Any = {f"STITCHWORK_{name.upper()}": str(value) for name, value in SETTINGS.items()}
    rows = [[float(i == j) for j in range(384)] for i in range(4)]
    spec = {"kind": "transformers", "model": str(minilm_folder())}
    with (
        running(roots=(minilm_folder(),), **env) as found,
        httpx.Client(base_url=found.url, timeout=60) as http,
    ):
        body = {"anchor_set": "T", "anchors": rows, "encoder": spec}
        assert http.put("/spaces/t", json=body).status_code == 201
        wait_until("a worker is there", lambda: http.get("/health/ready").is_success, 120)
        asked = {"items": ["a text"]}
        wait_until("it embeds", lambda: http.post("/embed/t", json=asked).is_success, 120)
        yield House(http, found)


@contextmanager
def paused(house: House) -> Iterator[None]:
    """Meanwhile the worker takes nothing, and still counts as alive."""
    (pid,) = [pid for name, pid in house.running.pids.items() if name.startswith("worker")]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_every_limit_is_tried() -> None:
    """Pixels are tried where images are, in `test_hostile_inputs`."""
    tried = {*BOUNDED, *SETTINGS, *FETCHING, "max_image_pixels"} - {"items_per_job"}
    assert Settings().limits().keys() == tried


@pytest.mark.parametrize(
    ("items", "status", "said"),
    [
        (["short", "word " * 20], 422, "16 tokens (max_text_tokens)"),
        (["x" * 5000], 422, "16 tokens (max_text_tokens)"),
        (["a"] * 5, 413, "4 items (max_items)"),
        (["a" * 200_000], 429, "100000 bytes (max_queue_bytes)"),
    ],
)
def test_inputs(house: House, items: list[str], status: int, said: str) -> None:
    answer = house.http.post("/embed/t", json={"items": items})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]


def test_what_is_just_within_is_taken(house: House) -> None:
    cut = house.http.post("/embed/t", json={"items": ["word " * 20], "truncate": True})
    assert cut.json()["truncated"] == [0]


def test_jobs_that_wait(house: House) -> None:
    with paused(house):
        answer = house.http.post("/embed/t", json={"items": ["a", "b", "c", "d"]})
        assert answer.status_code == 429, answer.text
        assert "3 jobs (max_queue_jobs)" in answer.json()["detail"]
    wait_until("it embeds", lambda: house.http.post("/embed/t", json={"items": ["a"]}).is_success)


def held(house: House) -> int:
    """Jobs that wait in line or are in a worker's hands."""
    queues = house.http.get("/workers").json()["queues"]
    return sum(queue["waiting"] + queue["running"] for queue in queues)


def test_time_that_jobs_wait(house: House) -> None:
    def send(seconds: str) -> httpx.Response:
        headers = {"X-Request-Timeout": seconds}
        return house.http.post("/embed/t", json={"items": ["a"]}, headers=headers)

    def is_refused() -> bool:
        # One that was given up is taken back a moment later, so that the line may look full too.
        return "2000 ms (max_queue_wait_seconds)" in send("0.2").json()["detail"]

    with ThreadPoolExecutor(2) as pool:
        with paused(house):
            # The first is in the worker's hands already; it is the second that waits in line. What
            # came before them would be in its hands instead, and never be taken back.
            waiting = [pool.submit(send, "50") for _ in range(2)]
            wait_until("both are in line", lambda: held(house) == 2)
            wait_until("the second has waited too long", is_refused, 40)
        assert [done.result().status_code for done in waiting] == [200, 200]


def test_how_often_one_may_ask(house: House) -> None:
    answers = [house.http.delete("/heads/none") for _ in range(3)]
    assert [answer.status_code for answer in answers][-1] == 429
    assert "3 times in 86400 seconds (rate_limits)" in answers[-1].json()["detail"]
    assert house.http.get("/info").json()["limits"]["rate_limits"] == {"admin": "3/day"}
