"""The commands by which a worker answers jobs."""

from collections.abc import Sequence
from typing import Final

from stitchwork.queue import scripts
from stitchwork.queue.deliveries import Delivery
from stitchwork.queue.keys import ShardKeys, class_of_stream, encoder_of_stream
from stitchwork.queue.messages import Reply
from stitchwork.redis.commands import Command, script_command

API_EXPIRED_MS: Final = 60_000
"""Silence after which an API process gets no more replies."""

Answer = tuple[Delivery, Reply | None, float]
"""A job, its reply if anyone waits, and the seconds that it took."""
AnswerWords = tuple[str, bytes, int, int, int, str, str, float]
"""Entry, reply, size, cost, inputs, caller, name of its payload, and milliseconds of work of one
job."""


def answer_command(shard: ShardKeys, stream: str, api: str, answers: Sequence[Answer]) -> Command:
    """The command that answers jobs of one stream to one API process."""
    rows: list[AnswerWords] = [
        (
            delivery.entry,
            reply.pack() if reply else b"",
            *(delivery.size, delivery.cost, delivery.inputs, delivery.caller, delivery.payload),
            seconds * 1000,
        )
        for delivery, reply, seconds in answers
    ]
    return answer_words(shard, stream, api, rows)


def answer_words(shard: ShardKeys, stream: str, api: str, rows: Sequence[AnswerWords]) -> Command:
    """The same of jobs whose replies are packed."""
    encoder = encoder_of_stream(stream)
    keys = [shard.stream(stream), shard.bytes, shard.replies(api), shard.apis]
    keys += [shard.pace(encoder), shard.callers(encoder)]
    words: list[str | bytes | int | float] = [api, API_EXPIRED_MS, class_of_stream(stream)]
    payloads = 0
    for entry, reply, size, cost, inputs, caller, payload, work_ms in rows:
        number = 0
        if payload:
            keys.append(shard.payload(payload))
            payloads += 1
            number = payloads
        words += (entry, reply, size, cost, inputs, caller, work_ms, number)
    return script_command(scripts.ANSWER, keys, *words)
