"""A model of a hub is pinned to the commit that it was first loaded at."""

from pathlib import Path

import pytest

from tests.integration.models.test_hub import COMMITS, MODEL, move, store
from tests.support.cluster import BoundedClient, Cluster
from tests.support.servers import ServerBinary
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.drills, pytest.mark.models]


def test_hub_model_is_pinned_to_the_commit_of_its_first_load(
    server_binary: ServerBinary, tmp_path: Path
) -> None:
    for commit in reversed(COMMITS):
        store(tmp_path / "hub", commit)
    body = {"anchor_set": "S", "encoder": {"kind": "transformers", "model": MODEL}}
    with Cluster(server_binary, HF_HOME=str(tmp_path)) as cluster:
        cluster.start("worker")
        with BoundedClient(cluster.api().url) as client:
            items = {"modality": "text", "items": [f"text {i}" for i in range(100)]}
            assert client.send("PUT", "/anchor-sets/S", items).is_success

            def ready() -> bool:
                record = client.send("GET", "/spaces/s").json()
                assert record["status"] != "failed", record
                return bool(record["status"] == "ready")

            assert client.send("PUT", "/spaces/s", body).status_code == 202
            wait_until("the space is ready", ready, 120)
            record = client.send("GET", "/spaces/s").json()
            assert record["encoder"]["revision"] == COMMITS[0]
            head = {"space": "s", "weight": [[0.1] * 384, [0.2] * 384], "labels": ["a", "b"]}
            assert client.send("PUT", "/heads/h", head).status_code == 201
            move(tmp_path / "hub", COMMITS[1])
            again = client.send("PUT", "/spaces/s", body)
            assert (again.status_code, again.json()["version"]) == (202, record["version"])

            def compared() -> bool:
                return "pending" not in client.send("GET", "/spaces/s").json()

            wait_until("a worker has compared the files", compared, 120)
            compared_record = client.send("GET", "/spaces/s").json()
            # The checks against other spaces run in the background and may have ended meanwhile.
            assert compared_record | {"checks": None} == record | {"checks": None}
            assert client.send("POST", "/stitch/s/h", {"items": ["a text"]}).status_code == 200
