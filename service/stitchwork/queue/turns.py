"""The encoders whose streams a worker reads, and the order in which it reads them."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from stitchwork.queue import streams
from stitchwork.queue.streams import EncoderStreams
from stitchwork.redis.client import RedisClient

REFRESH_SECONDS: Final = 0.5


class EncoderTurns:
    """The encoders whose streams a worker reads, the one it read longest ago first.

    Args:
        server: The queue server.
        takes: Whether the worker takes jobs of an encoder, given its key and its model's name.
        patience: Seconds that jobs of an encoder wait before the worker takes them.
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
        self._encoders: deque[EncoderStreams] = deque()
        self._refreshed = 0.0

    def __iter__(self) -> Iterator[EncoderStreams]:
        return iter(list(self._encoders))

    def __len__(self) -> int:
        return len(self._encoders)

    def refresh(self) -> None:
        """Update the list of encoders, at most every `REFRESH_SECONDS`."""
        if self._encoders and time.monotonic() - self._refreshed < REFRESH_SECONDS:
            return
        current = {
            encoder.encoder: encoder
            for encoder in streams.all_streams(self._server)
            if self._takes(encoder.encoder, encoder.model)
        }
        self._refreshed = time.monotonic()
        known = [current.pop(old.encoder) for old in self._encoders if old.encoder in current]
        self._encoders = deque([*known, *(current[name] for name in sorted(current))])

    def clear(self) -> None:
        """Read nothing until the streams are listed again."""
        self._encoders.clear()

    def end_turn(self, encoder: EncoderStreams) -> None:
        """Put an encoder that was read behind all others."""
        if encoder in self._encoders:
            self._encoders.remove(encoder)
            self._encoders.append(encoder)

    def immediate(self) -> list[EncoderStreams]:
        """The encoders whose jobs do not wait."""
        return [encoder for encoder in self._encoders if not self._patience(encoder.encoder)]

    def patience_ms(self, encoder: EncoderStreams) -> int:
        """Milliseconds that jobs of an encoder wait before the worker takes them."""
        return int(self._patience(encoder.encoder) * 1000)
