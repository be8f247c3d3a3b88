"""Clusters of real Valkey and Redis processes: slots that move, masters that fail."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest

from stitchwork.errors import (
    QueueUnavailableError,
    RegistryUnavailableError,
)
from stitchwork.queue.keys import SHARD
from stitchwork.redis import chunked_arrays
from stitchwork.redis.async_client import AsyncRedisClient
from stitchwork.redis.client import Check, RedisClient
from stitchwork.redis.subscription import Subscription
from tests.integration.redis.conftest import PATIENCE
from tests.support.redis_cluster import ClusterNode, RedisCluster, redis_cluster
from tests.support.servers import ServerBinary

AOF = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
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
    queue = RedisClient(cluster.url(), 5.0, QueueUnavailableError)
    with closing(connect(cluster)) as registry, closing(queue):
        assert SHARD.bytes.startswith(queue.key(""))
        assert cluster.owner(registry.key("x")) is not cluster.owner(SHARD.bytes)
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
        while cluster.move_keys(moved, target):
            continue
        cluster.end_move(moved, target)
        assert server.execute(("HGET", rest, "f"), ("HGET", moved, "f")) == [b"old", b"old"]
