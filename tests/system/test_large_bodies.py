"""Bodies and answers that once stopped the event loop: health checks go on, and memory is bounded.

Each attack is within the limits of one request, and large enough that its parser or printer held
the interpreter's lock for seconds.
"""

import io
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

import httpx
import numpy as np
import pytest

from stitchwork.supervisor import ServiceProcess
from tests.support import machine
from tests.support.memory import MB, peak_resident, resident
from tests.support.processes import processes
from tests.support.running_service import running
from tests.support.waiting import wait_until

MAX_HEALTH_SECONDS: Final = 0.3
"""Bound of the 99th percentile of health checks on an idle machine, where it is a tenth of this."""
MAX_INFLIGHT: Final = 128 * 1024 * 1024
FORM: Final = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\nx\r\n'
PROBE: Final = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    start = time.perf_counter()
    connection.sendall(b"GET /health/live HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    connection.recv(65536)
    print(time.perf_counter() - start, flush=True)
    time.sleep(0.01)
"""


class Target(NamedTuple):
    """A service with spaces x, wide and t, which has an encoder, and a head h of 1,000 labels."""

    service: ServiceProcess
    http: httpx.Client
    base: int

    @property
    def api(self) -> int:
        """The API process."""
        return self.service.pids["api"]


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((128, 16), np.float32)
    with (
        running(0, STITCHWORK_MAX_INFLIGHT_BODY_BYTES=str(MAX_INFLIGHT)) as service,
        httpx.Client(
            base_url=service.url,
            timeout=machine.deadline(120),
            limits=httpx.Limits(max_connections=None),
        ) as http,
    ):
        for name, width in (("x", 64), ("wide", 4096)):
            rows = latent @ rng.standard_normal((16, width), np.float32)
            response = post(http, f"/spaces?id={name}&anchor_set=S", npy(rows), NPY)
            assert response.status_code == 201, response.text
        encoder = {"kind": "transformers", "model": "/models/none"}
        body = {"id": "t", "anchor_set": "T", "anchors": np.eye(4).tolist(), "encoder": encoder}
        assert http.post("/spaces", json=body).status_code == 201
        labels = [f"label {i}" for i in range(1000)]
        head = {"space": "x", "weight": np.eye(1000, 64).tolist(), "labels": labels}
        assert http.put("/heads/h", json=head).status_code == 201
        few = npy(np.ones((2, 64), np.float32))
        assert post(http, "/translate?source=x&target=wide", few, NPY).is_success
        yield Target(service, http, resident(service.pids["api"]))


NPY: Final = "application/x-npy"
JSON: Final = "application/json"


def npy(rows: "np.ndarray[tuple[int, int], np.dtype[np.float32]]") -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def post(http: httpx.Client, path: str, content: bytes, media: str) -> httpx.Response:
    headers = {"Content-Type": media, "Accept": JSON}
    return http.post(path, content=content, headers=headers)


@contextmanager
def health_checks(target: Target) -> Iterator[list[float]]:
    """Meanwhile another process checks the health of the service; the seconds of each check."""
    port, seconds = target.service.url.rsplit(":", 1)[1], list[float]()
    command = [sys.executable, "-c", PROBE, port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as probe:
        assert probe.stdout is not None
        probe.stdout.readline()
        yield seconds
        # At least a second of checks, also if it is over at once.
        for _ in range(50):
            seconds.append(float(probe.stdout.readline()))
        probe.kill()
        seconds += [float(line) for line in probe.stdout.read().split("\n")[:-1] if line]


def rows(count: int) -> bytes:
    return npy(np.random.default_rng(1).standard_normal((count, 64), np.float32))


@pytest.mark.parametrize(
    ("path", "content", "media", "status", "message"),
    [
        pytest.param(
            "/embed/t",
            FORM % (b"items", b'; filename="a"') * 60_000 + b"--b--\r\n",
            "multipart/form-data; boundary=b",
            413,
            "2048 items (max_items)",
            id="files of a form",
        ),
        pytest.param(
            "/embed/t",
            FORM % (b"name", b"") * 99_000 + b"--b--\r\n",
            "multipart/form-data; boundary=b",
            413,
            "64 other parts",
            id="fields of a form",
        ),
        pytest.param(
            "/embed/t",
            b'{"items": [' + b"[]," * 3_000_000 + b"[]]}",
            JSON,
            422,
            "expected a text",
            id="empty lists",
        ),
        pytest.param(
            "/embed/t",
            b"{" + b",".join(b'"k%d":1' % i for i in range(300_000)) + b"}",
            JSON,
            422,
            "at most 256 fields",
            id="keys of an object",
        ),
        pytest.param(
            "/classify/h?space=x&top=1000",
            rows(500),
            NPY,
            200,
            '"label 999"',
            id="predictions",
        ),
        pytest.param(
            "/translate?source=x&target=wide",
            rows(2_048),
            NPY,
            200,
            '"source"',
            id="numbers of an answer",
        ),
        pytest.param(
            "/translate?source=x&target=wide",
            rows(8_192),
            NPY,
            413,
            "accept application/x-npy",
            id="too many numbers of an answer",
        ),
        pytest.param(
            "/translate?source=x&target=wide&encoding_format=base64",
            rows(16_384),
            NPY,
            413,
            "max_inflight_body_bytes",
            id="answer larger than the memory of all",
        ),
    ],
)
def test_large_body_or_answer_leaves_health_checks_and_memory_alone(
    target: Target, path: str, content: bytes, media: str, status: int, message: str
) -> None:
    with health_checks(target) as seconds:
        response = post(target.http, path, content, media)
    assert response.status_code == status, response.text[:500]
    assert message in response.text
    assert np.quantile(seconds, 0.99) < machine.deadline(MAX_HEALTH_SECONDS)
    assert peak_resident(target.api) < target.base + MAX_INFLIGHT + 200 * MB


def test_many_large_bodies_at_once_leave_health_checks_and_memory_alone(target: Target) -> None:
    body = b'{"items": [%s]}' % b",".join([b'"%s"' % (b"x" * 2_600)] * 2_048)
    with health_checks(target) as seconds, ThreadPoolExecutor(70) as pool:
        responses = list(pool.map(lambda _: post(target.http, "/embed/t", body, JSON), range(70)))
    # There is no worker, and not room for all at a time.
    assert {response.status_code for response in responses} <= {429, 503}
    assert np.quantile(seconds, 0.99) < machine.deadline(MAX_HEALTH_SECONDS)
    assert peak_resident(target.api) < target.base + MAX_INFLIGHT + 200 * MB


def test_bodies_that_declare_more_than_they_send_take_little_memory(target: Target) -> None:
    address, before = httpx.URL(target.service.url), resident(target.api)
    head = b"POST /embed/t HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                socket.create_connection((address.host, address.port), machine.deadline(60))
            )
            for _ in range(60)
        ]
        for part in (head + b'{"items": [', b'"a"'):
            for client in clients:
                client.sendall(part)
        # The process has read what came before this request.
        assert target.http.get("/info").is_success
        assert resident(target.api) < before + 30 * MB


def test_large_body_is_parsed_in_a_process_that_ends_when_its_client_leaves(
    target: Target,
) -> None:
    content = b'{"items": [' + b"[]," * 5_000_000 + b"[]]}"

    def children() -> list[int]:
        return processes(1, target.api)

    headers = {"Content-Type": JSON, "Content-Length": str(len(content)), "Host": "localhost"}
    before = set(children())
    with httpx.Client(base_url=target.service.url, timeout=0.001) as http:
        request = http.build_request("POST", "/embed/t", content=content, headers=headers)
        request.extensions["timeout"] = {"connect": 60, "write": 60, "pool": 60, "read": 0.2}
        with pytest.raises(httpx.ReadTimeout):
            http.send(request)
    wait_until("its process has ended", lambda: not set(children()) - before)


@pytest.mark.parametrize(
    "path", ["/embed/none", "/stitch/t/none", "/classify/none", "/v2/models/embed:none/infer"]
)
def test_request_that_is_refused_gets_its_answer_before_it_sends_a_body(
    target: Target, path: str
) -> None:
    host, port = target.service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=machine.deadline(60)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
        connection.sendall(head.encode() + b'{"items": ["')
        answer = connection.recv(65536)
        while b"}" not in answer:
            answer += connection.recv(65536)
    assert b"404" in answer.split(b"\r\n", 1)[0]
    assert b"none is registered" in answer
