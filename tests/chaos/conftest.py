"""Clusters for the drills: empty ones, and a shared one whose worker loads one model."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import Floats
from tests.support.cluster import BoundedClient, Cluster, Process
from tests.support.servers import ServerBinary
from tests.support.waiting import wait_until

REDIS_TIMEOUT = 1.0
WIDTH = 384
SPEC = {"kind": "transformers", "model": str(minilm_folder())}


@pytest.fixture
def cluster(server_binary: ServerBinary) -> Iterator[Cluster]:
    """Two empty servers."""
    with Cluster(server_binary) as cluster:
        yield cluster


@dataclass
class TextService:
    """A service with one worker, two text spaces `m` and `n` and a head `h` in `n`."""

    cluster: Cluster
    api: Process
    worker: Process
    client: BoundedClient
    anchors: Floats


@pytest.fixture(scope="session")
def text_service(server_binary: ServerBinary) -> Iterator[TextService]:
    """A service that drills share; each uses its own ids, and leaves the service working."""
    env = {
        "STITCHWORK_REDIS_TIMEOUT_SECONDS": str(REDIS_TIMEOUT),
        "STITCHWORK_MODEL_ROOTS": SPEC["model"],
        "STITCHWORK_STALE_SECONDS": "120",
        # While a drill pauses the worker, it stays alive and its jobs in the queue.
        "STITCHWORK_WORKER_TTL_SECONDS": "60",
        "STITCHWORK_MAX_QUEUE_WAIT_SECONDS": "120",
        "STITCHWORK_LEASE_SECONDS": "60",
    }
    with Cluster(server_binary, **env) as cluster:
        worker, api = cluster.start("worker"), cluster.api()
        with BoundedClient(api.url, 60.0) as client:
            anchors = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
            assert client.put_space("m", anchors, encoder=SPEC).status_code == 201
            assert client.put_space("n", anchors[:, ::-1], encoder=SPEC).status_code == 201
            head = {"space": "n", "weight": np.eye(2, WIDTH).tolist(), "labels": ["a", "b"]}
            assert client.send("PUT", "/heads/h", head).status_code == 201
            wait_until("the worker is alive", client.ready, 120)
            response = client.send("POST", "/stitch/m/h", {"items": ["a text"]})
            assert response.status_code == 200, response.text + worker.log() + api.log()
            yield TextService(cluster, api, worker, client, anchors)
