"""Who does what, whose turn it is, and what is cleared away."""

import asyncio
import threading
import time
from typing import Any

import pytest

from stitchwork.errors import QueueFullError
from stitchwork.queue import streams
from stitchwork.queue.heartbeats import Heartbeat
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.messages import Job
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.queue.shards import QueueShard
from stitchwork.queue.upkeep import remove_expired
from stitchwork.queue.worker_registry import WorkerStatus, live_workers
from stitchwork.redis.async_client import AsyncRedisClient
from stitchwork.resources import Registration, TextEncoder
from tests.integration.queue.test_queue import (
    JOB,
    TEXT,
    admit,
    consuming,
    lengths,
    present,
    producing,
    take,
    working,
)
from tests.support import machine

OTHER = Job(id="", encoder=TextEncoder(model="other"))


def test_worker_is_listed_with_its_status_until_it_deregisters(queue_server: QueueShard) -> None:
    with present(queue_server, "one", serves=("words",), refused={"a": "moved"}):
        with present(queue_server, "two", loaded=(JOB.stream,)) as two:
            assert {worker.worker for worker in live_workers((queue_server,), 10.0)} == {
                "one",
                "two",
            }
            with present(queue_server, "three") as three:
                assert three.is_loaded_elsewhere(JOB.stream)
            assert not two.is_loaded_elsewhere(JOB.stream), "what it has itself does not count"
        (one,) = live_workers((queue_server,), 10.0)
    assert (one.serves, one.refused) == (("words",), {"a": "moved"})
    assert [one.takes(ModelRequirement(name)) for name in ("words", "word", "")] == [
        True,
        False,
        True,
    ]
    assert live_workers((queue_server,), 10.0) == []


def test_worker_with_an_unknown_status_is_not_counted(queue_server: QueueShard) -> None:
    with present(queue_server):
        queue_server.redis.hset(ShardKeys().announced, "someone", b'{"unheard": "of"}')
        assert live_workers((queue_server,), 10.0) == []


def test_stream_is_read_only_by_a_worker_that_serves_it(queue_server: QueueShard) -> None:
    def takes(stream: str, requirement: ModelRequirement) -> bool:
        return requirement == ("other", "float32")

    admit(queue_server, JOB, ["x"])
    with consuming(queue_server, takes=takes) as picky:
        assert picky.take() == []
        admit(queue_server, OTHER, ["y"])
        assert [delivery.items for delivery in take(picky)] == [["y"]]


def test_loaded_encoders_go_first_and_no_stream_starves(queue_server: QueueShard) -> None:
    patience = {JOB.stream: 0.0, OTHER.stream: 1.0}
    with consuming(queue_server, patience=lambda stream: patience[stream]) as consumer:
        admit(queue_server, OTHER, ["far"])
        taken, until = [], time.monotonic() + 60.0
        while time.monotonic() < until:
            admit(queue_server, JOB, ["near"])
            batch = take(consumer)
            taken.append(batch[0].items[0])
            for delivery in batch:
                consumer.answer(delivery, lengths(delivery))
            if taken[-1] == "far":
                break
        assert taken[0] == "near", "work that needs no loading does not wait"
        assert taken[-1] == "far", "work that does is done in the end, under any load"


def test_hanging_job_is_released_at_once(queue_server: QueueShard) -> None:
    hung = threading.Event()
    with (
        consuming(queue_server, lease=8.0, hang=0.4, on_hang=hung.set) as stuck,
        consuming(queue_server, lease=8.0) as other,
    ):
        admit(queue_server, JOB, ["x"])
        (jobs,) = take(stuck)
        assert hung.wait(machine.deadline(30))
        (result,) = take(other)
        assert result.items == ["x"]
        assert other.answer(result, lengths(result))
        assert not stuck.answer(jobs, lengths(jobs))


def test_long_load_does_not_count_as_hanging(queue_server: QueueShard) -> None:
    hung = threading.Event()
    with consuming(queue_server, lease=0.4, hang=0.2, on_hang=hung.set) as loading:
        admit(queue_server, JOB, ["x"])
        take(loading)
        loading.leases.progress(allowance=30.0)
        assert not hung.wait(0.8)
        loading.leases.progress()
        assert hung.wait(machine.deadline(30))


def test_queue_with_a_long_wait_refuses_before_it_is_full(queue_server: QueueShard) -> None:
    with (
        present(queue_server),
        producing(queue_server, max_wait_seconds=0.05, full_seconds=60.0) as producer,
    ):
        admit(queue_server, JOB, ["first in line"])
        while streams.stream_backlogs(queue_server)[JOB.stream].waited_ms in range(51):
            pass
        with pytest.raises(QueueFullError, match="has waited longer than 50 ms"):
            producer.drive(producer.run(JOB, ["x"], 20.0))
        with pytest.raises(QueueFullError):
            producer.check_room(TEXT)


def test_backlogs_count_waiting_and_running_jobs(queue_server: QueueShard) -> None:
    with consuming(queue_server) as consumer:
        assert streams.stream_backlogs(queue_server) == {}
        admit(queue_server, JOB, ["x"])
        (delivery,) = take(consumer)
        admit(queue_server, JOB, ["y"])
        backlog = streams.stream_backlogs(queue_server)[JOB.stream]
        assert (backlog.model, backlog.jobs, backlog.running) == ("words", 2, 1)
        assert backlog.waited_ms is not None
        consumer.answer(delivery, lengths(delivery))
        assert streams.stream_backlogs(queue_server)[JOB.stream].running == 0


def test_drain_waits_for_earlier_jobs_and_not_for_later_ones(
    queue_server: QueueShard,
) -> None:
    with producing(queue_server) as producer, consuming(queue_server) as consumer:
        registration = Registration(
            kind="space", id="s", version="1", encoder=TEXT, parent="p", total=3
        )
        streams.enqueue_registration((queue_server,), registration)
        assert producer.drive(producer.drain(5.0)), "nobody waits for a draft's next step"
        (nudged,) = take(consumer)
        consumer.answer(nudged, None)
        admit(queue_server, JOB, ["before"])
        assert not producer.drive(producer.drain(0.2))

        async def drain() -> bool:
            waits = asyncio.ensure_future(producer.drain(20.0))
            await asyncio.sleep(0)
            with working(consumer):
                return await waits

        assert producer.drive(drain())


def remove(server: QueueShard, **options: int) -> int:
    async def main() -> int:
        client = AsyncRedisClient.of(server)
        try:
            return await remove_expired(client, ShardKeys(), **options)
        finally:
            await client.close()

    return asyncio.run(main())


def test_status_of_a_live_worker_outlives_the_announcement_of_its_start(
    queue_server: QueueShard,
) -> None:
    with present(queue_server, "busy"):
        # Its withdrawal failed: the server was away for a moment.
        queue_server.redis.zadd(ShardKeys().starting, {"busy": 1})
        assert remove(queue_server) == 1
        assert [w.worker for w in live_workers((queue_server,), 600)] == ["busy"]
    assert not queue_server.redis.exists(ShardKeys().announced)


def test_leftovers_of_dead_processes_are_removed(queue_server: QueueShard) -> None:
    with consuming(queue_server) as consumer:
        admit(queue_server, JOB, ["x"])
        (delivery,) = take(consumer)
        consumer.answer(delivery, lengths(delivery))
    silent = WorkerStatus(worker="gone")
    Heartbeat((queue_server,), 10.0, lambda: silent)._beat(queue_server)
    queue_server.redis.zadd(ShardKeys().apis, {"api": 1})
    queue_server.redis.rpush(ShardKeys().replies("api"), b"unread")
    assert remove(queue_server) == 1, "the API; the others may still come back"
    assert remove(queue_server) == 0, "one process at a time"
    queue_server.redis.delete(ShardKeys().swept)
    assert remove(queue_server, expired_ms=-1, idle_stream_ms=-1) == 2
    left: Any = queue_server.redis.keys("*")
    assert {key.decode() for key in left} <= {ShardKeys().swept, ShardKeys().bytes}
