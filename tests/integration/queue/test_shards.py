"""A queue of several shards, each on a server of its own."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from starlette.testclient import TestClient

from stitchwork.api.app import create_app
from stitchwork.bootstrap import api as api_bootstrap
from stitchwork.bootstrap.shared import connect_servers
from stitchwork.errors import NoWorkerError, QueueUnavailableError, UnknownResourceError
from stitchwork.queue import dead_letters, streams
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.deliveries import Delivery
from stitchwork.queue.messages import Job
from stitchwork.queue.shards import QueueShard, shard_of
from stitchwork.queue.turns import EncoderTurns
from stitchwork.redis.client import RedisClient
from stitchwork.resources import TextEncoder
from stitchwork.settings import Settings
from stitchwork.telemetry.metrics import DeadLetterReason
from tests.integration.queue.test_queue import (
    DrivenProducer,
    consuming,
    present,
    producing,
    queued_bytes,
    take,
    working,
)
from tests.support import machine
from tests.support.servers import QUEUE_FLAGS, ServerBinary, ServerProcess
from tests.support.waiting import result_of, wait_until

COUNT = 3
CALL_SECONDS = 1.0
ROUNDS = 20


@pytest.fixture(scope="module")
def servers(server_binary: ServerBinary) -> Iterator[list[ServerProcess]]:
    with ExitStack() as stack:
        processes = []
        for _ in range(COUNT):
            folder = stack.enter_context(TemporaryDirectory(prefix="sw"))
            processes.append(ServerProcess(Path(folder), QUEUE_FLAGS, server_binary))
            stack.callback(processes[-1].stop)
        yield processes


@pytest.fixture
def shards(servers: list[ServerProcess]) -> Iterator[tuple[QueueShard, ...]]:
    with connected(servers) as shards:
        for shard in shards:
            shard.redis.flushall()
        yield shards


@contextmanager
def connected(servers: Sequence[ServerProcess]) -> Iterator[tuple[QueueShard, ...]]:
    seconds = machine.deadline(CALL_SECONDS)
    shards = tuple(
        QueueShard(process.url, seconds, number, is_only=len(servers) == 1)
        for number, process in enumerate(servers)
    )
    yield shards
    for shard in shards:
        shard.close()


def jobs_by_shard(shards: Sequence[QueueShard]) -> list[Job]:
    """A job for each shard, by the number of the shard."""
    jobs: dict[int, Job] = {}
    for number in range(100):
        job = Job(id="", encoder=TextEncoder(model=f"words-{number}"))
        jobs.setdefault(shard_of(shards, job.stream).number, job)
    return [jobs[shard.number] for shard in shards]


async def call(producer: DrivenProducer, job: Job, text: str) -> float:
    result = await producer.run(job, [text], machine.deadline(30))
    assert result.rows is not None
    return float(result.rows[0, 0])


def test_encoder_has_the_same_shard_in_all_processes(shards: tuple[QueueShard, ...]) -> None:
    # Another release that counted otherwise would not find the jobs of this one.
    keys = ("registration", "text:words", "image:pictures", "a", "b")
    assert [shard_of(shards, key).number for key in keys] == [0, 1, 2, 0, 2]
    assert {shard_of(shards[:1], key).number for key in keys} == {0}


def test_jobs_of_each_encoder_are_done_in_its_shard(shards: tuple[QueueShard, ...]) -> None:
    jobs = jobs_by_shard(shards)

    async def main(producer: DrivenProducer) -> list[float]:
        return list(
            await asyncio.gather(
                *(call(producer, jobs[i % COUNT], "x" * (i + 1)) for i in range(60))
            )
        )

    with producing(shards) as producer, consuming(shards) as consumer, working(consumer) as sizes:
        assert producer.drive(main(producer)) == list(range(1, 61))
    assert max(sizes) > 1, "what had queued up was taken as one batch"
    for shard, job in zip(shards, jobs, strict=True):
        assert [encoder.encoder for encoder in streams.all_streams(shard)] == [job.stream]
        assert queued_bytes(shard) == 0


def test_encoders_of_a_shard_are_read_together(shards: tuple[QueueShard, ...]) -> None:
    for number in range(12):
        job = Job(id="", encoder=TextEncoder(model=f"words-{number}"))
        shard = shard_of(shards, job.stream)
        streams.admit(shard, job, job.pack(["x"]), 1, timeout_ms=60_000)
    turns = EncoderTurns(shards, lambda *_: True, lambda _: 0.0)
    turns.refresh()
    numbers = [encoder.shard for encoder in turns]
    assert len(numbers) == 12
    assert numbers == sorted(numbers)


def test_idle_worker_gets_jobs_of_any_shard_as_soon_as_they_come(
    shards: tuple[QueueShard, ...],
) -> None:
    def seconds(shards: Sequence[QueueShard]) -> float:
        jobs = jobs_by_shard(shards)

        async def main(producer: DrivenProducer) -> float:
            for job in jobs:
                await call(producer, job, "first")
            start = time.monotonic()
            for number in range(ROUNDS):
                await call(producer, jobs[number % len(jobs)], "x")
            return time.monotonic() - start

        with producing(shards) as producer, consuming(shards) as consumer, working(consumer):
            return producer.drive(main(producer))

    alone = seconds(shards[:1])
    # A worker that waited for one shard at a time would take a quarter of a second for each.
    assert seconds(shards) < 10 * alone + 0.1 * ROUNDS


def test_busy_worker_holds_no_job_of_another_shard(shards: tuple[QueueShard, ...]) -> None:
    first, second, _ = jobs_by_shard(shards)
    with consuming(shards) as busy, consuming(shards) as other:
        # Both streams exist, so that both are waited for.
        for job in (first, second):
            shard = shard_of(shards, job.stream)
            streams.admit(shard, job, job.pack(["x"]), 1, timeout_ms=60_000)
            busy.answer(take(busy)[0], None)
        with ExitStack() as stack:
            arrivals = stack.enter_context(taking(busy))
            streams.admit(shards[0], first, first.pack(["x"]), 1, timeout_ms=60_000)
            (delivery,) = arrivals()
        streams.admit(shards[1], second, second.pack(["x"]), 1, timeout_ms=60_000)
        (elsewhere,) = take(other)
        assert (delivery.shard, elsewhere.shard) == (0, 1)
        assert busy.answer(delivery, None)
        assert other.answer(elsewhere, None)


@contextmanager
def taking(consumer: Consumer) -> Iterator[Callable[[], list[Delivery]]]:
    """A thread that waits for jobs; yields a function that returns them."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(take, consumer)
        yield lambda: result_of(future)


def test_shard_that_is_away_concerns_its_encoders_only(
    servers: list[ServerProcess], shards: tuple[QueueShard, ...]
) -> None:
    jobs = jobs_by_shard(shards)

    async def refusal(producer: DrivenProducer) -> str:
        with pytest.raises(QueueUnavailableError) as error:
            await call(producer, jobs[1], "x")
        return error.value.message

    async def main(producer: DrivenProducer) -> None:
        for job in jobs:
            await call(producer, job, "first")
        for is_killed in (False, True):
            servers[1].stop(kill=True) if is_killed else servers[1].pause()
            try:
                assert "queue server of shard q1" in await refusal(producer)
                for number in range(2 * ROUNDS):
                    assert await call(producer, jobs[0 if number % 2 else 2], "four") == 4
                async with asyncio.timeout(machine.deadline(30)):
                    while producer.unavailable_shards != ["q1"]:  # noqa: ASYNC110 a heartbeat
                        await asyncio.sleep(0.01)
                assert len(producer.connected_workers) == 1
            finally:
                servers[1].start() if is_killed else servers[1].resume()
            async with asyncio.timeout(machine.deadline(30)):
                while not await answers(producer, jobs[1]):  # noqa: ASYNC110 state of others
                    await asyncio.sleep(0.05)
            assert await call(producer, jobs[0], "four") == 4

    with producing(shards) as producer, consuming(shards) as consumer, working(consumer):
        producer.drive(main(producer))


async def answers(producer: DrivenProducer, job: Job) -> bool:
    try:
        return await call(producer, job, "x") == 1
    except (QueueUnavailableError, NoWorkerError):
        return False


def test_jobs_from_before_the_queue_had_shards_are_done(shards: tuple[QueueShard, ...]) -> None:
    """A worker drains all its shards, whichever an encoder's jobs would go to today."""
    jobs = jobs_by_shard(shards)

    async def main(producer: DrivenProducer) -> list[float]:
        return [await call(producer, job, "four") for job in jobs]

    with (
        producing(shards[:1]) as producer,
        consuming(shards) as consumer,
        working(consumer),
    ):
        assert producer.drive(main(producer)) == [4.0] * COUNT
    assert len(streams.all_streams(shards[0])) == COUNT


def test_shard_that_no_worker_reads_is_named(shards: tuple[QueueShard, ...]) -> None:
    message = "no live worker reads shard q1 of the queue: expected the same queue_shards"
    with (
        producing(shards) as producer,
        present(shards[:1]),
        pytest.raises(NoWorkerError, match=message),
    ):
        producer.drive(call(producer, jobs_by_shard(shards)[1], "x"))


def test_dead_letters_of_all_shards_are_listed_and_dropped(
    shards: tuple[QueueShard, ...],
) -> None:
    jobs = jobs_by_shard(shards)
    ids = [
        dead_letters.add(shard, job.stream, "0-1", job.pack(["x"]), DeadLetterReason.CORRUPT)
        for shard, job in zip(shards, jobs, strict=True)
    ]
    letters = dead_letters.list_all(shards)
    assert {letter.id for letter in letters} == set(ids)
    assert [id_.rpartition(":")[0] for id_ in ids] == ["", "q1", "q2"]
    for id_, job in zip(ids, jobs, strict=True):
        assert dead_letters.read(shards, id_)[0].encoder == job.encoder
        dead_letters.delete(shards, id_)
    assert dead_letters.list_all(shards) == []
    for unknown, message in (
        (ids[1], "no dead letter q1:"),
        ("q7:0-1", r"in 3 shards \(queue_sha"),
    ):
        with pytest.raises(UnknownResourceError, match=message):
            dead_letters.read(shards, unknown)


def test_api_sums_over_shards_and_names_those_that_are_away(
    servers: list[ServerProcess], shards: tuple[QueueShard, ...], registry_server: RedisClient
) -> None:
    urls = " ".join(server.url for server in servers)
    settings = Settings(redis_url=registry_server.url, queue_url=urls)
    for shard, job in zip(shards, jobs_by_shard(shards), strict=True):
        streams.admit(shard, job, job.pack(["x"]), 1, timeout_ms=60_000)
    state = api_bootstrap.make_app_state(settings)
    api_bootstrap.check_keys(state.api_keys, settings.host)
    with present(shards), TestClient(create_app(state)) as client:
        report = client.get("/workers").json()
        assert (report["waiting"], report["unavailable_shards"]) == (COUNT, [])
        assert len(report["workers"]) == 1
        text = client.get("/metrics").text
        assert f'stitchwork_queue_jobs{{state="waiting"}} {COUNT}.0' in text
        servers[2].stop(kill=True)
        try:
            wait_until("readiness knows it", lambda: not ready(client)["queue"])
            assert ready(client)["unavailable_shards"] == ["q2"]
            assert (ready(client)["ready"], ready(client)["workers"]) == (True, 1)
            report = client.get("/workers").json()
            assert (report["waiting"], report["unavailable_shards"]) == (COUNT - 1, ["q2"])
            text = client.get("/metrics").text
            assert 'stitchwork_redis_up{server="queue-q2"} 0.0' in text
            assert 'stitchwork_redis_up{server="queue-q1"} 1.0' in text
            assert f'stitchwork_queue_jobs{{state="waiting"}} {COUNT - 1}.0' in text
        finally:
            servers[2].start()
        wait_until("it is known again", lambda: ready(client)["queue"])
    (registry, connected_shards) = connect_servers(settings)
    assert [shard.url for shard in connected_shards] == [server.url for server in servers]
    registry.close()


def ready(client: TestClient) -> dict[str, Any]:
    response: dict[str, Any] = client.get("/health/ready").json()
    return response
