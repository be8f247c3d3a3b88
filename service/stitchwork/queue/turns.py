"""The encoders whose streams a worker reads, and the order in which it reads them."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from stitchwork.queue import streams
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.queue.shards import QueueShard, answering, read_shards
from stitchwork.queue.streams import EncoderStreams

REFRESH_SECONDS: Final = 0.5
MAX_DELAY: Final = 8
"""How many times as long as its last turn an encoder waits, at most, for turns of another one."""


class _Turn(NamedTuple):
    """The last turn of an encoder: its end in virtual time, and its duration in seconds."""

    end: float
    seconds: float


_NO_TURN: Final = _Turn(0.0, 0.0)


class EncoderTurns:
    """The encoders whose streams a worker reads, the one that had the least of its time first.

    They share the worker by start-time fair queueing: the turn of an encoder starts, in virtual
    time, when its last one ended, or with the latest turn of all if it had nothing to do since. So
    an encoder whose batches take long gets fewer of them, and no encoder saves time up. The weight
    of an encoder is that of the callers that have jobs of it, so that one caller gets no larger
    share of the worker by jobs of many encoders, beside one of a larger weight. However large that
    is, turns of the other encoders take at most `MAX_DELAY` times as long as the last turn of an
    encoder, each, before its next one: after a small request, another one is soon served.

    Args:
        shards: The shards of the queue.
        takes: Whether the worker takes jobs of an encoder, given its key and what they require.
        patience: Seconds that jobs of an encoder wait before the worker takes them.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        shards: Sequence[QueueShard],
        takes: Callable[[str, ModelRequirement], bool],
        patience: Callable[[str], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shards = shards
        self._takes = takes
        self._patience = patience
        self._clock = clock
        self._encoders: list[EncoderStreams] = []
        self._refreshed = float("-inf")
        self._last: dict[str, _Turn] = {}
        self._virtual_time = 0.0
        self._turn: tuple[str, float] | None = None
        self._weight = 1.0

    def __iter__(self) -> Iterator[EncoderStreams]:
        shards = {shard.number for shard in answering(self._shards)}
        encoders = [encoder for encoder in self._encoders if encoder.shard in shards]
        return iter(sorted(encoders, key=self._order))

    def __len__(self) -> int:
        return len(self._encoders)

    def refresh(self) -> None:
        """Update the list of encoders, at most every `REFRESH_SECONDS`."""
        if self._encoders and time.monotonic() - self._refreshed < REFRESH_SECONDS:
            return
        lists, _ = read_shards(answering(self._shards), streams.all_streams)
        self._encoders = sorted(
            encoder
            for encoders in lists
            for encoder in encoders
            if self._takes(encoder.encoder, encoder.requirement)
        )
        self._refreshed = time.monotonic()
        names = {encoder.encoder for encoder in self._encoders}
        self._last = {name: turn for name, turn in self._last.items() if name in names}

    def clear(self) -> None:
        """Read nothing until the streams are listed again."""
        self._encoders.clear()

    def begin_turn(self, encoder: EncoderStreams, weight: float = 1.0) -> None:
        """Jobs of an encoder were read, which the worker does until it reads again.

        Args:
            encoder: The encoder.
            weight: That of the callers that have jobs of it.
        """
        self.end_turn()
        name, self._weight = encoder.encoder, max(1.0, weight)
        self._virtual_time = max(self._virtual_time, self._last.get(name, _NO_TURN).end)
        for other, (end, seconds) in self._last.items():
            bound = self._virtual_time + MAX_DELAY * seconds / self._weight
            self._last[other] = _Turn(min(end, bound), seconds)
        self._turn = name, self._clock()

    def end_turn(self) -> None:
        """The worker has done what it read last."""
        if self._turn is not None:
            name, start = self._turn
            seconds = self._clock() - start
            self._last[name] = _Turn(self._virtual_time + seconds / self._weight, seconds)
            self._turn = None

    def immediate(self) -> list[EncoderStreams]:
        """The encoders whose jobs do not wait."""
        return [encoder for encoder in self if not self._patience(encoder.encoder)]

    def patience_ms(self, encoder: EncoderStreams) -> int:
        """Milliseconds that jobs of an encoder wait before the worker takes them."""
        return int(self._patience(encoder.encoder) * 1000)

    def _order(self, encoder: EncoderStreams) -> tuple[float, float, int]:
        end = self._last.get(encoder.encoder, _NO_TURN).end
        # The encoders of a shard together, where their turns allow it: one call reads all of them.
        return max(self._virtual_time, end), end, encoder.shard
