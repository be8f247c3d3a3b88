"""Callers share an encoder and its queue by their weights, whoever else asks for how much."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stitchwork.errors import ErrorCode, QueueFullError
from stitchwork.queue.callers import CALLER, CallerQuota
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.messages import Job, Reply
from stitchwork.queue.shards import QueueShard
from stitchwork.queue.turns import EncoderTurns
from stitchwork.resources import TextEncoder
from tests.integration.queue.test_queue import (
    JOB,
    DrivenProducer,
    admit,
    consuming,
    lengths,
    producing,
    queued_bytes,
    settle_cancellations,
    take,
)
from tests.support import machine

LONG = "word " * 300
"""A text of as many tokens as the model takes."""
CLASSES = 8


def send(
    producer: DrivenProducer, caller: CallerQuota, parts: list[list[str]], seconds: float = 60.0
) -> "asyncio.Future[list[Reply]]":
    """Send a request of a caller."""
    CALLER.set(caller)
    return asyncio.ensure_future(producer.run_all(JOB, parts, seconds))


async def admitted(server: QueueShard, jobs: int) -> None:
    """Wait until this many jobs are in the queue."""
    async with asyncio.timeout(30):
        while await asyncio.to_thread(count_jobs, server) < jobs:  # noqa: ASYNC110 of others
            await asyncio.sleep(0.01)


def count_jobs(server: QueueShard) -> int:
    fields: Any = server.redis.hgetall(ShardKeys().pace(JOB.stream))
    return sum(int(value) for name, value in fields.items() if name.startswith(b"jobs:"))


async def serve(consumer: Consumer, done: Callable[[], bool]) -> list[list[str]]:
    """The callers of each batch, whose texts begin with their names, until all is done."""
    batches = []
    while not done():
        batch = await asyncio.to_thread(consumer.take)
        batches.append([str(delivery.items[0]).split(" ")[0] for delivery in batch])
        for delivery in batch:
            await asyncio.to_thread(consumer.answer, delivery, lengths(delivery), 0.0)
        await asyncio.sleep(0)
    return batches


def run(server: QueueShard, scenario: Callable[[Any, Consumer], Coroutine[Any, Any, Any]]) -> Any:
    """Run a scenario, after which the queue has nothing left, not even in its counts."""
    with (
        producing(server, caller_classes=CLASSES, max_jobs=400, max_bytes=1 << 24) as producer,
        consuming(server) as consumer,
    ):

        async def settled() -> Any:
            async with asyncio.timeout(machine.deadline(60)):
                result = await scenario(producer, consumer)
            await settle_cancellations(server)
            return result

        result = producer.drive(settled())
    counts: Any = server.redis.hgetall(ShardKeys().pace(JOB.stream))
    assert {int(value) for name, value in counts.items() if name != b"ms"} <= {0}
    assert not server.redis.exists(ShardKeys().callers(JOB.stream))
    assert queued_bytes(server) == 0
    return result


@pytest.mark.parametrize("attackers", [1, 6, 24])
def test_caller_with_one_request_is_served_next_whoever_waits(
    queue_server: QueueShard, attackers: int
) -> None:
    async def scenario(producer: Any, consumer: Consumer) -> list[list[str]]:
        floods = [
            send(producer, CallerQuota(f"flood-{i}"), [[f"flood {LONG}"]] * 4)
            for i in range(attackers)
            for _ in range(3)
        ]
        await admitted(queue_server, 12 * attackers)
        honest = send(producer, CallerQuota("honest"), [["honest text"]])
        await admitted(queue_server, 12 * attackers + 1)
        batches = await serve(consumer, honest.done)
        for flood in floods:
            flood.cancel()
        await asyncio.wait(floods)
        return batches

    batches = run(queue_server, scenario)
    assert "honest" in batches[-1]
    assert len(batches) <= 2


def test_callers_are_served_by_their_weights_and_costs(queue_server: QueueShard) -> None:
    """Small inputs of one caller, and large ones of another, get the same time."""

    async def scenario(producer: Any, consumer: Consumer) -> list[list[str]]:
        callers = {"heavy": (3, f"heavy {LONG}"), "large": (1, f"large {LONG}"), "small": (1, "")}
        tasks = []
        for name, (weight, text) in callers.items():
            parts = [[text or f"small {'word ' * 40}"]] * 60
            tasks += [send(producer, CallerQuota(name, weight), parts) for _ in range(2)]
        await admitted(queue_server, 360)
        batches = list[list[str]]()
        while sum(map(len, batches)) < 150:
            batches += await serve(consumer, iter([False, True]).__next__)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return batches

    batches = run(queue_server, scenario)
    counts = Counter(name for batch in batches for name in batch)
    assert counts["heavy"] == pytest.approx(3 * counts["large"], rel=0.25)
    # A long text costs 300 and a few more units, a short one 58 and a few more.
    assert counts["small"] == pytest.approx(counts["large"] * 5, rel=0.4)


def test_queue_has_room_for_others_when_one_caller_has_its_share(
    queue_server: QueueShard,
) -> None:
    async def scenario(producer: Any, consumer: Consumer) -> None:
        tasks = [send(producer, CallerQuota("flood"), [["a"]] * 50) for _ in range(8)]
        done, waiting = await asyncio.wait(tasks, timeout=1, return_when="FIRST_COMPLETED")
        (refused,) = done
        with pytest.raises(QueueFullError, match=r"its share of the queue.*max_queue_jobs") as one:
            await refused
        assert one.value.max_items == 0
        assert await asyncio.to_thread(count_jobs, queue_server) == 350
        other = send(producer, CallerQuota("other"), [["b"]] * 40)
        heavy = send(producer, CallerQuota("heavy", 100), [["c"]] * 9)
        await admitted(queue_server, 399)
        for task in (*waiting, other, heavy):
            task.cancel()
        await asyncio.wait([*waiting, other, heavy])

    run(queue_server, scenario)


def test_bytes_of_one_caller_leave_room_for_others(queue_server: QueueShard) -> None:
    async def scenario(producer: Any, consumer: Consumer) -> None:
        large = "x" * (1 << 22)
        tasks = [send(producer, CallerQuota("flood"), [[large]]) for _ in range(3)]
        await admitted(queue_server, 3)
        with pytest.raises(
            QueueFullError, match=r"its share of the queue.*max_queue_bytes"
        ) as full:
            await send(producer, CallerQuota("flood"), [["x" * (3 << 20)]])
        assert full.value.code == ErrorCode.QUEUE_BYTES_FULL
        tasks.append(send(producer, CallerQuota("other"), [["x" * (1 << 20)]]))
        await admitted(queue_server, 4)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(queue_server, scenario)


def test_large_request_that_is_refused_is_not_sent(queue_server: QueueShard) -> None:
    def sent_bytes() -> int:
        stats: Any = queue_server.redis.info("stats")
        return int(stats["total_net_input_bytes"])

    async def scenario(producer: Any, consumer: Consumer) -> None:
        large = ["x" * (1 << 20)]
        flood = send(producer, CallerQuota("flood"), [large] * 12)
        await admitted(queue_server, 12)
        before = sent_bytes()
        with pytest.raises(QueueFullError, match="max_queue_bytes"):
            await send(producer, CallerQuota("flood"), [large] * 12)
        assert sent_bytes() - before < 1 << 18
        flood.cancel()
        await asyncio.wait([flood])

    run(queue_server, scenario)


def test_caller_has_no_more_inputs_in_the_queue_than_its_key_allows(
    queue_server: QueueShard,
) -> None:
    async def scenario(producer: Any, consumer: Consumer) -> None:
        bounded = CallerQuota("bounded", 1, 10)
        first = send(producer, bounded, [["a"] * 4, ["b"] * 3])
        await admitted(queue_server, 2)
        with pytest.raises(QueueFullError, match=r"at most 10 inputs of key bounded.*") as full:
            await send(producer, bounded, [["c"] * 4])
        assert full.value.max_items == 3
        second = send(producer, bounded, [["c"] * 3])
        await serve(consumer, lambda: first.done() and second.done())
        again = send(producer, bounded, [["d"] * 8, ["e"] * 2])
        await serve(consumer, again.done)
        assert len(await again) == 2

    run(queue_server, scenario)


def test_wait_of_one_caller_is_not_that_of_another(queue_server: QueueShard) -> None:
    """The first has filled its time; the second would wait for its share of it only."""

    async def scenario(producer: Any, consumer: Consumer) -> None:
        # A unit of cost takes 1 ms: a request of 30 long texts takes 11.5 s.
        queue_server.redis.hset(ShardKeys().pace(JOB.stream), "ms", 1)
        flood = CallerQuota("flood")
        tasks = [send(producer, flood, [[LONG] * 10] * 3)]
        await admitted(queue_server, 3)
        with pytest.raises(QueueFullError, match="max_queue_wait_seconds"):
            await send(producer, flood, [["a"]])
        tasks.append(send(producer, CallerQuota("other"), [["b"]], 1.0))
        await admitted(queue_server, 4)
        with pytest.raises(QueueFullError, match="at most 2 of them"):
            # Beside the flood, each unit takes 2 ms.
            await send(producer, CallerQuota("third"), [[LONG] * 20], 2.0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(queue_server, scenario)


def test_batch_takes_a_bounded_time(queue_server: QueueShard) -> None:
    async def scenario(producer: Any, consumer: Consumer) -> list[list[str]]:
        queue_server.redis.hset(ShardKeys().pace(JOB.stream), "ms", 0.5)
        task = send(producer, CallerQuota("flood"), [[LONG]] * 8)
        await admitted(queue_server, 8)
        return await serve(consumer, task.done)

    # Each takes 150 ms, so that the second one exceeds the 200 ms of a batch.
    batches = run(queue_server, scenario)
    assert [len(batch) for batch in batches if batch] == [2, 2, 2, 2]


def test_encoders_share_a_worker_by_time(queue_server: QueueShard) -> None:
    """Batches of one take ten times as long as those of the other; a third one comes late."""
    now = [0.0]
    seconds = {"slow": 1.0, "fast": 0.1, "late": 0.5}
    with consuming(queue_server, clock=lambda: now[0]) as consumer:

        def fill(model: str, count: int) -> None:
            for _ in range(count):
                job = Job(id="1", encoder=TextEncoder(model=model))
                admit(queue_server, job, ["x"] * 8)

        def work(until: float) -> Counter[str]:
            used = Counter[str]()
            while now[0] < until:
                (delivery,) = take(consumer)
                model = delivery.job.encoder.model if delivery.job.encoder else ""
                now[0] += seconds[model]
                used[model] += round(10 * seconds[model])
                consumer.answer(delivery, lengths(delivery))
            return used

        fill("slow", 20)
        fill("fast", 120)
        fill("late", 1)
        used = work(10.0)
        assert abs(used["slow"] - used["fast"]) <= 12
        fill("late", 8)
        used = work(now[0] + 6.0)
        # It has saved no time up while it had nothing to do.
        assert min(used.values()) >= 10
        assert max(used.values()) <= 32


def test_encoders_share_a_worker_by_the_weights_of_their_callers(
    queue_server: QueueShard,
) -> None:
    """One caller has jobs of both; it gets no more by those of the second."""
    jobs = {name: Job(id="", encoder=TextEncoder(model=name)) for name in ("both", "other")}
    heavy, light = CallerQuota("heavy", 4), CallerQuota("light", 1)
    now, count = [0.0], 40

    async def scenario(producer: Any, consumer: Consumer) -> Counter[str]:
        tasks = []
        for caller, name in ((heavy, "both"), (light, "both"), (light, "other")):
            CALLER.set(caller)
            call = producer.run_all(jobs[name], [[f"{caller.name} {LONG}"]] * count, 60.0)
            tasks.append(asyncio.ensure_future(call))
        paces = [ShardKeys().pace(job.stream) for job in jobs.values()]

        def waiting() -> int:
            pairs: Any = [queue_server.redis.hgetall(pace).items() for pace in paces]
            return sum(int(v) for some in pairs for k, v in some if k.startswith(b"jobs:"))

        async with asyncio.timeout(machine.deadline(60)):
            while await asyncio.to_thread(waiting) < 3 * count:  # noqa: ASYNC110 of others
                await asyncio.sleep(0.01)
        for pace in paces:
            # A batch has one job, each of which takes longer than that.
            queue_server.redis.hset(pace, "ms", 1.0)
        used = Counter[str]()
        while used.total() < 36:
            (delivery,) = await asyncio.to_thread(consumer.take)
            now[0] += 1.0
            model = delivery.job.encoder.model if delivery.job.encoder else ""
            used[f"{str(delivery.items[0]).split()[0]} {model}"] += 1
            await asyncio.to_thread(consumer.answer, delivery, lengths(delivery), 0.0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await settle_cancellations(queue_server)
        return used

    limits: Any = {"caller_classes": CLASSES, "max_jobs": 400, "max_bytes": 1 << 24}
    with (
        producing(queue_server, **limits) as producer,
        consuming(queue_server, clock=lambda: now[0]) as consumer,
    ):
        used = producer.drive(scenario(producer, consumer))
    # Of 36, 4 fifths of 5 sixths.
    assert 20 <= used["heavy both"] <= 28, used
    assert 3 <= used["light other"] <= 9, used


@pytest.mark.parametrize(("light_seconds", "expected"), [(0.01, 1), (0.5, 20)])
def test_encoder_of_a_light_caller_waits_a_few_times_as_long_as_its_turn(
    queue_server: QueueShard, light_seconds: float, expected: int
) -> None:
    """Beside one whose caller has a thousand times the weight, and whose turns take 0.2 s."""
    now = [0.0]
    turns = EncoderTurns((queue_server,), lambda *_: True, lambda _: 0.0, clock=lambda: now[0])
    for model in ("heavy", "light"):
        admit(queue_server, Job(id="1", encoder=TextEncoder(model=model)), ["x"])
    turns.refresh()
    encoders = {encoder.requirement.model: encoder for encoder in turns}

    def work(model: str) -> None:
        turns.begin_turn(encoders[model], 1000 if model == "heavy" else 1)
        now[0] += 0.2 if model == "heavy" else light_seconds
        turns.end_turn()

    work("light")  # Alone, when nobody knows of the other one yet.
    waits = []
    for _ in range(3):
        wait = 0
        while next(iter(turns)).requirement.model == "heavy":
            work("heavy")
            wait += 1
        waits.append(wait)
        work("light")
    assert max(waits[1:]) <= expected + 1
    assert min(waits[1:]) >= expected - 1
