"""Registry and queue move to servers of another make and version, by replication."""

import os
import socket
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import redis

from tests.chaos.conftest import SPEC, WIDTH
from tests.chaos.test_version_leases import History, pair, put_both, readers
from tests.support.cluster import BoundedClient, Cluster, is_stale
from tests.support.servers import (
    QUEUE_FLAGS,
    REDIS_7_0,
    REDIS_7_4,
    REGISTRY_FLAGS,
    VALKEY_9,
    ServerProcess,
    server_binary,
)
from tests.support.traffic import traffic_to
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.drills, pytest.mark.models, pytest.mark.slow]

# Valkey refuses the files of Redis 7.4, whose format has a number of its own.
RELAXED: Final = ("--rdb-version-check", "relaxed")
MOVES: Final = ((VALKEY_9, ()), (REDIS_7_4, ()), (VALKEY_9, RELAXED))
"""From Redis 7.0, which has no way back: it cannot read what later servers write."""


class MovingServer:
    """A server with a name that clients use, which moves from one process to another.

    Args:
        first: The process that has the name first.
        flags: The options of those after it.
        folder: Where the name and the processes after it go.
    """

    def __init__(self, first: ServerProcess, flags: tuple[str, ...], folder: Path) -> None:
        self._current = first
        self._flags = flags
        self._folder = folder
        self._name = folder / "name.sock"
        self._count = 0
        self.url = f"unix://{self._name}"
        self._take_name()
        self.processes = [first]

    def move(self, name: str, flags: tuple[str, ...]) -> None:
        """Move to another server, as `docs/operations/upgrades.md` says."""
        old, home = self._current, self._folder / str(self._count)
        home.mkdir()
        old_port, new_port = _free_port(), _free_port()
        ports = ("--port", str(new_port))
        new = ServerProcess(home, (*self._flags, *ports, *flags), server_binary(name))
        self.processes.append(new)
        with redis.Redis.from_url(old.url) as before, redis.Redis.from_url(new.url) as after:
            before.config_set("port", old_port)
            _command(after, "REPLICAOF", "127.0.0.1", old_port)
            wait_until("it follows", lambda: _replication(after)["master_link_status"] == "up")
            # The old server knows that a moment later.
            wait_until("it is online", lambda: _replication(before)["slave0"]["state"] == "online")
            _command(before, "FAILOVER", "TO", "127.0.0.1", new_port, "TIMEOUT", 30_000)
            wait_until("it is master", lambda: _replication(after)["role"] == "master")
        old.stop()
        self._current = new
        self._take_name()

    def client(self) -> redis.Redis:
        """A client of the current process."""
        return redis.Redis.from_url(self._current.url)

    def _take_name(self) -> None:
        self._count += 1
        link = self._folder / f"link-{self._count}"
        link.symlink_to(self._current.path)
        os.replace(link, self._name)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def _command(client: Any, *words: str | int) -> Any:
    return client.execute_command(*words)


def _replication(client: redis.Redis) -> dict[str, Any]:
    state: dict[str, Any] = client.info("replication")
    return state


def test_registry_and_queue_move_between_makes_and_versions(tmp_path: Path) -> None:
    history, env = History(), {"STITCHWORK_MODEL_ROOTS": str(SPEC["model"])}
    with Cluster(server_binary(REDIS_7_0), **env) as cluster:
        (cluster.folder / "r").mkdir()
        (cluster.folder / "q").mkdir()
        registry = MovingServer(cluster.registry, REGISTRY_FLAGS, cluster.folder / "r")
        queue = MovingServer(cluster.queue, QUEUE_FLAGS, cluster.folder / "q")
        urls = {"STITCHWORK_REDIS_URL": registry.url, "STITCHWORK_QUEUE_URL": queue.url}
        try:
            _drill(cluster, history, registry, queue, urls)
        finally:
            for process in (*registry.processes[1:], *queue.processes[1:]):
                if process.process.poll() is None:
                    process.stop(kill=True)
    assert history.check() > 0


def _drill(
    cluster: Cluster,
    history: History,
    registry: MovingServer,
    queue: MovingServer,
    urls: dict[str, str],
) -> None:
    apis = [cluster.api(**urls), cluster.api(**urls)]
    cluster.start("worker", **urls)
    with (
        BoundedClient(apis[0].url) as a,
        BoundedClient(apis[1].url) as b,
        BoundedClient(apis[0].url) as writer,
    ):
        anchors = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
        for name, rows in (("m", anchors), ("n", anchors[:, ::-1])):
            space = {"anchor_set": "T", "anchors": rows.tolist(), "encoder": SPEC}
            assert writer.send("PUT", f"/spaces/{name}", space).status_code == 201
        head = {"space": "n", "weight": np.eye(2, WIDTH).tolist(), "labels": ["a", "b"]}
        assert writer.send("PUT", "/heads/h", head).status_code == 201
        history.put(writer, "x", 0)
        history.put(writer, "y", 1)
        wait_until("the worker is alive", writer.ready, 120)
        cluster.jobs.hset("stitchwork:{q0}:dead-jobs", "probe", b"job")
        with (
            traffic_to(*(api.url for api in apis), may_refuse=True) as traffic,
            readers(history, {a: pair, b: pair}, 0.01),
        ):
            traffic.settle("before the moves")
            for number, (name, flags) in enumerate(MOVES):
                registry.move(name, flags)
                seeds = (2 + 2 * number, 3 + 2 * number)
                for seed in seeds:
                    wait_until("it accepts writes", partial(put_both, history, writer, seed))
                queue.move(name, flags)
                wait_until("it takes jobs", writer.ready, 120)
                traffic.settle(f"on {name}")
                with registry.client() as records, queue.client() as jobs:
                    assert records.zscore("stitchwork:space", "y") == 0
                    assert jobs.hget("stitchwork:{q0}:dead-jobs", "probe") == b"job"
            assert traffic.refusals < traffic.calls
        for client in (a, b):
            wait_until("it is fresh", lambda: not is_stale(history.read(client, "x", "y")))  # noqa: B023
        listed = writer.send("GET", "/spaces").json()
        assert {item["id"] for item in listed["items"]} == {"m", "n", "x", "y"}
