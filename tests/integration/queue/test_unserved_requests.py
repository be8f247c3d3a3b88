"""Requests that were accepted before the last worker of their model was gone."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stitchwork.errors import NoWorkerError
from stitchwork.queue import streams
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.shards import QueueShard
from tests.integration.queue.test_queue import (
    JOB,
    DrivenProducer,
    arrival,
    consuming,
    producing,
    queued_bytes,
    working,
)
from tests.support import machine

RESTART = 0.5
TTL = 2.0
"""That of a worker that is killed; heartbeats come four times as often."""
WORKER = f"""
import sys
from stitchwork.queue.heartbeats import Heartbeat, StartAnnouncement
from stitchwork.queue.shards import QueueShard
from stitchwork.queue.worker_registry import WorkerStatus

kind, url, model = sys.argv[1:]
server = QueueShard(url, 5.0)
status = WorkerStatus(worker=kind, serves=(model,))
if kind == "live":
    presence = Heartbeat((server,), {TTL}, lambda: status)
else:
    presence = StartAnnouncement((server,), {TTL}, status)
presence.start()
print("running", flush=True)
sys.stdin.readline()
presence.stop()
if kind == "starting":
    presence.withdraw()
"""
"""A worker that takes nothing, live or starting, until its standard input ends."""


@contextmanager
def worker(server: QueueShard, kind: str, model: str = "*") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-c", WORKER, kind, server.url, model]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str]) -> None:
    """Let a worker end in order."""
    process.communicate("\n", timeout=machine.deadline(30))
    assert process.returncode == 0


async def waiting_request(server: QueueShard, producer: DrivenProducer) -> "asyncio.Task[object]":
    """A request in the queue, whose deadline is far."""
    request = asyncio.create_task(producer.run(JOB, ["x"], machine.deadline(120)))
    await arrival(server)
    return request


def refusal_seconds(server: QueueShard, ttl: float, *, is_killed: bool) -> float:
    """How long after the end of its last worker a request is refused."""

    async def main(producer: DrivenProducer) -> float:
        with worker(server, "live") as process, worker(server, "starting", "other-model"):
            request = await waiting_request(server, producer)
            start = time.monotonic()
            if is_killed:
                process.kill()
            else:
                end(process)
            with pytest.raises(NoWorkerError, match="last worker that took work for words is gone"):
                await request
            return time.monotonic() - start

    with producing(server, worker_ttl_seconds=ttl, worker_restart_seconds=RESTART) as producer:
        return producer.drive(main(producer))


def test_request_whose_last_worker_has_ended_is_refused(queue_server: QueueShard) -> None:
    seconds = refusal_seconds(queue_server, machine.deadline(60), is_killed=False)
    assert seconds >= RESTART, "another worker had no time to start"
    assert seconds < machine.deadline(60)
    assert queued_bytes(queue_server) == 0, "its job was taken out of the queue"


def test_request_whose_last_worker_was_killed_is_refused(queue_server: QueueShard) -> None:
    assert refusal_seconds(queue_server, TTL, is_killed=True) < machine.deadline(60)


def test_request_waits_for_a_worker_that_starts(queue_server: QueueShard) -> None:
    async def main(producer: DrivenProducer) -> None:
        with worker(queue_server, "live") as process, worker(queue_server, "starting"):
            request = await waiting_request(queue_server, producer)
            end(process)
            # Nothing happens, which only time can show.
            await asyncio.wait([request], timeout=RESTART + 1.2)
            assert not request.done(), "the worker that starts was not waited for"
            with consuming(queue_server) as consumer, working(consumer):
                await request

    ttl = machine.deadline(60)
    with producing(
        queue_server, worker_ttl_seconds=ttl, worker_restart_seconds=RESTART
    ) as producer:
        producer.drive(main(producer))


def test_announcement_of_a_start_ends_with_it(queue_server: QueueShard) -> None:
    with worker(queue_server, "starting") as process:
        assert queue_server.redis.zcard(ShardKeys().starting) == 1
        assert not streams.stream_backlogs(queue_server)
        end(process)
        assert queue_server.redis.zcard(ShardKeys().starting) == 0
