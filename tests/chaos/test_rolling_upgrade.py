"""Old and new processes serve together: a rolling upgrade and the way back, without an error."""

from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import orjson
import pytest

from stitchwork.queue import streams
from stitchwork.queue.messages import FORMAT, Job
from stitchwork.queue.shards import QueueShard
from stitchwork.redis.serialization import pack_frames
from stitchwork.registry import stored_records
from stitchwork.resources import TextEncoder, encoder_key
from tests.chaos.conftest import SPEC, WIDTH
from tests.support.cluster import BoundedClient, Cluster, Process
from tests.support.previous_release import unpack_previous_release
from tests.support.servers import VALKEY_9, server_binary
from tests.support.traffic import TEXTS, traffic_to
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.drills, pytest.mark.models, pytest.mark.slow]

LATER: Final = b'{"format":%d,"id":"later","version":"1"}' % (stored_records.FORMAT + 2)


def predictions(client: BoundedClient) -> Any:
    """What the service says now, which no upgrade changes."""
    response = client.send("POST", "/stitch/m/h", {"items": TEXTS})
    assert response.status_code == 200, response.text
    return [(p["label"], pytest.approx(p["score"], rel=1e-3)) for p in _predictions(response)]


def _predictions(response: httpx.Response) -> Any:
    return response.json()["predictions"]


def workers(client: BoundedClient) -> int:
    return int(client.send("GET", "/health/ready").json()["workers"])


def register(client: BoundedClient, name: str) -> None:
    """Register a set of texts, a space that a worker embeds, a head, and one that it fits."""
    items = {"modality": "text", "items": [f"text {i} of {name}" for i in range(40)]}
    assert client.send("PUT", f"/anchor-sets/texts-{name}", items).status_code == 201
    body = {"anchor_set": f"texts-{name}", "encoder": SPEC}
    assert client.send("PUT", f"/spaces/s-{name}", body).status_code == 202
    wait_until("it is embedded", lambda: _is_ready(client, f"/spaces/s-{name}"), 120)
    head = {"space": f"s-{name}", "weight": np.eye(2, WIDTH).tolist(), "labels": ["a", "b"]}
    assert client.send("PUT", f"/heads/h-{name}", head).status_code == 201
    labelled = {"items": TEXTS * 4, "labels": ["a", "b"] * 4}
    fit = client.send("PUT", f"/heads/fit-{name}", {"space": f"s-{name}", "fit": labelled})
    assert fit.status_code == 202, fit.text
    wait_until("it is fitted", lambda: _is_ready(client, f"/heads/fit-{name}"), 120)


def _is_ready(client: BoundedClient, path: str) -> bool:
    record = client.send("GET", path).json()
    assert record["status"] != "failed", record
    return bool(record["status"] == "ready")


def check_records(client: BoundedClient, *names: str) -> None:
    """All that was registered is listed, and used."""
    for kind in ("anchor-sets", "spaces", "heads"):
        body = client.send("GET", f"/{kind}").json()
        assert body.get("unreadable", []) == (["later"] if kind == "spaces" else [])
        listed = {item["id"] for item in body["items"]}
        prefixes = {"anchor-sets": ["texts"], "spaces": ["s"], "heads": ["h", "fit"]}[kind]
        assert {f"{prefix}-{name}" for name in names for prefix in prefixes} <= listed
    for name in names:
        for head in (f"h-{name}", f"fit-{name}"):
            response = client.send("POST", f"/stitch/s-{name}/{head}", {"items": TEXTS})
            assert response.status_code == 200, response.text
    later = client.send("GET", "/spaces/later")
    assert (later.status_code, later.json()["code"]) == (409, "incompatible-format")
    assert f"format {stored_records.FORMAT + 2} of a later release" in later.json()["detail"]


def plant_later(cluster: Cluster) -> None:
    """A record and a job of a release that is two formats ahead."""
    cluster.records.hset("stitchwork:space:later", "record", LATER)
    cluster.records.zadd("stitchwork:space", {"later": 0})
    job = Job(id="1", encoder=TextEncoder(model=str(SPEC["model"])))
    assert job.stream == encoder_key(TextEncoder(model=str(SPEC["model"])))
    fields = orjson.dumps({"format": FORMAT + 2, "id": "1"})
    queue = QueueShard(cluster.queue.url, 5.0)
    streams.admit(queue, job, pack_frames([fields, b"of that release"]), 1, timeout_ms=60_000)
    queue.close()


def test_old_and_new_processes_serve_together_up_and_back(tmp_path: Path) -> None:
    commit, old = unpack_previous_release(tmp_path)
    env = {"STITCHWORK_MODEL_ROOTS": str(SPEC["model"]), "STITCHWORK_COMPILE_MODELS": "false"}
    with Cluster(server_binary(VALKEY_9), **env) as cluster:

        def worker(count: int, **env: str) -> Process:
            """Another worker, once the API process counts so many."""
            started = cluster.start("worker", **env)
            wait_until("it is alive", lambda: workers(client) == count, 120)
            return started

        old_api = cluster.api(**old)
        with BoundedClient(old_api.url, 60.0) as client:
            old_worker = worker(1, **old)
            anchors = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
            assert client.put_space("m", anchors, encoder=SPEC).status_code == 201
            assert client.put_space("n", anchors[:, ::-1], encoder=SPEC).status_code == 201
            head = {"space": "n", "weight": np.eye(2, WIDTH).tolist(), "labels": ["a", "b"]}
            assert client.send("PUT", "/heads/h", head).status_code == 201
            register(client, "old")
            expected = predictions(client)
            plant_later(cluster)
            with traffic_to(old_api.url) as traffic:
                traffic.settle(f"API and worker of {commit}")
                new_worker = worker(2)
                assert old_worker.stop() == 0
                traffic.settle("old API, new worker")
                register(client, "old-new")
                check_records(client, "old", "old-new")

                new_api = cluster.api()
                traffic.urls.append(new_api.url)
                traffic.settle("both API processes, new worker")
                traffic.urls.remove(old_api.url)
                with BoundedClient(new_api.url, 60.0) as client:
                    old_worker = worker(2, **old)
                    assert new_worker.stop() == 0
                    assert old_api.stop() == 0
                    traffic.settle("new API, old worker")
                    register(client, "new-old")
                    new_worker = worker(2)
                    assert old_worker.stop() == 0
                    traffic.settle("API and worker of this release")
                    register(client, "new")
                    names = ("old", "old-new", "new-old", "new")
                    check_records(client, *names)
                    assert predictions(client) == expected

                old_api = cluster.api(**old)
                traffic.urls[:] = [old_api.url]
                with BoundedClient(old_api.url, 60.0) as client:
                    old_worker = worker(2, **old)
                    assert new_worker.stop() == 0
                    assert new_api.stop() == 0
                    traffic.settle(f"back to {commit}")
                    register(client, "back")
                    check_records(client, *names, "back")
                    assert predictions(client) == expected
            assert not traffic.failures
            assert cluster.jobs.hlen("stitchwork:{q0}:dead-jobs") == 1, "the job that was planted"
