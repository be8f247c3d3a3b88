"""What servers are set up for: rights that suffice, and settings that lose or expose data."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from stitchwork.api.app import create_app
from stitchwork.bootstrap import api as api_bootstrap
from stitchwork.bootstrap import worker as worker_bootstrap
from stitchwork.errors import RegistryUnavailableError
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.redis.client import RedisClient
from stitchwork.registry import api_keys
from stitchwork.registry.backups import restore_backup, write_backup
from stitchwork.registry.registry import Registry
from stitchwork.registry.server_report import ServerReporter
from stitchwork.resources import Scope
from stitchwork.settings import Settings
from tests.integration.inference.conftest import ok, register
from tests.support import machine
from tests.support.change_logs import begin_change_log_at
from tests.support.servers import (
    QUEUE_FLAGS,
    REDIS_7_0,
    REGISTRY_FLAGS,
    ServerBinary,
    ServerProcess,
)

PASSWORD = "PASSWORD"  # noqa: S105
PAGE = Path(__file__).parents[3] / "docs/operations/servers.md"
Start = Callable[..., ServerProcess]


@pytest.fixture
def start(server_binary: ServerBinary) -> Iterator[Start]:
    """Starts a server with options, for the test."""
    with ExitStack() as stack:

        def start_server(*flags: str) -> ServerProcess:
            folder = stack.enter_context(TemporaryDirectory(prefix="sw"))
            process = ServerProcess(Path(folder), flags, server_binary)
            stack.callback(process.stop)
            return process

        yield start_server


def documented_rights() -> list[str]:
    """The words of the documented command that makes a user."""
    (line,) = [line for line in PAGE.read_text().splitlines() if "ACL SETUSER" in line]
    return line.split()


@pytest.mark.models
def test_documented_rights_suffice_for_api_worker_and_commands(
    start: Start, tmp_path: Path, server_binary: ServerBinary
) -> None:
    registry, queue = start(*REGISTRY_FLAGS), start(*QUEUE_FLAGS)
    rights = () if server_binary.has_waitaof else ("-waitaof",)
    assert not rights or server_binary.name == REDIS_7_0
    words = documented_rights()
    if rights:
        words.remove("+waitaof")
    for process in (registry, queue):
        with redis.Redis.from_url(process.url) as admin:
            admin.execute_command(*words)
    urls = [f"unix://stitchwork:{PASSWORD}@{process.path}" for process in (registry, queue)]
    begin_change_log_at(registry.url)
    settings = Settings(
        redis_url=urls[0],
        queue_url=urls[1],
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
        api_bootstrap.check_keys(state.api_keys, settings.host)
        with TestClient(create_app(state)) as client:
            register(client)
            body: dict[str, Any] = {"items": ["open the a"]}
            assert ok(client.post("/stitch/texts/head", json=body))["predictions"]
            for bridge in ("exp", "ridge"):
                query = {"source": "texts", "target": "other", "bridge": bridge}
                rows = {**query, "embeddings": [[0.5] * 384]}
                assert ok(client.post("/translate", json=rows))["embeddings"]
            for path in ("/spaces", "/workers", "/info", "/compatibility"):
                ok(client.get(path, params={"anchor_set": "set"} if "comp" in path else {}))
            assert 'stitchwork_redis_up{server="registry"} 1.0' in client.get("/metrics").text
            assert client.delete("/heads/many").status_code == 204
            with redis.Redis.from_url(registry.url) as admin:
                admin.hset("stitchwork:head:later", "record", b'{"format":99}')
                admin.zadd("stitchwork:head", {"later": 0})
            assert client.delete("/heads/later").status_code == 204
            tasks = client.get("/health/ready").json()
            assert tasks["stalled"] == []
            names = {task.name for task in state.background_tasks if task.is_started}
            assert names == {
                *("keys", "version-lease", "space-checks", "reports", "report-leases", "metrics"),
                *("replies", "queue-heartbeat", "upkeep"),
            }
            state.registry.keys.add(api_keys.new("one", [Scope.READ])[1])
            write_backup(state.registry.server, tmp_path / "b")
            restore_backup(state.registry.changes, tmp_path / "b", replace=True)
    finally:
        worker.stop()
        thread.join()


@pytest.mark.parametrize("command", ["hmget", "evalsha", "hset"])
def test_missing_right_is_named_by_its_command(
    start: Start, command: str, server_binary: ServerBinary
) -> None:
    process = start(*REGISTRY_FLAGS)
    with redis.Redis.from_url(process.url) as admin:
        words = [word for word in documented_rights() if word != "+waitaof"]
        admin.execute_command(*words, f"-{command}")
    url = f"unix://stitchwork:{PASSWORD}@{process.path}"
    server = RedisClient(url, machine.deadline(5.0), RegistryUnavailableError)
    registry = Registry(server, durable=False, stale_seconds=60)
    message = rf"(?i)permissions? .*{command}"
    if command == "hset" and server_binary.name == REDIS_7_0:
        message = "executing the script can't run this command"
    with pytest.raises(RegistryUnavailableError, match=message):
        registry.declare_anchor_set("a", "vector", size=2)
    server.close()


@pytest.mark.parametrize(
    ("registry_flags", "queue_flags", "expected"),
    [
        (REGISTRY_FLAGS, QUEUE_FLAGS, []),
        (
            (*REGISTRY_FLAGS, "--maxmemory-policy", "allkeys-lru"),
            QUEUE_FLAGS,
            ["registry server may evict what is registered (maxmemory-policy allkeys-lru)"],
        ),
        (
            REGISTRY_FLAGS,
            ("--appendonly", "yes", "--maxmemory-policy", "allkeys-random"),
            ["queue server may evict jobs", "raw inputs and embeddings"],
        ),
        (REGISTRY_FLAGS, None, ["is also the queue server", "raw inputs and embeddings"]),
        (("--appendonly", "no"), None, ["is also the queue server"]),
    ],
)
def test_settings_that_lose_or_expose_data_are_reported(
    start: Start,
    registry_flags: tuple[str, ...],
    queue_flags: tuple[str, ...] | None,
    expected: list[str],
) -> None:
    one = start(*registry_flags)
    other = one if queue_flags is None else start(*queue_flags)
    settings = Settings(redis_url=one.url, queue_url=None if other is one else other.url)
    state = api_bootstrap.make_app_state(settings)
    api_bootstrap.check_keys(state.api_keys, settings.host)
    with TestClient(create_app(state)) as client:
        warnings = ok(client.get("/info"))["warnings"]
        assert len(warnings) == len(expected)
        for warning, part in zip(warnings, expected, strict=True):
            assert part in warning


@pytest.mark.parametrize(
    ("flags", "promise"),
    [
        (("--appendonly", "yes", "--appendfsync", "always"), "aof"),
        (("--appendonly", "yes", "--appendfsync", "everysec"), "aof unless 7.0"),
        (("--appendonly", "no"), "none"),
    ],
)
def test_durability_is_what_the_server_does(
    start: Start, server_binary: ServerBinary, flags: tuple[str, ...], promise: str
) -> None:
    process = start(*flags)
    server = RedisClient(process.url, machine.deadline(5.0), RegistryUnavailableError)
    registry = Registry(server, durable=server.confirms_writes(), stale_seconds=60)
    report = ServerReporter(registry, (server,)).report()
    if promise == "aof unless 7.0":
        promise = "aof" if server_binary.has_waitaof else "none"
    assert report.durability.startswith(promise)
    assert ("appendfsync always" in report.durability) == (
        promise == "aof" and not server_binary.has_waitaof
    )
    server.close()
