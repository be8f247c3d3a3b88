"""The shards of a queue on a cluster of three masters."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stitchwork.errors import QueueUnavailableError
from stitchwork.queue.shards import QueueShard
from tests.integration.queue.test_queue import DrivenProducer, consuming, producing, working
from tests.integration.queue.test_shards import COUNT, call, jobs_by_shard
from tests.integration.redis.test_server_setup import PASSWORD, documented_rights
from tests.support import machine
from tests.support.redis_cluster import RedisCluster, redis_cluster
from tests.support.servers import ServerBinary


@contextmanager
def shards_of(cluster: RedisCluster) -> Iterator[tuple[QueueShard, ...]]:
    """The shards, by a user with the documented rights and no others."""
    for node in cluster.nodes:
        node.call(*documented_rights())
    url, seconds = cluster.url(credentials=f"stitchwork:{PASSWORD}@"), machine.deadline(2.0)
    shards = tuple(QueueShard(url, seconds, number, is_only=False) for number in range(COUNT))
    yield shards
    for shard in shards:
        shard.close()


def test_master_that_ends_costs_its_shard_alone(server_binary: ServerBinary) -> None:
    with redis_cluster(server_binary) as cluster, shards_of(cluster) as shards:
        owners = [cluster.owner(shard.keys.bytes) for shard in shards]
        assert len(set(owners)) == COUNT, "each shard is on a master of its own"
        jobs = jobs_by_shard(shards)

        async def main(producer: DrivenProducer) -> None:
            for number in range(2 * COUNT):
                assert await call(producer, jobs[number % COUNT], "four") == 4
            # Its clients follow a shard that moves.
            await asyncio.to_thread(cluster.move_slot, shards[2].keys.bytes, owners[0])
            assert await call(producer, jobs[2], "four") == 4
            owners[1].stop()
            with pytest.raises(QueueUnavailableError, match="queue server of shard q1 "):
                await call(producer, jobs[1], "four")
            async with asyncio.timeout(machine.deadline(30)):
                while producer.unavailable_shards != ["q1"]:  # noqa: ASYNC110 a heartbeat
                    await asyncio.sleep(0.01)
            for number in range(20):
                assert await call(producer, jobs[number % 2 * 2], "four") == 4

        with producing(shards) as producer, consuming(shards) as consumer, working(consumer):
            producer.drive(main(producer))
