"""Work for later jobs while earlier ones are on the device."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.queue.deliveries import Delivery
from stitchwork.queue.messages import Job
from stitchwork.worker.prefetch import prefetch

SECONDS = 60.0


def deliveries(*inputs: int) -> list[Delivery]:
    return [Delivery("s", str(i), Job(id=str(i)), [b"x"] * n) for i, n in enumerate(inputs)]


def test_prefetch_of_three_jobs_works_on_the_next_before_it_is_fetched() -> None:
    started = {str(i): threading.Event() for i in range(3)}

    def work(delivery: Delivery) -> str:
        started[delivery.entry].set()
        return delivery.entry

    with ThreadPoolExecutor(1) as pool:
        groups = prefetch(pool, deliveries(2, 2, 2), work, 4)
        first, result = next(groups)
        assert [result(delivery) for delivery in first] == ["0", "1"]
        assert started["2"].wait(SECONDS), "the third job was not fetched yet"
        second, result = next(groups)
        assert [result(delivery) for delivery in second] == ["2"]
        assert list(groups) == []


def test_prefetch_of_a_job_that_fails_keeps_the_others() -> None:
    def work(delivery: Delivery) -> str:
        if delivery.entry == "1":
            raise InvalidInputError("no image")
        return delivery.entry

    with ThreadPoolExecutor(1) as pool:
        groups = prefetch(pool, deliveries(1, 1, 1), work, 3)
        (first, second, third), result = next(groups)
        assert (result(first), result(third)) == ("0", "2")
        with pytest.raises(InvalidInputError, match="no image"):
            result(second)


def test_prefetch_when_closed_cancels_the_jobs_that_are_left() -> None:
    resume, started = threading.Event(), []

    def work(delivery: Delivery) -> None:
        started.append(delivery.entry)
        assert resume.wait(SECONDS)

    with ThreadPoolExecutor(1) as pool:
        groups = prefetch(pool, deliveries(1, 1, 1), work, 1)
        next(groups)
        groups.close()
        resume.set()
    assert "1" not in started
    assert "2" not in started
