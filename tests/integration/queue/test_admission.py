"""Requests are admitted whole or not at all, and what is cancelled leaves nothing."""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stitchwork.errors import InvalidInputError, QueueFullError
from stitchwork.queue import streams
from stitchwork.queue.admission import MAX_INLINE_BYTES
from stitchwork.queue.deliveries import Delivery
from stitchwork.queue.keys import ShardKeys, stream_name
from stitchwork.queue.messages import Job, Reply
from stitchwork.queue.shards import QueueShard
from stitchwork.queue.upkeep import remove_expired
from stitchwork.redis.async_client import AsyncRedisClient
from stitchwork.resources import TextEncoder
from tests.integration.queue.test_queue import (
    JOB,
    DrivenProducer,
    admit,
    consuming,
    lengths,
    present,
    producing,
    queued_bytes,
    settle_cancellations,
    take,
    working,
)
from tests.support import machine
from tests.support.servers import QUEUE_FLAGS, ServerBinary, ServerProcess
from tests.support.waiting import wait_until

STREAM = ShardKeys().stream(stream_name(JOB.stream))
SECONDS_PER_TEXT = 0.01


@contextmanager
def slow_worker(server: QueueShard) -> Iterator[None]:
    """A worker that takes the same time for each text, and says so."""
    stop = threading.Event()
    with consuming(server) as consumer:

        def work() -> None:
            while not stop.is_set():
                for delivery in consumer.take():
                    seconds = SECONDS_PER_TEXT * len(delivery.items)
                    stop.wait(seconds)
                    consumer.answer_all([(delivery, lengths(delivery), seconds)])

        thread = threading.Thread(target=work)
        thread.start()
        yield
        stop.set()
        thread.join()


def test_request_that_finds_too_little_room_is_refused_whole(queue_server: QueueShard) -> None:
    with present(queue_server), producing(queue_server, max_jobs=4) as producer:
        parts = [["x"] * 10] * 6
        with pytest.raises(QueueFullError, match="max_queue_jobs") as refusal:
            producer.drive(producer.run_all(JOB, parts, 20.0))
        assert refusal.value.max_items == 40
        assert queue_server.redis.xlen(STREAM) == 0
        assert queued_bytes(queue_server) == 0
        with consuming(queue_server) as consumer, working(consumer):
            replies = producer.drive(producer.run_all(JOB, parts[:4], 20.0))
        assert [len(reply.rows) for reply in replies if reply.rows is not None] == [10] * 4


def test_request_that_cannot_be_done_in_time_is_refused_with_the_size_that_can(
    queue_server: QueueShard,
) -> None:
    with producing(queue_server) as producer, slow_worker(queue_server):
        # The first one is taken although nothing is known yet.
        producer.drive(producer.run_all(JOB, [["four"] * 20], 20.0))
        with pytest.raises(QueueFullError, match="at most") as refusal:
            producer.drive(producer.run_all(JOB, [["four"] * 64] * 8, 1.0))
        assert queue_server.redis.xlen(STREAM) == 0, "nothing of it runs"
        fits = refusal.value.max_items
        assert fits is not None
        assert 0.7 < fits * SECONDS_PER_TEXT < 1.0
        producer.check_room(JOB.encoder or TextEncoder(model="words"))
        replies = producer.drive(producer.run_all(JOB, [["four"] * (fits // 2)] * 2, 5.0))
        assert sum(len(reply.rows) for reply in replies if reply.rows is not None) == fits // 2 * 2
        # However slow it is thought to be, an idle service takes one text.
        queue_server.redis.hset(ShardKeys().pace(JOB.stream), "ms", 1e9)
        assert producer.drive(producer.run(JOB, ["four"], 5.0)).rows is not None


def test_cancelled_job_gives_its_bytes_back_also_while_a_worker_has_it(
    queue_server: QueueShard,
) -> None:
    large = "x" * (MAX_INLINE_BYTES + 1)
    with producing(queue_server) as producer, consuming(queue_server) as consumer:

        async def leave() -> Delivery:
            task = asyncio.ensure_future(producer.run_all(JOB, [[large], ["small"]], 20.0))
            (first, _) = await asyncio.to_thread(take, consumer)
            assert queue_server.redis.exists(ShardKeys().payload(first.payload))
            task.cancel()
            await asyncio.wait([task])
            await settle_cancellations(queue_server)
            return first

        delivery = producer.drive(leave())
        assert delivery.items == [large]
        assert not queue_server.redis.exists(ShardKeys().payload(delivery.payload))
        assert queue_server.redis.xlen(STREAM) == 0
        assert not consumer.answer(delivery, lengths(delivery)), "nobody waits for it"
        assert queued_bytes(queue_server) == 0
        pace = ShardKeys().pace(JOB.stream)
        assert queue_server.redis.hmget(pace, ["jobs:0", "cost:0"]) == [b"0", b"0"]


def test_failed_job_takes_the_others_of_its_request_out_of_the_queue(
    queue_server: QueueShard,
) -> None:
    def refuse(delivery: Delivery) -> Reply:
        return Reply(delivery.job.id, error=InvalidInputError("that one", pointer="/items/1/x"))

    with producing(queue_server) as producer, consuming(queue_server) as consumer:

        async def run() -> None:
            parts = [["a"] * 8, ["b"] * 8, ["c"] * 8]
            task = asyncio.ensure_future(producer.run_all(JOB, parts, 20.0))
            first = (await asyncio.to_thread(take, consumer))[0]
            second = (await asyncio.to_thread(take, consumer))[0]
            assert first.items + second.items == parts[0] + parts[1]
            await asyncio.to_thread(consumer.answer, second, refuse(second))
            with pytest.raises(InvalidInputError, match="that one") as error:
                await task
            assert error.value.pointer == "/items/9/x"
            await settle_cancellations(queue_server)

        producer.drive(run())
        assert queue_server.redis.xlen(STREAM) == 0


def test_batch_of_large_jobs_is_bounded_by_inputs(queue_server: QueueShard) -> None:
    with consuming(queue_server) as consumer:
        for size in (5, 5, 5, 1):
            admit(queue_server, Job(id="7", encoder=JOB.encoder), ["x"] * size)
        assert [len(delivery.items) for delivery in take(consumer)] == [5, 5]
        assert [len(delivery.items) for delivery in take(consumer)] == [5, 1]


def test_scripts_use_keys_of_one_slot(server_binary: ServerBinary) -> None:
    """On a cluster of one node, which refuses commands and scripts that span slots."""
    with TemporaryDirectory(prefix="sw") as folder:
        ports = ("--port", str(free_port()), "--cluster-port", str(free_port()))
        flags = (*QUEUE_FLAGS, *ports, "--cluster-enabled", "yes")
        process = ServerProcess(Path(folder), flags, server_binary)
        server = QueueShard(process.url, 5.0)
        server.execute(("CLUSTER", "ADDSLOTSRANGE", 0, 16383))
        wait_until(
            "it is up", lambda: b"cluster_state:ok" in server.execute(("CLUSTER", "INFO"))[0]
        )
        large = "x" * (MAX_INLINE_BYTES + 1)
        with producing(server, caller_classes=3) as producer, consuming(server) as consumer:
            with working(consumer):
                parts = [["a"], [large], ["b", large]]
                replies = producer.drive(producer.run_all(JOB, parts, 20.0))
            assert [reply.rows is not None for reply in replies] == [True] * 3
            assert streams.stream_backlogs(server) == {}
            assert producer.drive(producer.drain(5.0))
            leave(producer)
        assert queued_bytes(server) == 0
        server.close()
        process.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def leave(producer: DrivenProducer) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(producer.run(JOB, ["x"], 20.0))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        await settle_cancellations(producer.shards[0])

    producer.drive(run())


def test_pace_of_a_registration_bounds_the_first_request(queue_server: QueueShard) -> None:
    encoder = JOB.encoder or TextEncoder(model="words")
    streams.record_work((queue_server,), encoder, ["four"] * 50, 50 * SECONDS_PER_TEXT)
    assert 0 < queue_server.redis.ttl(ShardKeys().pace(JOB.stream)) <= streams.PACE_SECONDS
    with present(queue_server), producing(queue_server) as producer:
        with pytest.raises(QueueFullError, match="at most") as refusal:
            producer.drive(producer.run_all(JOB, [["four"] * 64] * 8, 1.0))
        assert refusal.value.max_items in (89, 90)
        assert queue_server.redis.ttl(ShardKeys().pace(JOB.stream)) == -1, (
            "as long as it has streams"
        )


def test_pace_outlives_the_streams_of_an_idle_encoder(queue_server: QueueShard) -> None:
    with producing(queue_server) as producer:
        with slow_worker(queue_server):
            producer.drive(producer.run_all(JOB, [["four"] * 20], 20.0))
        client = AsyncRedisClient.of(queue_server)

        async def expire() -> None:
            await client.execute(("DEL", ShardKeys().swept))
            await remove_expired(client, ShardKeys(), idle_stream_ms=-1)
            await client.close()

        producer.drive(expire())
    assert not queue_server.redis.exists(STREAM)
    pace = ShardKeys().pace(JOB.stream)
    assert set(queue_server.redis.hgetall(pace)) == {b"ms", b"work"}
    assert queue_server.redis.ttl(pace) > 0


def test_encoders_share_a_worker_by_time_and_the_estimate_counts_their_share(
    queue_server: QueueShard,
) -> None:
    """The batches of one take ten times as long as those of the other."""
    slow, fast = (Job(id="", encoder=TextEncoder(model=name)) for name in ("slow", "fast"))
    seconds = {slow.stream: 0.02, fast.stream: 0.002}
    work, stop = Counter[str](), threading.Event()
    with (
        producing(queue_server, max_jobs=10_000, max_wait_seconds=600.0) as producer,
        consuming(queue_server) as consumer,
    ):

        def serve() -> None:
            while not stop.is_set():
                batch, began = consumer.take(), time.monotonic()
                stop.wait(sum(seconds[d.job.stream] * len(d.items) for d in batch))
                took = time.monotonic() - began
                if batch:
                    work[batch[0].job.stream] += round(1000 * took)
                share = took / max(1, len(batch))
                consumer.answer_all([(d, lengths(d), share) for d in batch])

        async def flood(job: Job) -> None:
            while True:
                await producer.run_all(job, [["four"] * 8], 600.0)

        async def run() -> tuple[list[int], int | None]:
            floods = [asyncio.ensure_future(flood(job)) for job in (slow, fast) for _ in range(8)]
            # Samples of the work are a second apart.
            async with asyncio.timeout(machine.deadline(60)):
                while sum(work.values()) < 4000:  # noqa: ASYNC110 state of the worker
                    await asyncio.sleep(0.05)
            shares = [work[job.stream] for job in (slow, fast)]
            with pytest.raises(QueueFullError) as refusal:
                await producer.run_all(slow, [["four"] * 64] * 32, 10.0)
            for task in floods:
                task.cancel()
            await asyncio.wait(floods)
            return shares, refusal.value.max_items

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            shares, max_items = producer.drive(run())
        finally:
            stop.set()
            thread.join()
    assert min(shares) > 0.3 * sum(shares)
    # Alone it would do 450 in 9 of 10 seconds; up to 64 of each wait already.
    assert max_items is not None
    assert 20 < max_items < 300
