"""The dispatcher and the consumer against a real server, without models."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import pytest

from stitchwork.errors import (
    CorruptDataError,
    DeadlineExceededError,
    InvalidInputError,
    JobFailedError,
    NoWorkerError,
    QueueFullError,
    QueueUnavailableError,
    UnknownResourceError,
    UnsupportedFormatError,
)
from stitchwork.queue import dead_letters, streams
from stitchwork.queue.admission import MAX_INLINE_BYTES
from stitchwork.queue.consumer import MAX_DELIVERIES, Consumer
from stitchwork.queue.deliveries import Delivery
from stitchwork.queue.heartbeats import Heartbeat
from stitchwork.queue.keys import ShardKeys, stream_name
from stitchwork.queue.messages import Job, Reply, pack_job, unpack_job, unpack_reply
from stitchwork.queue.producer import FULL_SECONDS, Producer
from stitchwork.queue.shards import QueueShard
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.resources import ImageEncoder, TextEncoder
from stitchwork.telemetry import Metrics
from tests.support import machine
from tests.support.metric_samples import sample_value
from tests.support.servers import QUEUE_FLAGS, ServerBinary, ServerProcess

T = TypeVar("T")
Shards = QueueShard | Sequence[QueueShard]
"""All shards of a queue, or the only one."""
TEXT = TextEncoder(model="words")
IMAGE = ImageEncoder(model="pictures")
JOB = Job(id="", encoder=TEXT)


class DrivenProducer(Producer):
    """A producer whose event loop runs only while a test waits for something."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.runner = asyncio.Runner()
        super().__init__(*arguments, **options)

    def drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the loop until a coroutine has ended; its result."""
        return self.runner.run(coroutine)


def all_of(shards: Shards) -> tuple[QueueShard, ...]:
    return (shards,) if isinstance(shards, QueueShard) else tuple(shards)


def lengths(delivery: Delivery) -> Reply:
    """What a worker would answer, if the embedding of a text were its length."""
    rows = np.array([[len(item)] for item in delivery.items], np.float32)
    return Reply(delivery.job.id, rows, *np.ones((3, len(rows))))


@pytest.fixture
def consumer(queue_server: QueueShard) -> Iterator[Consumer]:
    with consuming(queue_server) as result:
        yield result


@contextmanager
def present(shards: Shards, name: str = "someone", **status: Any) -> Iterator[Heartbeat]:
    """A worker that says that it lives."""
    presence = Heartbeat(all_of(shards), 10.0, lambda: WorkerStatus(worker=name, **status))
    presence.start()
    yield presence
    presence.stop()


@contextmanager
def consuming(shards: Shards, **options: Any) -> Iterator[Consumer]:
    consumer = Consumer(all_of(shards), streams.new_id(), items_per_batch=8, **options)
    consumer.start()
    with present(shards, consumer.name):
        yield consumer
    consumer.stop()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def producer(queue_server: QueueShard, metrics: Metrics) -> Iterator[DrivenProducer]:
    with producing(queue_server, metrics=metrics) as result:
        yield result


@contextmanager
def producing(
    shards: Shards,
    max_jobs: int = 100,
    max_bytes: int = 1_000_000,
    max_wait_seconds: float = 10.0,
    metrics: Metrics | None = None,
    full_seconds: float = FULL_SECONDS,
    caller_classes: int = 1,
    worker_ttl_seconds: float = 10.0,
    worker_restart_seconds: float = 5.0,
) -> Iterator[DrivenProducer]:
    producer = DrivenProducer(
        all_of(shards),
        max_jobs=max_jobs,
        max_bytes=max_bytes,
        max_wait_seconds=max_wait_seconds,
        worker_ttl_seconds=worker_ttl_seconds,
        worker_restart_seconds=worker_restart_seconds,
        metrics=metrics,
        full_seconds=full_seconds,
        caller_classes=caller_classes,
    )
    with producer.runner:
        producer.drive(producer.start())
        yield producer
        producer.drive(producer.stop())


@contextmanager
def working(
    consumer: Consumer, answer: Callable[[Delivery], Reply] = lengths
) -> Iterator[list[int]]:
    """A thread that answers whatever comes; yields the sizes of its batches."""
    stop, sizes = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            batch = consumer.take()
            if batch:
                sizes.append(len(batch))
            for delivery in batch:
                consumer.answer(delivery, answer(delivery))

    thread = threading.Thread(target=work)
    thread.start()
    yield sizes
    stop.set()
    thread.join()


def take(consumer: Consumer) -> list[Delivery]:
    """The next batch that is not empty."""
    for _ in range(20):
        batch = consumer.take()
        if batch:
            return batch
    raise AssertionError("no job came")


def admit(server: QueueShard, job: Job, items: list[str], timeout_ms: int = 60_000) -> str:
    return streams.admit(server, job, job.pack(items), len(items), timeout_ms=timeout_ms)


async def arrival(server: QueueShard) -> None:
    """Wait until a job stands in its stream."""
    stream = ShardKeys().stream(stream_name(JOB.stream))
    await asyncio.to_thread(server.redis.xread, {stream: "0"}, count=1, block=5_000)


async def settle_cancellations(server: QueueShard) -> None:
    """Wait until every job that was abandoned is taken back."""
    async with asyncio.timeout(machine.deadline(10)):
        while await asyncio.to_thread(queued_bytes, server):  # noqa: ASYNC110 state of the server
            await asyncio.sleep(0.01)


async def until_cancelled(metrics: Metrics, jobs: int) -> None:
    """Wait until a producer knows of so many jobs that they are taken back."""
    async with asyncio.timeout(machine.deadline(10)):
        while sample_value(metrics, "cancelled_jobs_total") != jobs:  # noqa: ASYNC110 a counter
            await asyncio.sleep(0.01)


def queued_bytes(server: QueueShard) -> int:
    result: Any = server.redis.get(ShardKeys().bytes)
    return int(result or 0)


def test_job_and_reply_survive_packing() -> None:
    job = Job(id="7", reply_to="api", encoder=TEXT, input_type="query", bridge="irp")
    assert unpack_job(job.pack(["a", "é"])) == (job, ["a", "é"])
    named = job.model_copy(update={"request_id": "r", "traceparent": "t"})
    assert unpack_job(named.pack(["a"])) == (named, ["a"])
    assert pack_job(JOB, ["a"], "7", "api", "r", "t") == JOB.model_copy(
        update={"id": "7", "reply_to": "api", "request_id": "r", "traceparent": "t"}
    ).pack(["a"])
    picture = Job(id="8", encoder=IMAGE)
    assert unpack_job(picture.pack([b"\0\xff", b""])) == (picture, [b"\0\xff", b""])
    marks = np.array([True, False]), np.array([False, True])
    norms = np.array([1.0, 2.0], np.float32)
    reply = Reply("7", np.eye(2, dtype=np.float32), *marks, norms, (1,), 3, "query")
    result = unpack_reply(reply.pack())
    np.testing.assert_array_equal(result.rows, reply.rows)
    np.testing.assert_array_equal(result.defined, reply.defined)
    np.testing.assert_array_equal(result.covered, reply.covered)
    np.testing.assert_array_equal(result.lengths, norms)
    assert (result.truncated, result.tokens, result.prompt_name) == ((1,), 3, "query")


def test_error_in_a_reply_keeps_its_class() -> None:
    error = unpack_reply(
        Reply("7", error=UnsupportedFormatError("no", pointer="/items/3")).pack()
    ).error
    assert type(error) is UnsupportedFormatError
    assert (error.message, error.pointer, error.code) == ("no", "/items/3", "unsupported-format")


async def _many(producer: DrivenProducer, count: int) -> list[Reply]:
    jobs = [producer.run(JOB, ["x" * (i + 1)], 20.0) for i in range(count)]
    return list(await asyncio.gather(*jobs))


def test_concurrent_callers_get_their_own_replies(
    producer: DrivenProducer, consumer: Consumer, queue_server: QueueShard
) -> None:
    with working(consumer) as sizes:
        replies = producer.drive(_many(producer, 40))
    result = [reply.rows for reply in replies]
    assert [rows is not None and float(rows[0, 0]) for rows in result] == list(range(1, 41))
    assert max(sizes) > 1, "what had queued up was taken as one batch"
    assert queue_server.redis.xlen(ShardKeys().stream(stream_name(JOB.stream))) == 0
    assert queued_bytes(queue_server) == 0


def test_batch_has_one_encoder_and_at_most_its_inputs(
    consumer: Consumer, queue_server: QueueShard
) -> None:
    for i in range(12):
        admit(queue_server, Job(id=str(i), encoder=(TEXT, TextEncoder(model="b"))[i % 2]), ["x"])
    batches = [take(consumer), take(consumer)]
    for batch in batches:
        assert len({delivery.stream for delivery in batch}) == 1
        assert 1 <= len(batch) <= 8
    assert batches[0][0].stream != batches[1][0].stream, "no encoder starves another"
    assert [d.job.id for d in batches[0]] == sorted((d.job.id for d in batches[0]), key=int)


def test_error_of_a_worker_is_raised_to_the_caller(
    producer: DrivenProducer, consumer: Consumer
) -> None:
    def refuse(delivery: Delivery) -> Reply:
        return Reply(delivery.job.id, error=InvalidInputError("not that one", pointer="/items/0"))

    with working(consumer, refuse), pytest.raises(InvalidInputError, match="not that one"):
        producer.drive(producer.run(JOB, ["x"], 20.0))


def test_job_without_a_worker_is_refused_at_once(
    producer: DrivenProducer, queue_server: QueueShard
) -> None:
    with pytest.raises(NoWorkerError, match="no live worker takes work for words"):
        producer.drive(producer.run(JOB, ["x"], 20.0))
    picky = present(queue_server, serves=("pictures", "word?-*"))
    with picky, pytest.raises(NoWorkerError, match=r"words \(1 live\)"):
        producer.drive(producer.run(JOB, ["x"], 20.0))


@pytest.mark.parametrize(("max_jobs", "max_bytes"), [(2, 1_000_000), (100, 2_500)])
def test_full_queue_refuses_new_jobs_and_drops_none(
    queue_server: QueueShard, consumer: Consumer, max_jobs: int, max_bytes: int
) -> None:
    with producing(queue_server, max_jobs, max_bytes) as producer:

        async def fill() -> list[Reply | BaseException]:
            runs = [producer.run(JOB, ["x" * 300], 20.0) for _ in range(6)]
            tasks = [asyncio.ensure_future(run) for run in runs]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            with working(consumer):
                return list(await asyncio.gather(*tasks, return_exceptions=True))

        result = producer.drive(fill())
    refused = [reply for reply in result if isinstance(reply, QueueFullError)]
    answered = [reply for reply in result if isinstance(reply, Reply)]
    assert refused
    assert answered
    assert len(refused) + len(answered) == 6
    assert queued_bytes(queue_server) == 0


def test_full_queue_counts_as_full_until_one_of_its_jobs_is_answered(
    queue_server: QueueShard, consumer: Consumer
) -> None:
    with producing(queue_server, max_jobs=1, full_seconds=60.0) as producer:

        async def fill() -> None:
            tasks = [asyncio.ensure_future(producer.run(JOB, ["x"], 20.0)) for _ in range(2)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            with pytest.raises(QueueFullError):
                producer.check_room(TEXT)
            with working(consumer):
                await asyncio.wait(tasks)

        producer.drive(fill())
        producer.check_room(TEXT)


def test_job_past_its_deadline_is_cancelled(
    producer: DrivenProducer, metrics: Metrics, consumer: Consumer, queue_server: QueueShard
) -> None:
    with pytest.raises(DeadlineExceededError):
        producer.drive(producer.run(JOB, ["x"], 0.2))
    producer.drive(settle_cancellations(queue_server))
    producer.drive(until_cancelled(metrics, 1))
    assert queue_server.redis.xlen(ShardKeys().stream(stream_name(JOB.stream))) == 0
    assert queued_bytes(queue_server) == 0


def test_job_of_a_cancelled_caller_is_cancelled(
    producer: DrivenProducer, metrics: Metrics, consumer: Consumer, queue_server: QueueShard
) -> None:
    async def leave() -> None:
        task = asyncio.ensure_future(producer.run(JOB, ["x"], 20.0))
        await arrival(queue_server)
        task.cancel()
        await asyncio.wait([task])

    producer.drive(leave())
    producer.drive(settle_cancellations(queue_server))
    producer.drive(until_cancelled(metrics, 1))
    assert consumer.take() == []


def test_expired_job_is_not_delivered(consumer: Consumer, queue_server: QueueShard) -> None:
    admit(queue_server, JOB, ["late"], timeout_ms=0)
    admit(queue_server, JOB, ["in time"])
    assert [delivery.items for delivery in take(consumer)] == [["in time"]]


def test_job_is_answered_only_by_the_worker_that_has_it(queue_server: QueueShard) -> None:
    with consuming(queue_server, lease=0.3) as first, consuming(queue_server, lease=0.3) as second:
        first.leases.stop()  # it pauses, and does not hold on to its lease any more
        admit(queue_server, Job(id="7", encoder=TEXT), ["x"])
        (lost,) = take(first)
        (result,) = take(second)
        assert result.job.id == "7"
        assert second.answer(result, lengths(result))
        assert not first.answer(lost, lengths(lost)), "woken up, it stays silent"


def test_lease_is_renewed_while_the_batch_runs(queue_server: QueueShard) -> None:
    with consuming(queue_server, lease=0.9) as first, consuming(queue_server, lease=0.9) as second:
        admit(queue_server, JOB, ["x"])
        (jobs,) = take(first)
        # Two blocks of half a second each: longer than the lease.
        assert [second.take(), second.take()] == [[], []]
        assert first.answer(jobs, lengths(jobs))


def test_job_that_kills_its_workers_is_dead_lettered_and_its_caller_gets_an_error(
    queue_server: QueueShard, producer: DrivenProducer
) -> None:
    async def poison() -> None:
        await producer.run(JOB, ["poison"], 20.0)

    failure: list[BaseException] = []

    def call() -> None:
        try:
            producer.drive(poison())
        except JobFailedError as error:
            failure.append(error)

    caller = threading.Thread(target=call)
    with present(queue_server):
        caller.start()
        for _ in range(MAX_DELIVERIES):
            with consuming(queue_server, lease=0.1) as doomed:
                assert len(take(doomed)) == 1, "redelivered alone"
    with consuming(queue_server, lease=0.1) as last:
        while caller.is_alive():
            assert last.take() == []
    caller.join()
    assert len(failure) == 1
    (letter,) = dead_letters.list_all((queue_server,))
    assert letter.reason == "max-deliveries"
    assert dead_letters.read((queue_server,), letter.id)[1] == ["poison"]
    dead_letters.delete((queue_server,), letter.id)
    assert dead_letters.list_all((queue_server,)) == []
    with pytest.raises(UnknownResourceError):
        dead_letters.read((queue_server,), letter.id)
    assert queued_bytes(queue_server) == 0


def test_corrupt_job_is_dead_lettered_and_its_neighbours_are_served(
    queue_server: QueueShard, consumer: Consumer
) -> None:
    entry = admit(queue_server, JOB, ["good"])
    streams.admit(queue_server, JOB, b"not a job", 1, timeout_ms=60_000)
    large = Job(id="large", encoder=TEXT)
    admit(queue_server, large, ["x" * (MAX_INLINE_BYTES + 1)])
    queue_server.redis.set(ShardKeys().payload("large"), b"not a job")
    batch = take(consumer)
    assert [delivery.entry for delivery in batch] == [entry]
    (letter, _) = dead_letters.list_all((queue_server,))
    assert letter.reason == "corrupt"
    with pytest.raises(CorruptDataError):
        dead_letters.read((queue_server,), letter.id)
    assert not queue_server.redis.exists(ShardKeys().payload("large"))


def test_waiting_callers_get_an_error_when_the_queue_server_stops(
    server_binary: ServerBinary,
) -> None:
    with TemporaryDirectory(prefix="sw") as folder:
        valkey = ServerProcess(Path(folder), QUEUE_FLAGS, server_binary)
        server = QueueShard(valkey.url, 1.0, failure_pause=0.0)
        with producing(server) as producer, present(server):

            async def wait() -> None:
                task = asyncio.ensure_future(producer.run(JOB, ["x"], 20.0))
                await arrival(server)
                await asyncio.to_thread(valkey.stop, kill=True)
                await task

            with pytest.raises(QueueUnavailableError):
                producer.drive(wait())
            valkey.start()
            with consuming(server) as consumer, working(consumer):
                assert producer.drive(producer.run(JOB, ["four"], 20.0)).rows == [[4.0]]
        server.close()
        valkey.stop()
