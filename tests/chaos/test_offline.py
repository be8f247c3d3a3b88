"""Without a network: no process connects to anything but the two servers."""

import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.conftest import SPEC, WIDTH
from tests.support.cluster import BoundedClient, Cluster, rows_of
from tests.support.servers import ServerBinary
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.drills, pytest.mark.models]

HUB = {
    "text": {"kind": "transformers", "model": "sentence-transformers/all-MiniLM-L6-v2"},
    "image": {"kind": "timm", "model": "resnet18"},
}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)


def traced(trace: Path) -> tuple[str, ...]:
    """The words before a command that record every connect of its process and threads."""
    # -D keeps the process itself as our child, and makes the tracer its grandchild.
    return ("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect", "-o", str(trace))


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    """Tests of this module trace system calls."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tried = subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True)
    if tried.returncode:
        pytest.skip("this system does not allow tracing")


def test_offline_processes_connect_only_to_their_servers(
    server_binary: ServerBinary, tmp_path: Path
) -> None:
    """A model of a hub fails with its reason, a local one serves, and no connect goes out."""
    traces = {name: tmp_path / name for name in ("api", "worker")}
    env = {"STITCHWORK_MODEL_ROOTS": SPEC["model"], "HF_HOME": str(tmp_path / "hub")}
    with Cluster(server_binary, **env) as cluster:
        worker = cluster.start("worker", *traced(traces["worker"]))
        api = cluster.start("api", *traced(traces["api"]))
        with BoundedClient(api.url) as client:
            wait_until("the worker is alive", client.ready, 120)
            items = {"text": [f"text {i}" for i in range(8)], "image": [PIXEL] * 8}
            for modality, spec in HUB.items():
                declared = {"modality": modality, "items": items[modality]}
                assert client.send("PUT", f"/anchor-sets/{modality}", declared).is_success
                space = {"anchor_set": modality, "encoder": spec}
                assert client.send("PUT", f"/spaces/hub-{modality}", space).status_code == 202

            def has_status(id_: str, status: str) -> bool:
                record: dict[str, str] = client.send("GET", f"/spaces/{id_}").json()
                reasons[id_] = record.get("reason", "")
                return record["status"] == status

            reasons: dict[str, str] = {}
            for modality, spec in HUB.items():
                wait_until("it fails", partial(has_status, f"hub-{modality}", "failed"), 60)
                reason = reasons[f"hub-{modality}"]
                assert spec["model"] in reason
                assert "this worker is offline and has no copy of it" in reason
            local = {"anchor_set": "text", "encoder": SPEC}
            assert client.send("PUT", "/spaces/local", local).status_code == 202
            wait_until("the local one serves", partial(has_status, "local", "ready"), 60)
            response = client.send("POST", "/embed/local", {"items": ["a text"]})
            assert rows_of(client.translate(rows_of(response), "local", "local")).shape == (1, 384)
        for process in (api, worker):
            assert process.stop() == 0
        for name, trace in traces.items():
            assert_only_servers(cluster, name, trace)


def assert_only_servers(cluster: Cluster, name: str, trace: Path) -> None:
    """Check that a process connected to nothing but its servers."""
    servers = {str(cluster.registry.path), str(cluster.queue.path)}
    connects = [line for line in trace.read_text().splitlines() if "connect(" in line]
    assert [line for line in connects if "sa_family=AF_UNIX" not in line] == [], name
    paths = {path for line in connects for path in re.findall(r'sun_path="([^"]*)"', line)}
    # The C library also connects to daemons of this machine, for names and unique ids.
    assert servers <= paths, f"the {name} was not traced"


@pytest.mark.slow
def test_local_models_load_without_a_connection_where_a_hub_is_allowed(
    server_binary: ServerBinary, tmp_path: Path
) -> None:
    """Neither telemetry nor updates connect."""
    trace = tmp_path / "worker"
    env = {"STITCHWORK_MODEL_ROOTS": SPEC["model"], "HF_HOME": str(tmp_path / "hub")}
    with Cluster(server_binary, STITCHWORK_OFFLINE="false", **env) as cluster:
        worker = cluster.start("worker", *traced(trace))
        with BoundedClient(cluster.api().url) as client:
            wait_until("the worker is alive", client.ready, 120)
            rows = np.random.default_rng(0).normal(size=(8, WIDTH)).astype(np.float32)
            assert client.put_space("local", rows, encoder={**SPEC, "layer": 3}).is_success
            response = client.send("POST", "/embed/local", {"items": ["a text"]})
            # The set has no items, so no anchors are compared.
            assert rows_of(response).shape == (1, WIDTH)
        assert worker.stop() == 0
        assert_only_servers(cluster, "worker", trace)
