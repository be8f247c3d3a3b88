"""Clusters of real Valkey and Redis processes: slots that move, masters that fail."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from redis.exceptions import ResponseError

from stitchwork.errors import (
    RegistryUnavailableError,
)
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.shards import QueueShard
from stitchwork.redis import chunked_arrays
from stitchwork.redis.async_client import AsyncRedisClient
from stitchwork.redis.client import Check, RedisClient
from stitchwork.redis.subscription import Subscription
from stitchwork.registry.backups import restore_backup, write_backup
from stitchwork.registry.registry import Registry
from stitchwork.registry.server_report import ServerReporter
from tests.integration.redis.conftest import (
    AOF,
    LOCKED,
    PATIENCE,
    SECRET,
    Start,
    tls_flags,
)
from tests.integration.redis.test_server_setup import PASSWORD, documented_rights
from tests.integration.redis.test_topologies import of_client
from tests.support.change_logs import begin_change_log_at
from tests.support.redis_cluster import FAILOVER_MS, ClusterNode, RedisCluster, redis_cluster
from tests.support.servers import VALKEY_9, ServerBinary
from tests.support.waiting import wait_until

REFILL = "redis.call('DEL', KEYS[1]) redis.call('HSET', KEYS[1], 'f', ARGV[1]) return 1"
"""A script that a slot's move would end between its commands."""


@pytest.fixture(scope="module")
def cluster(server_binary: ServerBinary) -> Iterator[RedisCluster]:
    with redis_cluster(server_binary, *AOF) as cluster:
        yield cluster


def connect(cluster: RedisCluster, *, replicas: int = 0) -> RedisClient:
    return RedisClient(
        cluster.url(), 5.0, RegistryUnavailableError, failure_pause=0.0, replicas=replicas
    )


def other_master(cluster: RedisCluster, key: str) -> ClusterNode:
    owner = cluster.owner(key)
    return next(node for node in cluster.masters if node is not owner)


def test_registry_and_queue_have_one_slot_each(cluster: RedisCluster) -> None:
    queue = QueueShard(cluster.url(), 5.0)
    with closing(connect(cluster)) as registry, closing(queue):
        assert ShardKeys().bytes.startswith(queue.key(""))
        assert cluster.owner(registry.key("x")) is not cluster.owner(ShardKeys().bytes)
        promised = registry.confirms_writes()
        wait = 1000 if promised else 0
        commands = [("SET", registry.key(name), name) for name in "abcdef"]
        assert registry.commit([], commands, aof_timeout_ms=wait)
        assert not registry.commit([Check(("GET", registry.key("a")), "b")], commands)
        arrays = {"x": np.arange(6.0).reshape(2, 3)}
        chunked_arrays.write(queue, queue.key("inverse", "x"), arrays, 60)
        stored = chunked_arrays.read(queue, queue.key("inverse", "x"))
        assert stored is not None
        assert np.array_equal(stored["x"], arrays["x"])
        owner = cluster.owner(registry.key("a"))
        assert owner.call("GET", registry.key("a")) == b"a"
        assert registry.redis.info("server")["tcp_port"] == owner.port


def test_documented_rights_suffice_on_a_cluster(
    cluster: RedisCluster, server_binary: ServerBinary
) -> None:
    rights = [
        word for word in documented_rights() if server_binary.has_waitaof or word != "+waitaof"
    ]
    for node in cluster.nodes:
        node.call(*rights)
    url = cluster.url(credentials=f"stitchwork:{PASSWORD}@")
    with closing(RedisClient(url, 5.0, RegistryUnavailableError)) as server:
        wait = 1000 if server.confirms_writes() else 0
        assert server.commit([], [("SET", server.key("acl"), "v")], aof_timeout_ms=wait)
        cluster.move_slot(server.key("acl"), other_master(cluster, server.key("acl")))
        assert server.execute(("GET", server.key("acl"))) == [b"v"]


def test_slots_on_one_node_are_reported(cluster: RedisCluster) -> None:
    queue = QueueShard(cluster.url(), 5.0)
    with closing(connect(cluster)) as server, closing(queue):
        registry = Registry(server, durable=False, stale_seconds=60)
        warning = "registry and queue are on one node of their cluster"
        target = next(
            node
            for node in cluster.masters
            if node not in (cluster.owner(ShardKeys().bytes), cluster.owner(server.key("x")))
        )
        cluster.move_slot(server.key("x"), target)
        assert warning not in str(ServerReporter(registry, (queue,)).report().warnings)
        cluster.move_slot(server.key("x"), cluster.owner(ShardKeys().bytes))
        assert warning in str(ServerReporter(registry, (queue,)).report().warnings)


def test_clients_follow_a_slot_to_another_node(cluster: RedisCluster) -> None:
    with closing(connect(cluster)) as server:
        key = server.key("follow")
        notices = Subscription(server.blocking(5.0), key)
        blocking = server.blocking(5.0)
        assert not notices.wait(0.01)
        assert server.run_script(REFILL, (key,), "before") == 1
        assert blocking.redis.blpop([server.key("none")], timeout=0.01) is None

        async def main() -> None:
            client = AsyncRedisClient.of(server)
            assert await client.execute(("HGET", key, "f")) == [b"before"]
            target = other_master(cluster, key)
            cluster.move_slot(key, target)
            # Nobody notices: the refusal of the old owner names the new one.
            replies = await asyncio.gather(
                client.run_script(REFILL, (server.key("async"),), "v"),
                client.execute(("HGET", key, "f"), ("EXISTS", key), ("ECHO", "x")),
            )
            assert replies == [1, [b"before", 1, b"x"]]
            await client.close()

        asyncio.run(main())
        target = cluster.owner(key)
        assert server.run_script(REFILL, (key,), "after") == 1
        assert server.execute(("HGET", key, "f"), ("EXISTS", key)) == [b"after", 1]
        assert server.redis.info("server")["tcp_port"] == target.port
        with blocking.session() as client:
            assert client.rpush(server.key("list"), "item") == 1
            assert client.blpop([server.key("list")], timeout=0.4)
        server.execute(("PUBLISH", key, "changed"))
        assert notices.wait(PATIENCE)
        notices.close()
        blocking.close()


def test_scripts_are_refused_whole_while_keys_move(cluster: RedisCluster) -> None:
    with closing(connect(cluster)) as server:
        moved, rest = server.key("moved"), server.key("rest")
        target = other_master(cluster, moved)
        # Redis sends keys in the order of its table: this one by name.
        server.run_script(REFILL, (moved,), "old")
        server.run_script(REFILL, (rest,), "old")
        source = cluster.owner(moved)
        cluster.begin_move(moved, target)
        source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", moved)

        def refusals() -> Iterator[Callable[[], object]]:
            yield lambda: server.run_script(REFILL, (rest,), "half")
            yield lambda: server.run_script(REFILL, (moved,), "half")
            yield lambda: server.commit([], [("SET", moved, "half"), ("SET", rest, "half")])
            yield lambda: server.execute(("HGET", moved, "f"))
            yield lambda: server.execute(("HGET", server.key("new"), "f"))
            yield lambda: server.redis.hget(moved, "f")

        for call in refusals():
            with (
                pytest.raises(
                    RegistryUnavailableError, match="is being moved to another node of its cluster"
                ),
                server.session(),
            ):
                call()

        async def main() -> None:
            client = AsyncRedisClient.of(server)
            with pytest.raises(RegistryUnavailableError, match="is being moved"):
                await client.run_script(REFILL, (rest,), "half")
            assert await client.execute(("HGET", rest, "f")) == [b"old"]
            await client.close()

        asyncio.run(main())
        assert server.execute(("HGET", rest, "f")) == [b"old"], "nothing was half written"
        wait_until("all keys have moved", lambda: not cluster.move_keys(moved, target), PATIENCE)
        cluster.end_move(moved, target)
        assert server.execute(("HGET", rest, "f"), ("HGET", moved, "f")) == [b"old", b"old"]


def test_no_write_is_lost_or_refused_for_long_while_its_slot_moves(
    cluster: RedisCluster, server_binary: ServerBinary
) -> None:
    with closing(connect(cluster)) as server:
        key = server.key("moving")
        target = other_master(cluster, key)
        stop, confirmed, refusals = threading.Event(), list[str](), list[str]()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                commands = [
                    ("HSET", key, str(number), "v"),
                    ("DEL", server.key("again")),
                    ("SET", server.key("again"), number),
                ]
                try:
                    server.commit([], commands)
                except RegistryUnavailableError as error:
                    refusals.append(error.message)
                else:
                    confirmed.append(str(number))

        thread = threading.Thread(target=write)
        thread.start()
        try:
            wait_until("writes begin", lambda: confirmed, PATIENCE)
            if server_binary.name == VALKEY_9:
                cluster.move_slot_at_once(key, target)
            else:
                cluster.move_slot(key, target)
            count = len(confirmed)
            wait_until("writes go on", lambda: len(confirmed) > count, PATIENCE)
        finally:
            stop.set()
            thread.join()
        stored = {text.decode() for text in server.execute(("HKEYS", key))[0]}
        if server_binary.name == VALKEY_9:
            assert not refusals
        assert all("is being moved" in message for message in refusals)
        assert stored == set(confirmed), "each write is there as a whole, or refused"


def test_registry_moves_to_a_cluster_by_its_backup(
    cluster: RedisCluster, start: Start, tmp_path: Path
) -> None:
    url = f"redis://127.0.0.1:{start().port}"
    for address in (url, cluster.url()):
        begin_change_log_at(address)
    single = RedisClient(url, 5.0, RegistryUnavailableError)
    with closing(single), closing(connect(cluster)) as server:
        before, after = (Registry(one, durable=False, stale_seconds=60) for one in (single, server))
        before.declare_anchor_set("a", "vector", size=2)
        write_backup(single, tmp_path / "backup")
        restore_backup(after.changes, tmp_path / "backup")
        assert after.anchor_sets.get("a") == before.anchor_sets.get("a")


def test_no_confirmed_write_is_lost_by_failovers(cluster: RedisCluster) -> None:
    with closing(connect(cluster, replicas=1)) as server, closing(connect(cluster)) as alone:
        key = server.key("log")
        replica = cluster.add_replica(cluster.owner(key))
        confirms = server.confirms_writes()
        stop, confirmed, refusals = threading.Event(), list[str](), list[str]()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                commands = [("HSET", key, str(number), "v"), ("SET", server.key("last"), number)]
                try:
                    server.commit([], commands, aof_timeout_ms=400 if confirms else 0)
                except RegistryUnavailableError as error:
                    refusals.append(error.message)
                else:
                    confirmed.append(str(number))

        def take_over() -> bool:
            if cluster.owner(key) is not replica:
                # It is refused until the replica has heard from its master.
                with suppress(ResponseError):
                    replica.call("CLUSTER", "FAILOVER")
            return cluster.owner(key) is replica

        thread = threading.Thread(target=write)
        thread.start()
        try:
            wait_until("writes are confirmed", lambda: confirmed, PATIENCE)
            wait_until("the replica takes over", take_over, PATIENCE)
            count = len(confirmed)
            wait_until("writes go on", lambda: len(confirmed) > count, PATIENCE)
            cluster.set_node_timeout(FAILOVER_MS)
            replica.stop()
            wait_until("its own replica takes over", lambda: writes(alone), PATIENCE)
        finally:
            stop.set()
            thread.join()
        if confirms:
            stored = {text.decode() for text in alone.execute(("HKEYS", key))[0]}
            assert stored.issuperset(confirmed)
        assert refusals, "a master that was killed confirms nothing"


def writes(server: RedisClient) -> bool:
    try:
        return server.commit([], [("SET", server.key("writes"), "yes")])
    except RegistryUnavailableError:
        return False


def test_urls_of_another_topology_are_refused_by_name(cluster: RedisCluster, start: Start) -> None:
    single, node = start(), cluster.owner("stitchwork:k")
    elsewhere = next(other for other in cluster.masters if other is not node and other.is_up())
    for url, message in (
        (f"cluster://127.0.0.1:{single.port}", "is no cluster; expected redis:// for one server"),
        (f"redis://127.0.0.1:{node.port}", "is a node of a cluster; expected cluster:// in its"),
        (f"redis://127.0.0.1:{elsewhere.port}", "is a node of a cluster; expected cluster://"),
        ("cluster://127.0.0.1:1", r"cannot be reached or does not answer \(node 127.0.0.1:1\)"),
    ):
        server = RedisClient(url, 2.0, RegistryUnavailableError, failure_pause=0.0)
        with closing(server), pytest.raises(RegistryUnavailableError, match=message):
            server.commit([], [("SET", "stitchwork:k", 1), ("SET", "stitchwork:l", 1)])


def test_node_with_an_unreachable_address_is_named(start: Start) -> None:
    node = start("--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.9")
    node.ask("CLUSTER", "ADDSLOTSRANGE", "0", "8000")
    url = f"cluster://127.0.0.1:{node.port}"
    with closing(RedisClient(url, 2.0, RegistryUnavailableError, failure_pause=0.0)) as server:
        with pytest.raises(RegistryUnavailableError, match="has no node that serves slot 15835"):
            server.ping()
        node.ask("CLUSTER", "ADDSLOTSRANGE", "8001", "16383")
        # The address of another interface, where nobody listens.
        node.ask("CONFIG", "SET", "bind", "127.0.0.1")
        named = rf"\(node 127.0.0.9:{node.port}, as the cluster announces it\)"
        with pytest.raises(RegistryUnavailableError, match=named):
            server.ping()

        async def main() -> None:
            client = AsyncRedisClient.of(server)
            with pytest.raises(RegistryUnavailableError, match=named):
                await client.ping()
            await client.close()

        asyncio.run(main())


def test_cluster_over_tls_with_a_password_works(start: Start, certificates: Path) -> None:
    # A node that starts waits for as long before it serves.
    wait = ("--cluster-node-timeout", str(FAILOVER_MS))
    flags = ("--cluster-enabled", "yes", "--tls-cluster", "yes", *wait, *LOCKED)
    node = start(*AOF, *flags, tls=tls_flags(certificates))
    node.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    options = f"ssl_ca_certs={certificates}/ca.pem&{of_client(certificates)}"
    place = f"127.0.0.1:1,127.0.0.1:{node.port}?{options}"
    with closing(
        RedisClient(f"clusters://:{SECRET}@{place}", 5.0, RegistryUnavailableError)
    ) as server:
        wait_until("it is complete", lambda: writes(server), PATIENCE)

        async def main() -> None:
            client = AsyncRedisClient.of(server)
            assert await client.execute(("GET", server.key("writes"))) == [b"yes"]
            await client.close()

        asyncio.run(main())
    for credentials, trust, message in (
        ("wrong", options, "refused the user name or the password"),
        (SECRET, f"ssl_ca_certs={certificates}/other.pem", "certificate that is not trusted"),
    ):
        url = f"clusters://:{credentials}@127.0.0.1:{node.port}?{trust}"
        with closing(RedisClient(url, 5.0, RegistryUnavailableError)) as stranger:
            with pytest.raises(RegistryUnavailableError, match=message) as error:
                stranger.ping()
            assert SECRET not in str(error.value)
