"""What a worker does with the jobs in its hands, apart from any model."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.queue.consumer import Delivery
from stitchwork.queue.messages import Job
from stitchwork.worker.loop import meanwhile

SECONDS = 60.0


def deliveries(*inputs: int) -> list[Delivery]:
    return [Delivery("s", str(i), Job(id=str(i)), [b"x"] * n) for i, n in enumerate(inputs)]


def test_the_next_jobs_are_worked_on_while_those_before_are_in_hand() -> None:
    begun = {str(i): threading.Event() for i in range(3)}

    def work(delivery: Delivery) -> str:
        begun[delivery.entry].set()
        return delivery.entry

    with ThreadPoolExecutor(1) as pool:
        groups = meanwhile(pool, deliveries(2, 2, 2), work, 4)
        first, result = next(groups)
        assert [result(delivery) for delivery in first] == ["0", "1"]
        assert begun["2"].wait(SECONDS), "nobody has asked for it yet"
        second, result = next(groups)
        assert [result(delivery) for delivery in second] == ["2"]
        assert list(groups) == []


def test_one_that_fails_takes_no_other_along() -> None:
    def work(delivery: Delivery) -> str:
        if delivery.entry == "1":
            raise InvalidInputError("no image")
        return delivery.entry

    with ThreadPoolExecutor(1) as pool:
        groups = meanwhile(pool, deliveries(1, 1, 1), work, 3)
        (first, second, third), result = next(groups)
        assert (result(first), result(third)) == ("0", "2")
        with pytest.raises(InvalidInputError, match="no image"):
            result(second)


def test_what_nobody_fetches_is_not_begun() -> None:
    go, begun = threading.Event(), []

    def work(delivery: Delivery) -> None:
        begun.append(delivery.entry)
        assert go.wait(SECONDS)

    with ThreadPoolExecutor(1) as pool:
        groups = meanwhile(pool, deliveries(1, 1, 1), work, 1)
        next(groups)
        groups.close()  # type: ignore[attr-defined]
        go.set()
    assert begun in ([], ["0"])
