"""An API and a worker in this process, with two spaces and heads."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
import redis
from starlette.testclient import TestClient

from stitchwork.api.app import create_app
from stitchwork.bootstrap import api as api_bootstrap
from stitchwork.bootstrap import worker as worker_bootstrap
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics, Telemetry
from tests.support.change_logs import begin_change_log_at
from tests.support.servers import ServerProcess
from tests.support.waiting import wait_until

TEXTS: Final = [f"{verb} the {noun}" for verb in ("open", "close", "find") for noun in "abcdefgh"]
WIDTH: Final = 32
LABELS: Final = ["left", "right"]
MANY_LABELS: Final = [f"label {i}" for i in range(300)]


class ThreadRecordingMetrics(Metrics):
    """Metrics that also record which thread made predictions.

    Attributes:
        prediction_threads: The thread of each call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prediction_threads: list[int] = []

    def record_confidences(self, head: str, confidences: Sequence[float]) -> None:
        """Record the thread, and observe the confidences."""
        self.prediction_threads.append(threading.get_ident())
        super().record_confidences(head, confidences)


def ok(response: Any) -> Any:
    """The JSON of a response, which must be a success."""
    assert response.is_success, response.text
    return response.json()


@pytest.fixture(scope="module")
def metrics() -> ThreadRecordingMetrics:
    """The metrics of the API's pipeline."""
    return ThreadRecordingMetrics()


@pytest.fixture(scope="module")
def client(
    registry_process: ServerProcess, queue_process: ServerProcess, metrics: ThreadRecordingMetrics
) -> Iterator[TestClient]:
    """A client of an API with spaces `texts` and `other`, and heads `head` and `many` of `other`.

    Head `head` has two labels, `many` has 300.
    """
    for process in (registry_process, queue_process):
        with redis.Redis.from_url(process.url) as server:
            server.flushall()
    begin_change_log_at(registry_process.url)
    settings = Settings(
        redis_url=registry_process.url,
        queue_url=queue_process.url,
        model_roots=(minilm_folder(),),
        offline=True,
        compile_models=False,
        device="cpu",
    )
    worker = worker_bootstrap.make_worker(settings)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        state = api_bootstrap.make_app_state(settings)
        state = replace(state, pipeline=replace(state.pipeline, telemetry=Telemetry(metrics)))
        api_bootstrap.check_keys(state.api_keys, settings.host)
        with TestClient(create_app(state)) as client:
            register(client)
            yield client
    finally:
        worker.stop()
        thread.join()


def register(client: TestClient) -> None:
    """Register the spaces and heads."""
    ok(client.put("/anchor-sets/set", json={"modality": "text", "items": TEXTS}))
    encoder = {"kind": "transformers", "model": str(minilm_folder())}
    ok(client.put("/spaces/texts", json={"anchor_set": "set", "encoder": encoder}))
    wait_until("it is ready", lambda: ok(client.get("/spaces/texts"))["status"] == "ready")
    rows = np.array(ok(client.post("/embed/texts", json={"items": TEXTS}))["embeddings"])
    other = rows @ np.random.default_rng(0).normal(size=(384, WIDTH))
    ok(client.put("/spaces/other", json={"anchor_set": "set", "anchors": other.tolist()}))
    for head, labels in (("head", LABELS), ("many", MANY_LABELS)):
        weight = np.random.default_rng(1).normal(size=(len(labels), WIDTH)).tolist()
        fields = {"space": "other", "labels": labels, "weight": weight}
        ok(client.put(f"/heads/{head}", json={**fields, "bias": [0.0] * len(labels)}))
