"""Reading ahead and writing behind in threads."""

import threading
from collections.abc import Iterator

import pytest

from stitchwork.migration.overlap import read_ahead, write_behind


def test_next_item_is_read_while_the_current_one_is_used() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    result = []
    with read_ahead(items()) as ahead:
        for item in ahead:
            assert second.wait(60)
            result.append(item)
    assert result == [1, 2]


def test_items_that_are_false_do_not_end_the_reading() -> None:
    with read_ahead(iter([0, None, ""])) as ahead:
        assert list(ahead) == [0, None, ""]


def test_error_of_reading_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("unreadable")

    with read_ahead(items()) as ahead:
        assert next(ahead) == 1
        with pytest.raises(ValueError, match="unreadable"):
            next(ahead)


def test_calls_are_made_in_order_while_the_caller_goes_on() -> None:
    result, allowed = list[int](), threading.Event()

    def write(number: int) -> None:
        assert allowed.wait(60)
        result.append(number)

    with write_behind(write) as call:
        call(1)
        assert result == []
        allowed.set()
        call(2)
        call(3)
    assert result == [1, 2, 3]


@pytest.mark.parametrize("last", [1, 3])
def test_no_call_is_made_after_one_that_failed(last: int) -> None:
    result = list[int]()

    def write(number: int) -> None:
        if number == 1:
            raise ValueError("disk full")
        result.append(number)

    def run() -> None:
        with write_behind(write) as call:
            for number in range(last + 1):
                call(number)

    with pytest.raises(ValueError, match="disk full"):
        run()
    assert result == [0]


def test_last_call_has_ended_when_the_caller_is_interrupted() -> None:
    result = list[int]()

    def run() -> None:
        with write_behind(result.append) as call:
            call(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert result == [1]
