"""Observations that are collected and added up later, many at a time.

To add to a metric takes a lock, and for the processes of one `serve` a write to a file. On the path
of every request that happens a dozen times; to append to a list is a tenth of it.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from numpy.typing import ArrayLike

from stitchwork.background import AsyncPeriodicTask

FLUSH_SECONDS: Final = 0.25
"""Time for which metrics are collected before they are added up; a scrape does not wait for it."""
MAX_ENTRIES: Final = 10_000
"""Entries that are added up at once, even if nobody flushes them."""


class Increasable(Protocol):
    """A counter."""

    def inc(self, amount: float = 1) -> None:
        """Add an amount."""


class Observing(Protocol):
    """A histogram."""

    def observe(self, amount: float) -> None:
        """Observe one value."""

    def observe_many(self, observations: ArrayLike) -> None:
        """Observe each value of an array."""


class MetricBuffer:
    """Collects what is added to metrics, from any thread.

    Attributes:
        is_collecting: Whether what is added is collected, for `flush`; otherwise it is not added
            here.
        task: Its background task.
    """

    def __init__(self) -> None:
        # Of which appending and popping are atomic, so that no thread needs a lock.
        self._entries: deque[tuple[Callable[[Any], None], Sequence[float]]] = deque()
        self.is_collecting = False
        self.task = AsyncPeriodicTask("metrics", self._flush, FLUSH_SECONDS)

    def start(self) -> None:
        """Begin to collect, on the event loop of this thread."""
        self.is_collecting = True
        self.task.start()

    async def stop(self) -> None:
        """Collect no more."""
        self.is_collecting = False
        await self.task.stop()
        self.flush()

    async def _flush(self) -> None:
        self.flush()

    def add(self, entry: Callable[[Any], None], values: Sequence[float]) -> None:
        """Add values to a metric.

        Args:
            entry: Takes a list of values.
            values: The values.
        """
        self._entries.append((entry, values))
        if len(self._entries) >= MAX_ENTRIES:
            self.flush()

    def flush(self) -> None:
        """Add up what was collected."""
        values: dict[Callable[[Any], None], list[float]] = defaultdict(list)
        with suppress(IndexError):
            for _ in range(len(self._entries)):
                # Another thread may flush as well.
                entry, added = self._entries.popleft()
                values[entry] += added
        for entry, collected in values.items():
            entry(collected)


class BufferedCounter:
    """A counter whose changes are collected.

    Args:
        metric: The metric.
        buffer: Collects them.
    """

    __slots__ = ("_add", "_buffer", "_metric")

    def __init__(self, metric: Increasable, buffer: MetricBuffer) -> None:
        self._metric = metric
        self._buffer = buffer
        self._add = self._add_up

    def inc(self, amount: float = 1) -> None:
        """Add an amount."""
        if self._buffer.is_collecting:
            self._buffer.add(self._add, (amount,))
        else:
            self._metric.inc(amount)

    def _add_up(self, amounts: list[float]) -> None:
        self._metric.inc(sum(amounts))


class BufferedHistogram:
    """A histogram whose observations are collected.

    Args:
        metric: The histogram.
        buffer: Collects them.
    """

    __slots__ = ("_buffer", "_metric", "_observe")

    def __init__(self, metric: Observing, buffer: MetricBuffer) -> None:
        self._metric = metric
        self._buffer = buffer
        self._observe = metric.observe_many

    def observe(self, amount: float) -> None:
        """Observe one value."""
        if self._buffer.is_collecting:
            self._buffer.add(self._observe, (amount,))
        else:
            self._metric.observe(amount)

    def observe_many(self, amounts: Sequence[float]) -> None:
        """Observe several values."""
        if self._buffer.is_collecting:
            self._buffer.add(self._observe, amounts)
        else:
            self._observe(amounts)
