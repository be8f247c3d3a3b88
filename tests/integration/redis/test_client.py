"""What a server refuses is reported in the server's own words, without what was sent to it."""

import logging

import pytest

from stitchwork.errors import QueueUnavailableError
from stitchwork.queue.producer import Producer
from stitchwork.queue.shards import QueueShard
from stitchwork.resources import Registration

SECRET = "a-text-that-belongs-to-a-user"  # noqa: S105


def test_refusal_is_reported_in_the_words_of_the_server(queue_server: QueueShard) -> None:
    with pytest.raises(QueueUnavailableError, match=r"queue server refused .*not an integer"):
        queue_server.run_script("return redis.call('INCRBY', KEYS[1], '-0x')", ("k",))
    queue_server.redis.set("k", "text")
    with pytest.raises(QueueUnavailableError, match="wrong kind of value"):
        queue_server.execute(("LPUSH", "k", "v"))


def test_refusal_does_not_repeat_the_arguments_of_a_command(queue_server: QueueShard) -> None:
    with pytest.raises(QueueUnavailableError, match="unknown command") as refusal:
        queue_server.execute(("NOSUCHCOMMAND", SECRET))
    assert SECRET not in refusal.value.message


def test_server_out_of_memory_is_logged_in_its_words(
    queue_server: QueueShard, caplog: pytest.LogCaptureFixture
) -> None:
    producer = Producer(
        (queue_server,), max_jobs=1, max_bytes=1, max_wait_seconds=1, worker_ttl_seconds=10
    )
    registration = Registration(kind="space", id="s", version="1", parent="anchor-set:S")
    queue_server.redis.config_set("maxmemory", "1")
    try:
        with caplog.at_level(logging.WARNING):
            producer.enqueue_registration(registration)
    finally:
        queue_server.redis.config_set("maxmemory", "0")
    (record,) = caplog.records
    assert record.message == "server unavailable"
    reason = record.__dict__["reason"]
    assert reason.startswith("queue server refused a command: "), reason
    assert "maxmemory" in reason
