"""The chart's commands, environment, probes and paths, on real processes."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import pytest
import redis

from tests.support import machine
from tests.support.chart_schema import CHART
from tests.support.cluster import Cluster, Process, foreign_environment
from tests.support.code_blocks import ROOT
from tests.support.helm import Manifest, by_name, environment, render
from tests.support.servers import VALKEY_9, ServerProcess, server_binary

ADMIN_KEY: Final = "k" * 32
PAGE_COMMANDS: Final = re.findall(
    r"sh -c '([^']+)'", (ROOT / "docs/operations/kubernetes.md").read_text()
)
"""What the documentation runs in a pod: a backup to its output, and a restore from its input."""


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    return render(CHART / "ci/production-values.yaml", values={"settings": {"tracing": False}})


@pytest.fixture(scope="module")
def cluster(manifests: list[Manifest]) -> Iterator[Cluster]:
    """Servers, and the chart's environment of an API but for servers, key file and address."""
    variables = environment(by_name(manifests, "Deployment", "-api"))
    settings = {
        name: value
        for name, value in variables.items()
        if name.startswith("STITCHWORK_") and not name.endswith(("_KEY_FILE", "_HOST", "_PORT"))
    }
    with Cluster(server_binary(VALKEY_9), **settings) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Process:
    return cluster.api(STITCHWORK_ADMIN_KEY=ADMIN_KEY)


def get(api: Process, path: str, key: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.get(f"{api.url}{path}", headers=headers, timeout=machine.deadline(30))


def send(api: Process, method: str, path: str, body: Any = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    url, timeout = f"{api.url}{path}", machine.deadline(30)
    return httpx.request(method, url, json=body, headers=headers, timeout=timeout)


def container(manifests: list[Manifest], kind: str, name: str) -> dict[str, Any]:
    workload = by_name(manifests, kind, name)
    (result,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(result, dict)
    return result


def test_probes_of_the_api_need_no_key(api: Process, manifests: list[Manifest]) -> None:
    definition = container(manifests, "Deployment", "-api")
    assert definition["command"] == ["stitchwork", "api"]
    for probe in ("startupProbe", "livenessProbe"):
        assert get(api, definition[probe]["httpGet"]["path"]).status_code == 200
    path = definition["readinessProbe"]["httpGet"]["path"]
    assert get(api, path).json().keys() >= {"ready"}


def test_probes_of_a_worker_are_those_of_its_port(manifests: list[Manifest]) -> None:
    definition = container(manifests, "Deployment", "-worker-default")
    (port,) = definition["ports"]
    variables = {entry["name"]: entry.get("value") for entry in definition["env"]}
    assert variables["STITCHWORK_WORKER_PORT"] == str(port["containerPort"])
    requests = [definition[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")]
    assert requests == [{"path": path, "port": port["name"]} for path in ("/live", "/ready")]


def test_scaler_reads_a_number_with_a_key(api: Process, manifests: list[Manifest]) -> None:
    (trigger,) = by_name(manifests, "ScaledObject", "-worker-default")["spec"]["triggers"]
    url = httpx.URL(trigger["metadata"]["url"])
    assert url.host == "demo-stitchwork-api.models.svc"
    assert get(api, url.path).status_code == 401
    path = url.raw_path.decode()
    answer = get(api, path, ADMIN_KEY).json()
    assert isinstance(answer[trigger["metadata"]["valueLocation"]], float)


def test_scaler_of_a_pool_reads_the_wait_for_its_models(api: Process) -> None:
    values = {
        "keys": {"existingSecret": "keys", "readKeyEntry": "read"},
        "worker": {"autoscaling": {"type": "keda"}},
        "pools": {"text": {"models": ["org/text-*"]}, "images": {"models": ["timm/*", "/a b/*"]}},
    }
    headers = {"X-API-Key": ADMIN_KEY}
    with httpx.Client(base_url=api.url, headers=headers, timeout=machine.deadline(30)) as http:
        # Without a worker the registration waits.
        items = {"modality": "text", "items": ["one", "two", "three"]}
        assert http.put("/anchor-sets/W", json=items).status_code == 201
        encoder = {"kind": "transformers", "model": "sentence-transformers/never-loaded"}
        body = {"anchor_set": "W", "encoder": encoder}
        assert http.put("/spaces/waiting", json=body).status_code == 202
        assert http.get("/workers").json()["waiting"] == 1
        manifests = render(values=values)
        for pool, waits in (("text", 0), ("images", 0), ("default", 1)):
            scaled = by_name(manifests, "ScaledObject", f"-worker-{pool}")
            url = httpx.URL(scaled["spec"]["triggers"][0]["metadata"]["url"])
            assert http.get(url.raw_path.decode()).json()["waiting"] == waits, pool


def test_monitor_reads_metrics_with_a_key(api: Process, manifests: list[Manifest]) -> None:
    (endpoint,) = by_name(manifests, "ServiceMonitor", "-api")["spec"]["endpoints"]
    assert get(api, endpoint["path"]).status_code == 401
    assert "stitchwork_build_info" in get(api, endpoint["path"], ADMIN_KEY).text


def test_backups_by_the_job_and_by_the_documented_commands(
    api: Process, cluster: Cluster, tmp_path: Path
) -> None:
    body = {"modality": "text", "items": ["one", "two", "three"]}
    assert send(api, "PUT", "/anchor-sets/texts", body).status_code == 201
    values = {"backup": {"enabled": True, "existingClaim": "backups", "keep": 2}}
    job = by_name(render(values=values), "CronJob", "-backup")["spec"]["jobTemplate"]["spec"]
    (definition,) = job["template"]["spec"]["containers"]
    (script,) = definition["args"]
    for year in (2001, 2002):
        (tmp_path / f"{year}0101T000000Z.backup").write_text("an earlier one")
    (tmp_path / "stitchwork").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stitchwork "$@"\n')
    (tmp_path / "stitchwork").chmod(0o755)
    env = foreign_environment() | {
        "STITCHWORK_REDIS_URL": cluster.registry.url,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }
    command = [*definition["command"], script.replace("/backups", str(tmp_path))]

    def names() -> list[str]:
        return sorted(path.name for path in tmp_path.glob("*.backup"))

    subprocess.run(command, env=env, check=True)
    first, second = names()
    assert first == "20020101T000000Z.backup"
    with zipfile.ZipFile(tmp_path / second) as archive:
        assert "manifest.json" in archive.namelist()
    # The commands of the documentation, which pass the file through a pod's standard streams.
    texts = [text.replace("/tmp/b", str(tmp_path / "b")) for text in PAGE_COMMANDS]  # noqa: S108
    write, read = (["bash", "-euc", text] for text in texts)
    copied = subprocess.run(write, env=env, check=True, stdout=subprocess.PIPE).stdout
    assert send(api, "DELETE", "/anchor-sets/texts").is_success
    subprocess.run(read, env=env, check=True, input=copied)
    assert get(api, "/anchor-sets/texts", ADMIN_KEY).status_code == 200
    assert not (tmp_path / "b").exists()
    # Where the server cannot be reached nothing is written, and nothing deleted.
    (tmp_path / "20010101T000000Z.backup").write_text("an earlier one")
    unreachable = env | {"STITCHWORK_REDIS_URL": f"unix://{tmp_path}/none.sock"}
    assert subprocess.run(command, env=unreachable, check=False, capture_output=True).returncode
    assert names() == ["20010101T000000Z.backup", first, second]


@pytest.mark.parametrize(
    ("name", "policy", "appends"),
    [("-registry", "noeviction", "yes"), ("-queue", "volatile-lru", "no")],
)
def test_valkey_starts_with_the_options_of_the_chart(name: str, policy: str, appends: str) -> None:
    values = {"valkey": {"passwordSecret": "valkey", "queue": {"maxmemory": "64mb"}}}
    definition = container(render(values=values), "StatefulSet", name)
    assert definition["command"] == ["valkey-server"]
    arguments = definition["args"]
    assert arguments[-2:] == ["--requirepass", "$(VALKEY_PASSWORD)"]
    # A server with a password refuses the ping that a test's server is started by.
    with TemporaryDirectory(prefix="sw") as folder:
        server = ServerProcess(Path(folder), tuple(arguments[:-2]), server_binary(VALKEY_9))
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            config: Any = client.config_get("maxmemory-policy", "appendonly", "save")
        server.stop()
    assert config == {"maxmemory-policy": policy, "appendonly": appends, "save": ""}
