"""Reading ahead and writing behind in threads, beside the work on what was read."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


@contextmanager
def read_ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """The same items; a thread gets the next one while the caller works on the current one."""
    with ThreadPoolExecutor(1, "read") as thread:

        def ahead() -> Iterator[T]:
            future = thread.submit(_next, items)
            while current := future.result():
                future = thread.submit(_next, items)
                yield from current

        yield ahead()


@contextmanager
def write_behind(write: Callable[P, None]) -> Iterator[Callable[P, None]]:
    """A function that calls another one in a thread, and waits only for the call before.

    Calls are in order, one at a time. The error of a call is raised by the next one, which is not
    made then, or at the end of the context, which waits for the last call in any case.
    """
    with ThreadPoolExecutor(1, "write") as thread:
        last: Future[None] | None = None

        def call(*arguments: P.args, **options: P.kwargs) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = thread.submit(write, *arguments, **options)

        yield call
        if last is not None:
            last.result()


def _next(items: Iterator[T]) -> list[T]:
    """The next item; none at the end."""
    for item in items:
        return [item]
    return []
