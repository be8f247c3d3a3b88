"""Bodies and answers that once stopped the event loop: health checks go on, memory is bounded.

No call holds the interpreter's lock for long. Each attack is within the limits of one request, and
large enough that its parser or printer held the lock for seconds.
"""

import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final, NamedTuple

import httpx
import numpy as np
import pytest

from stitchwork.api.content.body_parser import LONG_ROWS
from stitchwork.queue.heartbeats import Heartbeat
from stitchwork.queue.shards import QueueShard
from stitchwork.queue.worker_registry import WorkerStatus
from tests.support import machine
from tests.support.cluster import Cluster
from tests.support.lock_watch import LockWatch
from tests.support.memory import MB, peak_resident, reset_peak, resident
from tests.support.processes import processes
from tests.support.servers import VALKEY_9, server_binary
from tests.support.waiting import wait_until

MAX_HEALTH_SECONDS: Final = 0.3
"""Bound of the 99th percentile of health checks on an idle machine, where it is a tenth of this."""
MAX_LOCK_SECONDS: Final = 0.05
"""Bound of the time for which one call holds the interpreter's lock of the API."""
CALIBRATION_SECONDS: Final = 0.5
"""Pause between two measurements of a processor's speed."""
WORKER_SECONDS: Final = 3600.0
"""Time without a heartbeat after which a worker counts as dead."""
MAX_INFLIGHT: Final = 128 * 1024 * 1024
MAX_QUEUE: Final = 68 * 1024 * 1024
"""One caller may fill seven eighths of it: it takes a text of 60 MB, and no file of 64 MB."""
MAX_MEMORY: Final = MAX_INFLIGHT + 200 * MB
"""Bound of what the process holds beside its resources."""
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
    """A service with spaces x, wide, t of texts and i of images, and a head h of 1,000 labels.

    Its one worker is alive and takes no jobs.
    """

    url: str
    api: int
    lock: LockWatch
    http: httpx.Client
    base: int


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((128, 16), np.float32)
    env = {
        "STITCHWORK_MAX_INFLIGHT_BODY_BYTES": str(MAX_INFLIGHT),
        "STITCHWORK_MAX_QUEUE_BYTES": str(MAX_QUEUE),
        "STITCHWORK_WORKER_TTL_SECONDS": str(WORKER_SECONDS),
    }
    with Cluster(server_binary(VALKEY_9), **env) as cluster, ExitStack() as stack:
        lock = LockWatch(cluster.folder / "lock")
        api = cluster.api(lock.code)
        http = stack.enter_context(
            httpx.Client(
                base_url=api.url,
                timeout=machine.deadline(120),
                limits=httpx.Limits(max_connections=None),
            )
        )
        queue = QueueShard(cluster.queue.url, machine.deadline(5.0))
        stack.callback(queue.close)
        heartbeat = Heartbeat((queue,), WORKER_SECONDS, lambda: WorkerStatus(worker="absent"))
        heartbeat.start()
        stack.callback(heartbeat.stop)
        for name, width in (("x", 64), ("wide", 4096)):
            rows = latent @ rng.standard_normal((16, width), np.float32)
            response = post(http, f"/spaces?id={name}&anchor_set=S", npy(rows), NPY)
            assert response.status_code == 201, response.text
        for name, encoder in (
            ("t", {"kind": "transformers", "model": "/models/none"}),
            ("i", {"kind": "timm", "model": "tf_efficientnet_lite0"}),
        ):
            anchors = np.eye(4).tolist()
            body = {"id": name, "anchor_set": name, "anchors": anchors, "encoder": encoder}
            assert http.post("/spaces", json=body).status_code == 201
        labels = [f"label {i}" for i in range(1000)]
        head = {"space": "t", "weight": np.eye(2, 4).tolist(), "labels": ["a", "b"]}
        assert http.put("/heads/h2", json=head).status_code == 201
        head = {"space": "x", "weight": np.eye(1000, 64).tolist(), "labels": labels}
        assert http.put("/heads/h", json=head).status_code == 201
        few = npy(np.ones((2, 64), np.float32))
        assert post(http, "/translate?source=x&target=wide", few, NPY).is_success
        pid = api.process.pid
        yield Target(api.url, pid, lock, http, resident(pid))


NPY: Final = "application/x-npy"
JSON: Final = "application/json"
SLOWEST_NUMBER: Final = b"4.9406564584124654417656879286822137236505980e-324"
"""A number of so many digits that a parser of floats needs its exact, slow way."""


def npy(rows: "np.ndarray[tuple[int, int], np.dtype[np.float32]]") -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def post(
    http: httpx.Client, path: str, content: bytes, media: str, timeout: str = "60"
) -> httpx.Response:
    headers = {"Content-Type": media, "Accept": JSON, "X-Request-Timeout": timeout}
    return http.post(path, content=content, headers=headers)


@contextmanager
def health_checks(target: Target) -> Iterator[list[float]]:
    """Meanwhile another process checks the health of the service; the seconds of each check."""
    port, seconds = target.url.rsplit(":", 1)[1], list[float]()
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


@contextmanager
def slowdowns() -> Iterator[list[float]]:
    """Meanwhile it is measured how slow a processor is, whoever else has it."""
    factors, ends = [machine.processor_slowdown()], threading.Event()

    def measure() -> None:
        while not ends.wait(CALIBRATION_SECONDS):
            factors.append(machine.processor_slowdown())

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(measure)
        try:
            yield factors
        finally:
            ends.set()
            future.result()


@contextmanager
def unharmed(target: Target) -> Iterator[None]:
    """A context of requests that must leave health checks, memory and the event loop alone."""
    reset_peak(target.api)
    with slowdowns() as factors, target.lock.record() as holds, health_checks(target) as seconds:
        yield
    assert np.quantile(seconds, 0.99) < machine.deadline(MAX_HEALTH_SECONDS)
    assert peak_resident(target.api) < target.base + MAX_MEMORY
    assert max(holds, default=0.0) < MAX_LOCK_SECONDS * max(factors), sorted(holds)[-9:]


def json_rows(row: bytes, size: int) -> bytes:
    """A translation of equal rows, of almost so many bytes."""
    head, row = b'{"source": "x", "target": "wide", "embeddings": [', b"[%b]" % row
    return head + b",".join([row] * ((size - len(head) - 2) // (len(row) + 1))) + b"]}"


def rows(count: int) -> bytes:
    return npy(np.random.default_rng(1).standard_normal((count, 64), np.float32))


@pytest.mark.parametrize(
    ("path", "content", "media", "status", "message"),
    [
        pytest.param(
            "/embed/t",
            lambda: FORM % (b"items", b'; filename="a"') * 60_000 + b"--b--\r\n",
            "multipart/form-data; boundary=b",
            413,
            "2048 items (max_items)",
            id="files of a form",
        ),
        pytest.param(
            "/embed/t",
            lambda: FORM % (b"name", b"") * 99_000 + b"--b--\r\n",
            "multipart/form-data; boundary=b",
            413,
            "64 other parts",
            id="fields of a form",
        ),
        pytest.param(
            "/embed/t",
            lambda: b'{"items": [' + b"[]," * 8_300_000 + b"[]]}",
            JSON,
            422,
            "expected a text",
            id="empty lists",
        ),
        pytest.param(
            "/embed/t",
            lambda: b"{" + b",".join(b'"k%d":1' % i for i in range(300_000)) + b"}",
            JSON,
            422,
            "at most 256 fields",
            id="keys of an object",
        ),
        pytest.param(
            "/embed/t",
            lambda: b'{"items": ["' + b"a" * 35_000_000 + b'"], "k": 1, "k": 1}',
            JSON,
            400,
            "got 'k' twice",
            id="key that is twice at the end",
        ),
        pytest.param(
            "/translate",
            lambda: json_rows(b",".join([SLOWEST_NUMBER] * 64), LONG_ROWS),
            JSON,
            200,
            '"embeddings"',
            id="rows of the slowest numbers",
        ),
        pytest.param(
            "/translate",
            lambda: json_rows(b"1", LONG_ROWS),
            JSON,
            413,
            "(max_rows)",
            id="many rows of one number",
        ),
        pytest.param(
            "/translate",
            lambda: json_rows(b",".join([b"0.1234567"] * 64), 43_000_000),
            JSON,
            413,
            "(max_rows)",
            id="rows that another process parses",
        ),
        pytest.param(
            "/embed/t",
            lambda: (
                FORM[:-3] % (b"items", b'; filename="a"') + b"x" * 64_000_000 + b"\r\n--b--\r\n"
            ),
            "multipart/form-data; boundary=b",
            429,
            "(max_queue_bytes)",
            id="input larger than the queue",
        ),
        pytest.param(
            "/classify/h?space=x&top=1000",
            lambda: rows(500),
            NPY,
            200,
            '"label 999"',
            id="predictions",
        ),
        pytest.param(
            "/translate?source=x&target=wide",
            lambda: rows(2_048),
            NPY,
            200,
            '"source"',
            id="numbers of an answer",
        ),
        pytest.param(
            "/translate?source=x&target=wide",
            lambda: rows(65_536),
            NPY,
            413,
            "accept application/x-npy",
            id="too many numbers of an answer",
        ),
        pytest.param(
            "/translate?source=x&target=wide&encoding_format=base64",
            lambda: rows(16_384),
            NPY,
            413,
            "max_inflight_body_bytes",
            id="answer larger than the memory of all",
        ),
    ],
)
def test_large_body_or_answer_leaves_health_memory_and_lock_alone(
    target: Target,
    path: str,
    content: Callable[[], bytes],
    media: str,
    status: int,
    message: str,
) -> None:
    body = content()
    with unharmed(target):
        response = post(target.http, path, body, media)
    assert response.status_code == status, response.text[:500]
    assert message in response.text


TEXT: Final = 60_000_000
"""Bytes of an input that the process may hold twice."""
IMAGE: Final = b"QUJD" * 16_000_000
WIDE: Final = "\U0001f600".encode()
"""One such character makes a `str` take four bytes for each of its characters."""


def binary_tensor() -> bytes:
    """A tensor of one text, after its description."""
    data = len(WIDE_TEXT).to_bytes(4, "little") + WIDE_TEXT
    spec = {"name": "items", "shape": [1], "datatype": "BYTES"}
    head = {"inputs": [{**spec, "parameters": {"binary_data_size": len(data)}}]}
    return json.dumps(head).encode().ljust(TENSOR_HEAD) + data


TENSOR_HEAD: Final = 256
WIDE_TEXT: Final = WIDE + b"a" * (TEXT - len(WIDE))


@pytest.mark.parametrize(
    ("path", "content", "headers"),
    [
        pytest.param(
            "/embed/t",
            lambda: b'{"items": ["%s"]}' % (b"a" * TEXT),
            {},
            id="a text",
        ),
        pytest.param(
            "/embed/t",
            lambda: b'{"items": ["%s"]}' % WIDE_TEXT,
            {},
            id="a text with a rare character",
        ),
        pytest.param(
            "/stitch/t/h2",
            lambda: b'{"items": [%s]}' % b",".join([b'"%s%s"' % (WIDE, b"a" * 29_000)] * 2_048),
            {},
            id="texts with a rare character",
        ),
        pytest.param(
            "/embed/i",
            lambda: b'{"items": ["%s"]}' % IMAGE,
            {},
            id="an image",
        ),
        pytest.param(
            "/embed/t",
            lambda: FORM[:-3] % (b"items", b'; filename="a"') + WIDE_TEXT + b"\r\n--b--\r\n",
            {"Content-Type": "multipart/form-data; boundary=b"},
            id="a file of a form",
        ),
        pytest.param(
            "/v1/embeddings",
            lambda: b'{"model": "t", "input": "%s"}' % WIDE_TEXT,
            {},
            id="a text for OpenAI",
        ),
        pytest.param(
            "/v1/embeddings",
            lambda: b'{"model": "i", "input": "data:image/png;base64,%s"}' % IMAGE,
            {},
            id="an image as data URI for OpenAI",
        ),
        pytest.param(
            "/tei/t/embed",
            lambda: b'{"inputs": "%s"}' % WIDE_TEXT,
            {},
            id="a text for TEI",
        ),
        pytest.param(
            "/v2/models/embed:t/infer",
            lambda: (
                b'{"inputs": [{"name": "items", "shape": [1], "datatype": "BYTES", "data": '
                b'["%s"]}]}' % WIDE_TEXT
            ),
            {},
            id="a text for KServe",
        ),
        pytest.param(
            "/v2/models/embed:t/infer",
            binary_tensor,
            {
                "Content-Type": "application/octet-stream",
                "Inference-Header-Content-Length": str(TENSOR_HEAD),
            },
            id="bytes of a text for KServe",
        ),
    ],
)
def test_large_input_that_is_queued_leaves_health_memory_and_lock_alone(
    target: Target, path: str, content: Callable[[], bytes], headers: dict[str, str]
) -> None:
    body, timeout = content(), str(machine.deadline(3))
    headers = {"Content-Type": JSON, "X-Request-Timeout": timeout, **headers}
    with unharmed(target):
        response = target.http.post(path, content=body, headers=headers)
    assert response.status_code == 504, response.text[:500]
    assert "no worker answered" in response.text
    wait_until("memory is returned", lambda: resident(target.api) < 1.1 * target.base)


def test_many_large_bodies_at_once_leave_health_memory_and_lock_alone(
    target: Target,
) -> None:
    body = b'{"items": [%s]}' % b",".join([b'"%s"' % (b"x" * 2_600)] * 2_048)
    send = partial(post, target.http, "/embed/t", body, JSON, timeout="2")
    with unharmed(target), ThreadPoolExecutor(70) as pool:
        responses = list(pool.map(lambda _: send(), range(70)))
    # There is not room for all at a time, and no worker takes any.
    assert {response.status_code for response in responses} <= {429, 504}


def test_bodies_that_declare_more_than_they_send_take_little_memory(target: Target) -> None:
    address, before = httpx.URL(target.url), resident(target.api)
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
    with httpx.Client(base_url=target.url, timeout=0.001) as http:
        request = http.build_request("POST", "/embed/t", content=content, headers=headers)
        request.extensions["timeout"] = {"connect": 60, "write": 60, "pool": 60, "read": 0.2}
        with pytest.raises(httpx.ReadTimeout):
            http.send(request)
    wait_until("its process has ended", lambda: not set(children()) - before)
