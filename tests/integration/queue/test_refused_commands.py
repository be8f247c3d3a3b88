"""Queue servers that answer, and refuse some commands of a worker or deliver late."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from stitchwork.errors import QueueUnavailableError
from stitchwork.queue import stream_reader, streams
from stitchwork.queue.consumer import MAX_DELIVERIES, Consumer
from stitchwork.queue.keys import GROUP, ShardKeys, stream_name
from stitchwork.queue.messages import Job
from stitchwork.queue.shards import QueueShard
from stitchwork.redis.client import RedisClient
from stitchwork.registry.registry import Registry
from stitchwork.registry.server_report import ServerReporter
from tests.integration.queue.test_queue import JOB, consuming, present, take
from tests.integration.queue.test_shards import jobs_by_shard
from tests.support import machine
from tests.support.servers import QUEUE_FLAGS, ServerProcess
from tests.support.waiting import result_of, wait_until

STREAM = ShardKeys().stream(stream_name(JOB.stream))
USER = "limited"
ROUNDS = 50


@pytest.fixture(scope="module")
def processes() -> Iterator[list[ServerProcess]]:
    with ExitStack() as stack:
        processes = []
        for _ in range(2):
            folder = stack.enter_context(TemporaryDirectory(prefix="sw"))
            processes.append(ServerProcess(Path(folder), QUEUE_FLAGS))
            stack.callback(processes[-1].stop)
        yield processes


@pytest.fixture
def shards(processes: list[ServerProcess]) -> Iterator[tuple[QueueShard, ...]]:
    """Two empty shards."""
    shards = tuple(
        QueueShard(process.url, machine.deadline(5.0), number, is_only=False)
        for number, process in enumerate(processes)
    )
    for shard in shards:
        shard.redis.flushall()
    yield shards
    for shard in shards:
        shard.close()


@contextmanager
def limited(shard: QueueShard, *rights: str, is_only: bool = False) -> Iterator[QueueShard]:
    """The same shard for a user with these changes to all rights."""
    words = ("reset", "on", "nopass", "~*", "&*", "+@all", *rights)
    shard.execute(("ACL", "SETUSER", USER, *words))
    url = shard.url.replace("unix://", f"unix://{USER}:any@")
    other = QueueShard(url, shard.timeout, shard.number, is_only=is_only)
    yield other
    other.close()


def admit(shard: QueueShard, job: Job = JOB) -> str:
    return streams.admit(shard, job, job.pack(["x"]), 1, timeout_ms=600_000)


def test_shard_that_takes_no_writes_delays_no_other(shards: tuple[QueueShard, ...]) -> None:
    first, second = jobs_by_shard(shards)
    with consuming(shards) as consumer:
        admit(shards[0], first)
        admit(shards[1], second)
        shards[0].redis.config_set("min-replicas-to-write", 1)
        try:
            assert [delivery.shard for delivery in consumer.take()] == [1]
            admit(shards[1], second)
            assert [delivery.shard for delivery in consumer.take()] == [1]
        finally:
            shards[0].redis.config_set("min-replicas-to-write", 0)
        # A heartbeat finds out that it takes writes again.
        with present(shards):
            assert [delivery.shard for delivery in take(consumer)] == [0]


def test_worker_reads_new_jobs_of_its_only_server_although_it_can_claim_none(
    shards: tuple[QueueShard, ...],
) -> None:
    admit(shards[0])
    with (
        limited(shards[0], "-xautoclaim", is_only=True) as server,
        consuming(server, lease=600.0) as consumer,
    ):
        with pytest.raises(QueueUnavailableError, match="xautoclaim"):
            consumer.take()
        assert len(consumer.take()) == 1


def corrupt(shard: QueueShard) -> None:
    streams.admit(shard, JOB, b"not a job", 1, timeout_ms=600_000)


def delivered_too_often(shard: QueueShard) -> None:
    entry = admit(shard)
    client: Any = shard.redis
    client.xreadgroup(GROUP, "dead", {STREAM: ">"})
    client.xclaim(STREAM, GROUP, "dead", 0, [entry], idle=60_000, retrycount=MAX_DELIVERIES)


@pytest.mark.parametrize("enqueue", [corrupt, delivered_too_often])
def test_job_that_could_not_be_ended_goes_to_another_worker(
    shards: tuple[QueueShard, ...], enqueue: Callable[[QueueShard], None]
) -> None:
    shard = shards[0]
    enqueue(shard)
    with limited(shard, "-xadd", is_only=True) as server, consuming(server, lease=0.4) as failing:
        with pytest.raises(QueueUnavailableError, match=r"(?i)permission|can't run this command"):
            failing.take()
        # It renews what it still works on, which is nothing.
        with consuming(shard, lease=0.4) as other:
            wait_until(
                "the job is ended", lambda: other.take() == [] and not shard.redis.xlen(STREAM)
            )


def test_shard_that_cannot_end_a_call_is_reported(
    shards: tuple[QueueShard, ...], registry_server: RedisClient
) -> None:
    registry = Registry(registry_server, durable=False, stale_seconds=60)
    assert ServerReporter(registry, shards).report().warnings == []
    with limited(shards[1], "-client|unblock") as slow:
        assert ServerReporter(registry, (slow,)).report().warnings == []
        (warning,) = ServerReporter(registry, (shards[0], slow)).report().warnings
    assert "shard q1" in warning
    assert "the right client|unblock" in warning


@contextmanager
def taking(consumer: Consumer) -> Iterator[Callable[[], Sequence[int]]]:
    """A thread that waits for jobs; yields a function that returns the shards of those it got."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(take, consumer)
        yield lambda: [delivery.shard for delivery in result_of(future)]


def test_job_that_arrives_late_is_done_although_the_worker_is_busy(
    shards: tuple[QueueShard, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call that waits for jobs of a shard goes on if it cannot be ended in time."""
    monkeypatch.setattr(stream_reader, "BLOCK_MS", 300_000)
    first, second = jobs_by_shard(shards)
    with (
        limited(shards[1], "-client|unblock") as slow,
        consuming((shards[0], slow)) as consumer,
    ):
        admit(shards[0], first)
        admit(shards[1], second)
        assert {consumer.take()[0].shard for _ in shards} == {0, 1}
        with taking(consumer) as numbers:
            wait_until("the worker waits", lambda: all(map(blocked_clients, shards)))
            admit(shards[0], first)
            assert numbers() == [0]
        admit(shards[1], second)
        for _ in range(ROUNDS):
            admit(shards[0], first)
            if consumer.take()[0].shard == 1:
                break
        else:
            raise AssertionError("the job of the other shard was left")


def blocked_clients(shard: QueueShard) -> int:
    info: Any = shard.redis.info("clients")
    return int(info["blocked_clients"])
