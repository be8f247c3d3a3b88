"""Limits of workers and of their queue; each refusal names its setting."""

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import parse_headers
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.settings import Settings
from stitchwork.supervisor import ServiceProcess
from tests.integration.api.test_fetching import LIMITS as FETCHING
from tests.integration.api.test_limits import SETTINGS as BOUNDED
from tests.support import machine
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


class LimitedService(NamedTuple):
    """A service with low limits, and a space `t` of texts on its one worker, with a head `h`."""

    http: httpx.Client
    running: ServiceProcess


@pytest.fixture(scope="module")
def limited() -> Iterator[LimitedService]:
    env: Any = {f"STITCHWORK_{name.upper()}": str(value) for name, value in SETTINGS.items()}
    rows = [[float(i == j) for j in range(384)] for i in range(4)]
    spec = {"kind": "transformers", "model": str(minilm_folder())}
    with (
        running(roots=(minilm_folder(),), **env) as service,
        httpx.Client(base_url=service.url, timeout=machine.deadline(60)) as http,
    ):
        body = {"anchor_set": "T", "anchors": rows, "encoder": spec}
        assert http.put("/spaces/t", json=body).status_code == 201
        head = {"space": "t", "weight": np.eye(2, 384).tolist(), "labels": ["a", "b"]}
        assert http.put("/heads/h", json=head).status_code == 201
        wait_until("a worker is there", lambda: http.get("/health/ready?workers=1").is_success, 120)
        body = {"items": ["a text"]}
        wait_until("it embeds", lambda: http.post("/embed/t", json=body).is_success, 120)
        yield LimitedService(http, service)


@contextmanager
def paused(limited: LimitedService) -> Iterator[None]:
    """Meanwhile the worker takes no jobs, and still counts as alive."""
    (pid,) = [pid for name, pid in limited.running.pids.items() if name.startswith("worker")]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_every_limit_has_a_test() -> None:
    """`max_image_pixels` has its test in `test_hostile_inputs`."""
    tried = {*BOUNDED, *SETTINGS, *FETCHING, "max_image_pixels"} - {"items_per_job"}
    assert Settings().limits().keys() == tried


@pytest.mark.parametrize(
    ("items", "status", "message"),
    [
        (["short", "word " * 20], 422, "16 tokens (max_text_tokens)"),
        (["x" * 5000], 422, "16 tokens (max_text_tokens)"),
        (["a"] * 5, 413, "4 items (max_items)"),
        (["a" * 200_000], 429, "100000 bytes (max_queue_bytes)"),
    ],
)
def test_inputs_over_a_limit_are_refused_with_its_name(
    limited: LimitedService, items: list[str], status: int, message: str
) -> None:
    response = limited.http.post("/embed/t", json={"items": items})
    assert response.status_code == status, response.text
    assert message in response.json()["detail"]


def test_longer_texts_are_cut_on_request(limited: LimitedService) -> None:
    cut = limited.http.post("/embed/t", json={"items": ["word " * 20], "truncate": True})
    assert cut.json()["truncated"] == [0]


def test_jobs_over_the_limit_of_the_queue_are_refused(limited: LimitedService) -> None:
    with paused(limited):
        response = limited.http.post("/embed/t", json={"items": ["a", "b", "c", "d"]})
        assert response.status_code == 429, response.text
        assert "3 jobs (max_queue_jobs)" in response.json()["detail"]
    wait_until("it embeds", lambda: limited.http.post("/embed/t", json={"items": ["a"]}).is_success)


def test_request_is_refused_before_its_body_is_read_if_its_queue_is_full(
    limited: LimitedService,
) -> None:
    paths = ("/embed/t", "/stitch/t/h", "/v2/models/embed:t/infer", "/tei/t/embed", "/tei/t/decode")
    embed = partial(limited.http.post, "/embed/t", json={"items": ["a", "b", "c"]})
    with ThreadPoolExecutor(1) as pool:
        with paused(limited):
            waiting = pool.submit(embed)
            wait_until("the queue is full", lambda: admitted(limited) == 3)
            for path in paths:
                status, body = begin_request(limited, path)
                assert status == 429, (path, body)
                assert b"3 jobs (max_queue_jobs)" in body
        assert waiting.result().status_code == 200
    # There is room again: the body is wanted.
    assert {begin_request(limited, path)[0] for path in paths} == {100}


def begin_request(limited: LimitedService, path: str) -> tuple[int, bytes]:
    """Send the headers of a request; the status of what comes then, and its body."""
    url = limited.http.base_url
    with socket.create_connection((url.host, url.port), machine.deadline(60)) as connection:
        headers = "Host: localhost\r\nExpect: 100-continue\r\nContent-Length: 90000\r\n"
        connection.sendall(f"POST {path} HTTP/1.1\r\n{headers}\r\n".encode())
        with connection.makefile("rb") as stream:
            status = int(stream.readline().split()[1])
            size = 0 if status == 100 else int(parse_headers(stream)["content-length"])
            return status, stream.read(size)


def admitted(limited: LimitedService) -> int:
    """Jobs in the queue or with a worker."""
    queues = limited.http.get("/workers").json()["queues"]
    return sum(queue["waiting"] + queue["running"] for queue in queues)


def test_jobs_that_would_wait_too_long_are_refused(limited: LimitedService) -> None:
    def send(seconds: str) -> httpx.Response:
        headers = {"X-Request-Timeout": seconds}
        return limited.http.post("/embed/t", json={"items": ["a"]}, headers=headers)

    def is_refused() -> bool:
        # A job whose caller left is removed a moment later; until then the queue may be full.
        return "2000 ms (max_queue_wait_seconds)" in send("0.2").json()["detail"]

    with ThreadPoolExecutor(2) as pool:
        with paused(limited):
            # The paused worker has the first job; the second waits in the queue.
            waiting = [pool.submit(send, "50") for _ in range(2)]
            wait_until("both are admitted", lambda: admitted(limited) == 2)
            wait_until("the second has waited too long", is_refused, 40)
        assert [done.result().status_code for done in waiting] == [200, 200]


def test_requests_over_the_rate_limit_are_refused(limited: LimitedService) -> None:
    responses = [limited.http.delete("/heads/none") for _ in range(3)]
    assert [response.status_code for response in responses][-1] == 429
    assert (
        "at most 3 requests of clients without a key in 86400 seconds (rate_limits)"
        in responses[-1].json()["detail"]
    )
    assert limited.http.get("/info").json()["limits"]["rate_limits"] == {"admin": "3/day"}
