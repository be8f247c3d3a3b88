"""The streams that a worker reads, and the order in which it reads them."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from stitchwork.queue import streams
from stitchwork.queue.streams import StreamBacklog
from stitchwork.redis.client import RedisClient

REFRESH_SECONDS: Final = 0.5


class StreamTurns:
    """The streams that a worker reads, the one it read longest ago first.

    Args:
        server: The queue server.
        takes: Whether the worker takes jobs of a stream, given its name and its model's.
        patience: Seconds that jobs of a stream wait before the worker takes them.
    """

    def __init__(
        self,
        server: RedisClient,
        takes: Callable[[str, str], bool],
        patience: Callable[[str], float],
    ) -> None:
        self._server = server
        self._takes = takes
        self._patience = patience
        self._names: deque[str] = deque()
        self._refreshed = 0.0

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def refresh(self) -> None:
        """Update the list of streams, at most every `REFRESH_SECONDS`."""
        if self._names and time.monotonic() - self._refreshed < REFRESH_SECONDS:
            return
        with self._server.session() as client:
            reply: Any = client.hgetall(streams.JOBS)
        self._refreshed = time.monotonic()
        models = {name.decode(): model.decode() for name, model in reply.items()}
        names = {name for name, model in models.items() if self._takes(name, model)}
        self._names.extend(sorted(names.difference(self._names)))
        for name in set(self._names).difference(names):
            self._names.remove(name)

    def remove(self, name: str) -> None:
        """Stop reading a stream until it is listed again."""
        if name in self._names:
            self._names.remove(name)

    def immediate(self) -> list[str]:
        """The streams whose jobs do not wait."""
        return [name for name in self._names if not self._patience(name)]

    def next(self, backlogs: Mapping[str, StreamBacklog]) -> str | None:
        """The stream to read next, or None.

        Of the streams whose oldest job has waited for at least the stream's patience, it is the
        least recently read.
        """
        for name in list(self._names):
            waited_ms = backlogs[name].waited_ms if name in backlogs else None
            if waited_ms is not None and waited_ms >= self._patience(name) * 1000:
                self._names.remove(name)
                self._names.append(name)
                return name
        return None
