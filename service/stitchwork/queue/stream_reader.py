"""Reads the entries of the streams that a worker takes jobs from."""

import threading
import time
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from redis.exceptions import ResponseError

from stitchwork.errors import QueueUnavailableError
from stitchwork.queue import scripts
from stitchwork.queue.arrivals import Arrivals
from stitchwork.queue.deliveries import StreamEntry, parse_entry
from stitchwork.queue.keys import GROUP
from stitchwork.queue.shards import QueueShard, leave_shard
from stitchwork.queue.streams import EncoderStreams
from stitchwork.queue.turns import EncoderTurns
from stitchwork.redis.commands import Command

MAX_TAKE_BYTES: Final = 64 << 20
"""Size of the jobs of one batch, exceeded by one job at most."""
QUANTUM: Final = 256
"""Cost by which the classes of callers take turns in one encoder, for each unit of weight."""
BATCH_MS: Final = 200
"""Work of one batch, exceeded by one job at most: who comes next waits no longer for it."""
BLOCK_MS: Final = 500
"""How long an idle worker waits before it looks for new streams."""

_shard_number = attrgetter("shard")


class StreamReader:
    """Reads entries for a worker.

    Args:
        shards: The shards of the queue.
        name: The worker's name in the consumer groups.
        turns: The encoders whose streams it reads.
        items_per_batch: Inputs of a full batch.
        stopping: Set when the worker stops.
    """

    def __init__(
        self,
        shards: Sequence[QueueShard],
        name: str,
        turns: EncoderTurns,
        items_per_batch: int,
        stopping: threading.Event,
    ) -> None:
        self.turns = turns
        self._shards = shards
        seconds = BLOCK_MS / 1000
        self._blocking = shards[0].blocking(seconds)
        self._arrivals = Arrivals(shards, seconds) if len(shards) > 1 else None
        self._by_key: dict[bytes, tuple[EncoderStreams, str]] = {}
        self._name = name
        self._items_per_batch = items_per_batch
        self._stopping = stopping
        self._clocks_ms = dict.fromkeys((shard.number for shard in shards), 0.0)

    def read_waiting(self) -> list[StreamEntry]:
        """Up to a full batch of entries that wait for one encoder, the first whose turn it is.

        A shard that refuses, such as one that takes no writes, is left alone.

        Raises:
            QueueUnavailableError: If no shard answers.
        """
        self.turns.end_turn()
        failed = set[int]()
        for number, encoders in groupby(self.turns, _shard_number):
            if number in failed:
                continue
            try:
                entries = self._take(self._shards[number], list(encoders), ())
            except QueueUnavailableError as error:
                failed.add(number)
                leave_shard(self._shards, self._shards[number], error)
                continue
            if entries:
                return entries
        return []

    def read_late(self) -> list[tuple[EncoderStreams, list[StreamEntry]]]:
        """Entries that arrived after the worker had stopped to wait for those of their shard."""
        if self._arrivals is None or self._arrivals.is_complete:
            return []
        return self._parse_arrivals(self._arrivals.poll())

    def read_more(
        self, encoder: EncoderStreams, entries: Sequence[StreamEntry]
    ) -> list[StreamEntry]:
        """What else waits for an encoder, up to a full batch with entries that were read."""
        self.turns.begin_turn(encoder)
        return self._take(self._shards[encoder.shard], [encoder], entries)

    def read_arriving(
        self, encoders: Sequence[EncoderStreams]
    ) -> list[tuple[EncoderStreams, list[StreamEntry]]]:
        """Wait until entries arrive for some of these encoders."""
        if self._arrivals is None or self._arrivals.is_complete:
            self._by_key.clear()
        for encoder in encoders:
            keys = self._shards[encoder.shard].keys
            self._by_key |= {keys.stream(name).encode(): (encoder, name) for name in encoder.names}
        numbers = sorted({encoder.shard for encoder in encoders})
        commands = {number: self._command(number, encoders) for number in numbers}
        return self._parse_arrivals(self._wait(commands))

    def set_clock(self, shard: int, now_ms: int) -> None:
        """Take the time of a shard's server, from which later times are computed."""
        self._clocks_ms[shard] = now_ms - time.monotonic() * 1000

    def clear_turns(self, error: QueueUnavailableError) -> None:
        """List the streams again if one no longer exists, as after a restart of the server."""
        refusal = error.__cause__
        if not isinstance(refusal, ResponseError) or not str(refusal).startswith("NOGROUP"):
            raise error
        if self.turns:
            self.turns.clear()
            self._stopping.wait(BLOCK_MS / 1000 / 5)

    def now_ms(self, shard: int) -> float:
        """Milliseconds since the epoch by the clock of a shard's server."""
        return self._clocks_ms[shard] + time.monotonic() * 1000

    def close(self) -> None:
        """Close the connections of the calls that block."""
        self._blocking.close()
        if self._arrivals is not None:
            self._arrivals.close()

    def _command(self, number: int, encoders: Sequence[EncoderStreams]) -> Command:
        """The command that waits for entries of some of these encoders, those of one shard."""
        keys = self._shards[number].keys
        names = [name for encoder in encoders if encoder.shard == number for name in encoder.names]
        group = ("GROUP", GROUP, self._name, "COUNT", 1, "BLOCK", BLOCK_MS)
        positions = (">",) * len(names)
        return ("XREADGROUP", *group, "STREAMS", *map(keys.stream, names), *positions)

    def _wait(self, commands: dict[int, Command]) -> dict[int, Any]:
        """The replies to commands that block, by the shard; one is enough to go on."""
        if self._arrivals is not None:
            return self._arrivals.wait(commands)
        try:
            return dict(zip(commands, self._blocking.execute(*commands.values()), strict=True))
        except QueueUnavailableError as error:
            return dict.fromkeys(commands, error)

    def _parse_arrivals(
        self, replies: dict[int, Any]
    ) -> list[tuple[EncoderStreams, list[StreamEntry]]]:
        """The entries in replies of shards; a shard whose reply is an error is left alone."""
        arrived: dict[EncoderStreams, list[StreamEntry]] = {}
        failures: dict[int, QueueUnavailableError] = {}
        for number, reply in replies.items():
            if isinstance(reply, QueueUnavailableError):
                failures[number] = reply
                continue
            # A list by the second version of the protocol, and a dictionary by the third.
            pairs = reply.items() if isinstance(reply, dict) else reply or ()
            for key, entries in pairs:
                encoder, name = self._by_key[key]
                arrived.setdefault(encoder, []).extend(
                    parse_entry(name, id_, fields, number) for id_, fields in entries
                )
        for number, failure in failures.items():
            try:
                self.clear_turns(failure)
            except QueueUnavailableError as error:
                leave_shard(self._shards, self._shards[number], error)
        return list(arrived.items())

    def _take(
        self, shard: QueueShard, encoders: Sequence[EncoderStreams], taken: Sequence[StreamEntry]
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
            keys += (shard.keys.credits(encoder.encoder), shard.keys.pace(encoder.encoder))
            keys += map(shard.keys.stream, encoder.names)
            names += ("", "", *encoder.names)
            words += (len(encoder.names), 0 if taken else self.turns.patience_ms(encoder))
        now_ms, number, weight, entries = shard.run_script(scripts.TAKE, keys, *words)
        self.set_clock(shard.number, now_ms)
        if number:
            self.turns.begin_turn(encoders[number - 1], weight)
        return [
            parse_entry(names[stream - 1], id_, fields, shard.number)
            for stream, id_, fields in entries
        ]
