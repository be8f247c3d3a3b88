"""Messages of another release are refused in a sentence, and none of them is lost or crashes."""

import json
from typing import Any

import numpy as np
import orjson
import pytest

from stitchwork.errors import ErrorCode, IncompatibleFormatError, JobFailedError
from stitchwork.queue import dead_letters, streams
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.messages import FORMAT, Job, Reply, unpack_address, unpack_job, unpack_reply
from stitchwork.queue.shards import QueueShard
from stitchwork.queue.worker_registry import WorkerStatus, live_workers
from stitchwork.redis.serialization import pack, pack_frames, unpack_frames
from stitchwork.resources import Registration, TextEncoder, pack_items
from stitchwork.telemetry import Telemetry
from tests.support.metric_samples import sample_value

JOB = Job(id="7", reply_to="api", encoder=TextEncoder(model="words"))
FRAMES_FORMAT = 4
"""The first format whose messages are frames."""
SENTENCE = "run the same release of the API and of the workers"


def packed(job: Job, number: int | None) -> bytes:
    """The job in another format; None stands for release 0.1.0, which names none."""
    meta: dict[str, Any] = {**job.model_dump(mode="json"), "draft": None}
    if number is None or number < FRAMES_FORMAT:
        return pack(pack_items(["x"]), meta if number is None else {"format": number, **meta})
    return pack_frames([orjson.dumps({"format": number, **meta}), b"of that release"])


@pytest.mark.parametrize("number", [None, 2, FORMAT + 1])
def test_job_of_another_format_is_dead_lettered_and_its_caller_gets_an_error(
    queue_server: QueueShard, number: int | None
) -> None:
    telemetry = Telemetry()
    consumer = Consumer((queue_server,), "w", items_per_batch=8, telemetry=telemetry)
    queue_server.redis.zadd(ShardKeys().apis, {"api": queue_server.now_ms()})
    streams.admit(queue_server, JOB, packed(JOB, number), 1, timeout_ms=20_000)
    current = Job(id="8", encoder=JOB.encoder)
    streams.admit(queue_server, current, current.pack(["y"]), 1, timeout_ms=20_000)
    assert [delivery.job.id for delivery in consumer.take()] == ["8"]
    (letter,) = dead_letters.list_all((queue_server,))
    assert letter.reason == "incompatible-format"
    with pytest.raises(IncompatibleFormatError, match=SENTENCE):
        dead_letters.read((queue_server,), letter.id)
    data: Any = queue_server.redis.lpop(ShardKeys().replies("api"))
    reply = unpack_reply(data)
    assert reply.job == "7"
    assert isinstance(reply.error, JobFailedError)
    assert reply.error.code is ErrorCode.INCOMPATIBLE_FORMAT
    assert SENTENCE in reply.error.message
    metrics, reason = telemetry.metrics, "incompatible-format"
    assert sample_value(metrics, "dead_lettered_jobs_total", reason=reason) == 1


def test_reply_of_another_format_is_an_error_for_its_job() -> None:
    rows = np.ones((1, 2), np.float32)
    header, *frames = unpack_frames(Reply("7", rows, *np.ones((3, 1))).pack())
    other = orjson.dumps({**orjson.loads(header), "format": FORMAT + 1})
    reply = unpack_reply(pack_frames([other, *frames]))
    assert (reply.job, reply.rows) == ("7", None)
    assert isinstance(reply.error, JobFailedError)
    assert SENTENCE in reply.error.message
    for meta in ({"job": "7"}, {"job": "7", "format": 2}):
        earlier = unpack_reply(pack({"rows": rows}, meta))
        assert isinstance(earlier.error, JobFailedError)
        assert (earlier.job, earlier.rows) == ("7", None)


def test_message_names_its_format_and_survives_packing() -> None:
    assert orjson.loads(unpack_frames(JOB.pack(["x"]))[0])["format"] == FORMAT
    assert unpack_job(JOB.pack(["x"])) == (JOB, ["x"])
    assert unpack_address(packed(JOB, FORMAT + 1)) == ("7", "api")
    assert unpack_address(pack({}, ["not", "a", "job"])) is None


@pytest.mark.parametrize("message_format", [None, FORMAT + 1])
def test_worker_of_another_format_is_not_counted(
    queue_server: QueueShard, message_format: int | None
) -> None:
    status = WorkerStatus(worker="w").model_dump(mode="json", exclude={"message_format"})
    if message_format is not None:
        status["message_format"] = message_format
    queue_server.redis.hset(ShardKeys().announced, "w", json.dumps(status))
    queue_server.redis.zadd(ShardKeys().workers, {"w": queue_server.now_ms()})
    assert live_workers((queue_server,), 10.0) == []


def test_registration_step_without_inputs_is_answered_once_and_leaves_nothing(
    queue_server: QueueShard,
) -> None:
    consumer = Consumer((queue_server,), "w", items_per_batch=8)
    registration = Registration(kind="space", id="s", version="1", parent="anchor-set:S")
    streams.enqueue_registration((queue_server,), registration)
    streams.enqueue_registration((queue_server,), registration)
    (delivery,) = consumer.take()
    assert delivery.job.registration == ("space", "s", "1")
    assert consumer.answer(delivery, None)
    assert not consumer.answer(delivery, None)
    assert streams.stream_backlogs(queue_server) == {}
    assert streams.queued_bytes(queue_server) == 0
    assert queue_server.redis.hget(ShardKeys().pace("registration"), "cost:0") == b"0"


def test_job_without_inputs_is_cancelled(queue_server: QueueShard) -> None:
    job = Job(id="7", encoder=JOB.encoder)
    entry = streams.admit(queue_server, job, job.pack(), 0, timeout_ms=20_000)
    assert streams.cancel(queue_server, job, entry)
    assert not streams.cancel(queue_server, job, entry)
    assert streams.stream_backlogs(queue_server) == {}
