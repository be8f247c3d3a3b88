"""Rate limits are taken from the server in blocks: few calls, and a bounded overshoot."""

import asyncio
from typing import Any

import pytest

from stitchwork.errors import InputTooLargeError, InvalidInputError, RateLimitError
from stitchwork.redis.client import RedisClient
from stitchwork.redis.permits import BLOCKS_PER_WINDOW, Permits
from stitchwork.redis.rate_limiter import CURRENT, RateLimiter
from stitchwork.redis.rates import Rate, parse_rates
from stitchwork.resources import Scope


def calls(server: RedisClient) -> int:
    stats: Any = server.redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("100/minute", (Rate(100, "requests", 60),)),
        ("5000/day;2/second", (Rate(2, "requests", 1), Rate(5000, "requests", 86_400))),
        ("64 items/2 hours", (Rate(64, "items", 7_200),)),
        ("9 tokens per month; 1000000 pixels / 1 year", None),
    ],
)
def test_rates_are_parsed_with_their_units(text: str, rates: tuple[Rate, ...] | None) -> None:
    parsed = parse_rates(text)
    assert rates is None or parsed == rates
    assert len(parsed) == text.count(";") + 1


@pytest.mark.parametrize("text", ["", "often", "0/minute", "1/0 minute", "5 bytes/day", "1/day;"])
def test_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"100/minute;5000/day;64 items/second"):
        parse_rates(text)


def test_requests_within_a_rate_cost_few_calls_to_the_server(queue_server: RedisClient) -> None:
    async def run() -> list[bool]:
        rates = RateLimiter(queue_server, {Scope.INFER: "100000/hour"})
        statuses = [await rates.hit(None, Scope.INFER, requests=1) for _ in range(20_000)]
        return [bool(status and status.allowed) for status in statuses]

    before = calls(queue_server)
    assert asyncio.run(run()) == [True] * 20_000
    # A block is a twentieth of the rate.
    assert calls(queue_server) - before <= 4 + 1


def test_refused_requests_cost_few_calls_to_the_server(queue_server: RedisClient) -> None:
    async def run() -> int:
        rates = RateLimiter(queue_server, {Scope.INFER: "10/hour"})
        statuses = [await rates.hit(None, Scope.INFER, requests=1) for _ in range(2_000)]
        return sum(bool(status and status.allowed) for status in statuses)

    before = calls(queue_server)
    assert asyncio.run(run()) == 10
    assert calls(queue_server) - before < 200


def test_processes_together_use_the_limit_and_at_most_a_block_each_more(
    queue_server: RedisClient,
) -> None:
    """Permits of one window are not spent in the next, whatever the windows' boundaries."""
    limit, processes = 1_000, 4
    now = [0.0]

    async def run() -> int:
        permits = [
            Permits(queue_server, "key", Rate(limit, "requests", 86_400), lambda: now[0])
            for _ in range(processes)
        ]
        used = 0
        for _ in range(limit):
            for each in permits:
                used += bool(each.spend(1) or await each.take(1))
        assert used == limit, "what one process has is a small part of what is left"
        # Another window: nothing of the one before is left in the processes.
        now[0] = 2 * 86_400.0
        assert [each.spend(1) for each in permits] == [None] * processes
        return used

    assert asyncio.run(run()) <= limit + processes * (limit // BLOCKS_PER_WINDOW)


def test_block_of_a_window_that_has_ended_is_not_spent(queue_server: RedisClient) -> None:
    now = [0.0]

    async def run() -> None:
        permits = Permits(queue_server, "old", Rate(1_000, "items", 86_400), lambda: now[0])
        assert await permits.take(1)
        assert permits.spend(1)
        now[0] = 86_401.0
        assert permits.spend(1) is None

    asyncio.run(run())


def test_items_tokens_and_pixels_of_the_current_request_are_charged(
    queue_server: RedisClient,
) -> None:
    async def run() -> None:
        rates = RateLimiter(queue_server, {Scope.INFER: "100 items/hour;50 pixels/day;7/day"})
        await rates.charge(items=1_000)
        CURRENT.set((None, Scope.INFER))
        assert rates.units() == {"items", "pixels", "requests"}
        await rates.charge(items=90, pixels=20)
        with pytest.raises(RateLimitError, match="at most 100 items of clients without a key"):
            await rates.charge(items=11, pixels=1)
        await rates.charge(items=10)
        with pytest.raises(InputTooLargeError, match=r"at most 50 pixels .* got a request of 51"):
            await rates.charge(items=1, pixels=51)
        with pytest.raises(InputTooLargeError, match=r"at most 100 items .* got a request of 101"):
            rates.check_size(items=101)
        rates.check_size(items=100, pixels=50)
        await rates.charge(pixels=30, tokens=1_000_000)

    asyncio.run(run())
