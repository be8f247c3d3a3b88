"""Reads the entries of the streams that a worker takes jobs from."""

import threading
import time
from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError

from stitchwork.errors import QueueUnavailableError
from stitchwork.queue import scripts
from stitchwork.queue.deliveries import StreamEntry, parse_entry
from stitchwork.queue.keys import GROUP, SHARD
from stitchwork.queue.streams import EncoderStreams
from stitchwork.queue.turns import EncoderTurns
from stitchwork.redis.client import RedisClient

MAX_TAKE_BYTES: Final = 64 << 20
"""Size of the jobs of one batch, exceeded by one job at most."""
QUANTUM: Final = 256
"""Cost by which the classes of callers take turns in one encoder, for each unit of weight."""
BATCH_MS: Final = 200
"""Work of one batch, exceeded by one job at most: who comes next waits no longer for it."""
BLOCK_MS: Final = 500
"""How long an idle worker waits before it looks for new streams."""


class StreamReader:
    """Reads entries for a worker.

    Args:
        server: The queue server.
        name: The worker's name in the consumer groups.
        turns: The encoders whose streams it reads.
        items_per_batch: Inputs of a full batch.
        stopping: Set when the worker stops.
    """

    def __init__(
        self,
        server: RedisClient,
        name: str,
        turns: EncoderTurns,
        items_per_batch: int,
        stopping: threading.Event,
    ) -> None:
        self.turns = turns
        self._server = server
        self._blocking = server.blocking(BLOCK_MS / 1000)
        self._name = name
        self._items_per_batch = items_per_batch
        self._stopping = stopping
        self._clock_ms = 0.0

    def read_waiting(self) -> list[StreamEntry]:
        """Up to a full batch of entries that wait for one encoder, the first whose turn it is."""
        self.turns.end_turn()
        return self._take(list(self.turns), ())

    def read_more(
        self, encoder: EncoderStreams, entries: Sequence[StreamEntry]
    ) -> list[StreamEntry]:
        """What else waits for an encoder, up to a full batch with entries that were read."""
        self.turns.begin_turn(encoder)
        return self._take([encoder], entries)

    def read_arriving(
        self, encoders: Sequence[EncoderStreams]
    ) -> list[tuple[EncoderStreams, list[StreamEntry]]]:
        """Wait until entries arrive for some of these encoders."""
        by_key = {
            SHARD.stream(name).encode(): (encoder, name)
            for encoder in encoders
            for name in encoder.names
        }
        group = ("GROUP", GROUP, self._name, "COUNT", 1, "BLOCK", BLOCK_MS)
        positions = (">",) * len(by_key)
        try:
            (reply,) = self._blocking.execute(
                ("XREADGROUP", *group, "STREAMS", *by_key, *positions)
            )
        except QueueUnavailableError as error:
            self.clear_turns(error)
            return []
        arrived: dict[EncoderStreams, list[StreamEntry]] = {}
        for key, entries in reply or ():
            encoder, name = by_key[key]
            arrived.setdefault(encoder, []).extend(parse_entry(name, *raw) for raw in entries)
        return list(arrived.items())

    def set_clock(self, now_ms: int) -> None:
        """Take the server's time, from which later times are computed by this machine's clock."""
        self._clock_ms = now_ms - time.monotonic() * 1000

    def clear_turns(self, error: QueueUnavailableError) -> None:
        """List the streams again if one no longer exists, as after a restart of the server."""
        refusal = error.__cause__
        if not isinstance(refusal, ResponseError) or not str(refusal).startswith("NOGROUP"):
            raise error
        self.turns.clear()
        self._stopping.wait(BLOCK_MS / 1000 / 5)

    def now_ms(self) -> float:
        """Milliseconds since the epoch by the server's clock."""
        return self._clock_ms + time.monotonic() * 1000

    def close(self) -> None:
        """Close the connection of the calls that block."""
        self._blocking.close()

    def _take(
        self, encoders: Sequence[EncoderStreams], taken: Sequence[StreamEntry]
    ) -> list[StreamEntry]:
        free = self._items_per_batch - sum(max(1, entry.items) for entry in taken)
        room = MAX_TAKE_BYTES - sum(entry.size for entry in taken)
        if free <= 0 or room <= 0:
            return []
        keys: list[str] = []
        names: list[str] = []
        cost = sum(entry.cost for entry in taken)
        words: list[str | int] = [self._name, free, room, QUANTUM, BATCH_MS, cost]
        for encoder in encoders:
            keys += (SHARD.credits(encoder.encoder), SHARD.pace(encoder.encoder))
            keys += map(SHARD.stream, encoder.names)
            names += ("", "", *encoder.names)
            words += (len(encoder.names), 0 if taken else self.turns.patience_ms(encoder))
        now_ms, number, weight, entries = self._server.run_script(scripts.TAKE, keys, *words)
        self.set_clock(now_ms)
        if number:
            self.turns.begin_turn(encoders[number - 1], weight)
        return [parse_entry(names[stream - 1], id_, fields) for stream, id_, fields in entries]
