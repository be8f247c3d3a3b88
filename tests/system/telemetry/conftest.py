"""A service with all telemetry enabled: metrics, spans sent to a collector, and logs."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.processes.listener import listen
from tests.support import machine
from tests.support.cluster import Cluster, Process
from tests.support.metric_samples import Scrape
from tests.support.servers import VALKEY_9, server_binary
from tests.support.waiting import wait_until

WIDTH = 384
SPEC = {"kind": "transformers", "model": str(minilm_folder())}
QUEUE_JOBS = 4


@dataclass(frozen=True)
class CollectedSpan:
    """One span, as the collector received it."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]


class SpanCollector:
    """Receives spans over HTTP, as OpenTelemetry's collector does."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._spans: list[CollectedSpan] = []
        receive = self._receive

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receive(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def spans(self, trace: str) -> dict[str, CollectedSpan]:
        """The received spans of one trace, by name."""
        with self._guard:
            return {span.name: span for span in self._spans if span.trace == trace}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _receive(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        received = []
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {a.key: a.value.string_value for a in group.resource.attributes}
            for span in (span for scope in group.scope_spans for span in scope.spans):
                attributes = {
                    a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes
                }
                received.append(
                    CollectedSpan(
                        resource["service.name"],
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        attributes,
                    )
                )
        with self._guard:
            self._spans += received


@pytest.fixture(scope="package")
def collector() -> Iterator[SpanCollector]:
    collector = SpanCollector()
    yield collector
    collector.close()


@dataclass
class ObservedService:
    """An API, a worker that can be started later, and their telemetry."""

    cluster: Cluster
    api: Process
    collector: SpanCollector
    pool: ThreadPoolExecutor
    worker: Process = field(init=False)
    worker_port: int = 0

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        with httpx.Client(base_url=self.api.url, timeout=machine.deadline(90)) as http:
            return http.request(method, path, json=body, headers=headers)

    def stitch(self, *texts: str, **headers: str) -> httpx.Response:
        return self.send("POST", "/stitch/m/h", {"items": list(texts)}, **headers)

    def api_metrics(self) -> Scrape:
        return Scrape(f"{self.api.url}/metrics")

    def worker_metrics(self) -> Scrape:
        return Scrape(f"http://127.0.0.1:{self.worker_port}/metrics")

    def start_worker(self) -> None:
        """Start the worker, with a metrics port, and wait until the API counts it."""
        with listen("127.0.0.1", 0) as free:
            self.worker_port = free.getsockname()[1]
        self.worker = self.cluster.start("worker", STITCHWORK_WORKER_PORT=str(self.worker_port))
        wait_until("the worker is live", lambda: self.api_metrics().sum("workers") == 1, 240)


@contextmanager
def observed_service(collector: SpanCollector) -> Iterator[ObservedService]:
    env = {
        "STITCHWORK_LOG_LEVEL": "info",
        "STITCHWORK_MODEL_ROOTS": SPEC["model"],
        "STITCHWORK_MAX_QUEUE_JOBS": str(QUEUE_JOBS),
        "STITCHWORK_ITEMS_PER_JOB": "64",
        "STITCHWORK_LEASE_SECONDS": "2",
        "STITCHWORK_WORKER_TTL_SECONDS": "60",
        "STITCHWORK_MAX_QUEUE_WAIT_SECONDS": "120",
        "STITCHWORK_REQUEST_TIMEOUT_SECONDS": "60",
        "STITCHWORK_TRACING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with Cluster(server_binary(VALKEY_9), **env) as cluster, ThreadPoolExecutor(16) as pool:
        yield ObservedService(cluster, cluster.api(), collector, pool)


@pytest.fixture(scope="package")
def service(collector: SpanCollector) -> Iterator[ObservedService]:
    """Text spaces `m` and `n`, a head `h` in `n`, and no worker yet."""
    with observed_service(collector) as service:
        anchors = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
        for id_, rows in (("m", anchors), ("n", anchors[:, ::-1])):
            body = {"anchor_set": "S", "anchors": rows.tolist(), "encoder": SPEC}
            assert service.send("PUT", f"/spaces/{id_}", body).status_code == 201
        head = {"space": "n", "weight": np.eye(2, WIDTH).tolist(), "labels": ["a", "b"]}
        assert service.send("PUT", "/heads/h", head).status_code == 201
        yield service
