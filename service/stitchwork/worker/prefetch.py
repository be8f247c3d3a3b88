"""Runs work for later jobs while earlier ones are on the device."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from typing import TypeVar

from stitchwork.queue.deliveries import Delivery

T = TypeVar("T")


def prefetch(
    pool: Executor, deliveries: Sequence[Delivery], work: Callable[[Delivery], T], min_inputs: int
) -> Generator[tuple[list[Delivery], Callable[[Delivery], T]], None, None]:
    """Submit work for all jobs, and yield them in groups while later ones are worked on.

    Args:
        pool: Runs the work.
        deliveries: The jobs, in order.
        work: A function of a job; it runs in the caller's context.
        min_inputs: Minimum number of inputs of a group, except of the last.

    Yields:
        A group of jobs, and a function that waits for the result of one of them, or raises what
        its work raised. Work whose group was not yielded is cancelled.
    """
    futures = {d.key: pool.submit(copy_context().run, work, d) for d in deliveries}

    def result(delivery: Delivery) -> T:
        return futures[delivery.key].result()

    try:
        for group in _groups(deliveries, min_inputs):
            yield group, result
    finally:
        for future in futures.values():
            future.cancel()


def _groups(deliveries: Sequence[Delivery], min_inputs: int) -> Iterator[list[Delivery]]:
    """Jobs in order, in groups of at least this many inputs, except for the last."""
    group = list[Delivery]()
    for delivery in deliveries:
        group.append(delivery)
        if sum(len(member.items) for member in group) >= min_inputs:
            yield group
            group = []
    if group:
        yield group
