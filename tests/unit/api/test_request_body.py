"""The body of a request: its parts in one piece, and the turns in which they are read."""

import asyncio
from collections import deque
from dataclasses import replace

import pytest
from starlette.types import Message

from stitchwork.api.middleware.body_turns import PARTS_PER_TURN, BodyTurns
from stitchwork.api.middleware.request_body import (
    HUGE_PAGES_BYTES,
    MAPPED_BYTES,
    BodyLimits,
    RequestBody,
)
from stitchwork.errors import InputTooLargeError, QueueFullError
from tests.support.request_limits import LIMITS

PARTS = [bytes([i]) * (i + 1) for i in range(40)]


LONG_PARTS = [bytes([i]) * 200_000 for i in range(2 * HUGE_PAGES_BYTES // 200_000)]


@pytest.mark.parametrize(
    ("parts", "length"),
    [
        *((PARTS, length) for length in (0, len(b"".join(PARTS)), 100, 10_000)),
        *((LONG_PARTS, length) for length in (0, len(b"".join(LONG_PARTS)), 100, 100_000_000)),
        # Mapped, and found to be too short before and after the first large page.
        (LONG_PARTS, MAPPED_BYTES + 1),
        (LONG_PARTS, HUGE_PAGES_BYTES + 1_000_000),
    ],
)
def test_body_of_many_parts_is_what_was_sent_whatever_its_headers_declare(
    parts: list[bytes], length: int
) -> None:
    limits = replace(LIMITS, max_body_bytes=1 << 30, max_inflight_body_bytes=1 << 30)

    async def read() -> bytes:
        waiting = deque(parts)

        async def receive() -> Message:
            part = waiting.popleft()
            return {"type": "http.request", "body": part, "more_body": bool(waiting)}

        return bytes(await RequestBody(BodyLimits(limits), receive).read(None, length))

    assert asyncio.run(read()) == b"".join(parts)


def test_what_never_fits_beside_its_body_is_too_large_and_what_does_not_fit_now_is_refused() -> (
    None
):
    limits = BodyLimits(replace(LIMITS, max_inflight_body_bytes=1000))

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(600), "more_body": False}

    body = RequestBody(limits, receive)
    asyncio.run(body.read(None, 600))
    with pytest.raises(InputTooLargeError, match="got one that takes 1001"):
        body.reserve(401)
    other = RequestBody(limits, receive)
    other.reserve(400)
    with pytest.raises(QueueFullError):
        body.reserve(400)
    body.reserve(-400)
    other.release()
    body.reserve(400)
    body.release()
    RequestBody(limits, receive).reserve(1000)


def test_turn_of_the_event_loop_reads_few_parts_whoever_sends() -> None:
    """Those that wait are served in their order; one that has left takes nobody's place."""
    clients, parts = 10 * PARTS_PER_TURN, 5

    async def read() -> tuple[list[int], list[int]]:
        turns, number, numbers, order = BodyTurns(), 0, list[int](), list[int]()

        async def count_turns() -> None:
            nonlocal number
            while True:
                number += 1
                await asyncio.sleep(0)

        async def client(name: int) -> None:
            for _ in range(parts):
                await turns.wait()
                numbers.append(number)
                order.append(name)
                # Until its next part has arrived.
                await asyncio.sleep(0)

        counter = asyncio.ensure_future(count_turns())
        tasks = [asyncio.ensure_future(client(name)) for name in range(clients)]
        await asyncio.sleep(0)
        tasks.pop().cancel()
        await asyncio.gather(*tasks)
        counter.cancel()
        return numbers, order

    numbers, order = asyncio.run(read())
    assert len(numbers) == parts * (clients - 1)
    # Those of the turn before may begin theirs in the next one.
    assert max(map(numbers.count, numbers)) <= 2 * PARTS_PER_TURN
    assert order == [*range(clients - 1)] * parts
