"""Sizes of parts, on queues of known speed: workers stay busy, and deadlines are far away."""

from collections.abc import Callable

import pytest

from stitchwork.client.part_sizes import FIRST_ITEMS, MAX_ITEMS, PartSizes

IN_FLIGHT = 3
TIMEOUT = 60.0


def simulate(
    total: int, seconds_per_item: Callable[[int], float], timeout: float = TIMEOUT
) -> tuple[list[tuple[int, float]], float]:
    """Send a call to a queue with one worker, as the client does.

    Args:
        total: Inputs of the call.
        seconds_per_item: Time of one input, given the number of those before it.
        timeout: Timeout of a request.

    Returns:
        Size and time of each part, and the share of the time in which the worker was busy.
    """
    sizes = PartSizes(2048, IN_FLIGHT, timeout)
    now = free_at = busy = 0.0
    running: list[tuple[float, int, int, float]] = []
    parts, begun, done = list[tuple[int, float]](), 0, 0
    while done < total:
        is_first = not parts
        while begun < total and len(running) < (1 if is_first else IN_FLIGHT):
            size = min(sizes.size, total - begun)
            work = sum(seconds_per_item(i) for i in range(begun, begun + size))
            free_at = max(free_at, now) + work
            busy += work
            begun += size
            running.append((free_at, size, sizes.begin(size), now))
        running.sort()
        now, size, in_progress, sent_at = running.pop(0)
        sizes.end(size)
        sizes.record(in_progress, now - sent_at)
        parts.append((size, now - sent_at))
        done += size
    return parts, busy / now


@pytest.mark.parametrize("seconds", [0.2, 1.0, 0.02])
def test_parts_of_a_slow_encoder_take_a_fraction_of_the_timeout(seconds: float) -> None:
    parts, utilisation = simulate(3080, lambda _: seconds)
    assert parts[0][0] == FIRST_ITEMS
    assert max(time for _, time in parts) < TIMEOUT / 2
    assert utilisation > 0.999


def test_parts_of_a_fast_encoder_become_as_large_as_they_may() -> None:
    parts, _ = simulate(3080, lambda _: 0.001)
    assert [size for size, _ in parts][:2] == [FIRST_ITEMS, 4 * FIRST_ITEMS]
    assert {size for size, _ in parts[4:-1]} == {MAX_ITEMS}


def test_parts_shrink_when_the_service_becomes_slower() -> None:
    parts, utilisation = simulate(3080, lambda i: 0.02 if i < 1500 else 0.2)
    assert max(time for _, time in parts) < TIMEOUT
    assert max(size for size, _ in parts[len(parts) // 2 :]) < MAX_ITEMS / 4
    assert utilisation > 0.999


def test_parts_fit_a_short_timeout() -> None:
    parts, utilisation = simulate(320, lambda _: 0.05, timeout=3.0)
    assert max(time for _, time in parts) < 1.5
    assert utilisation > 0.999


def test_limit_holds_until_times_say_that_more_fits() -> None:
    sizes = PartSizes(2048, IN_FLIGHT, TIMEOUT)
    sizes.limit(3)
    assert sizes.size == 3
    sizes.record(sizes.begin(3), 0.1)
    assert sizes.size == 12
    sizes.record(1, 1e6)
    assert sizes.size == 1, "at least one"
