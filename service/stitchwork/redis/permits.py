"""Permits of one rate of one key: taken from the server in blocks, spent in this process."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from stitchwork.redis.client import RedisClient
from stitchwork.redis.rates import Rate

BLOCKS_PER_WINDOW: Final = 20
"""A block is at most this part of a rate, so that a key costs few calls in a window."""
MAX_REFUSAL_SECONDS: Final = 1.0
"""How long a refusal is repeated without asking the server."""

# Grants permits of a sliding window: those of the current window, and of the one before as many as
# the part of it that the sliding window still covers. While many are left, more are granted than
# are needed, but no more than an eighth of what is left, so that one process does not have what
# others need.
# KEYS counts · ARGV limit, window in ms, needed, wanted
# Returns the granted permits, those left, and the ms until the window ends.
TAKE_PERMITS: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit, window, needed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local index = math.floor(now / window)
local fields = redis.call('HMGET', KEYS[1], 'index', 'count', 'before')
local count, before = tonumber(fields[2] or '0'), tonumber(fields[3] or '0')
local age = index - tonumber(fields[1] or '0')
if age == 1 then count, before = 0, count elseif age ~= 0 then count, before = 0, 0 end
local elapsed = now - index * window
local left = math.max(0, math.floor(limit - count - before * (1 - elapsed / window)))
local granted = math.max(needed, math.min(tonumber(ARGV[4]), math.floor(left / 8)))
if granted > left then granted = 0 end
if granted > 0 then
  redis.call('HSET', KEYS[1], 'index', index, 'count', count + granted, 'before', before)
  redis.call('PEXPIRE', KEYS[1], 2 * window)
end
return {granted, left - granted, window - elapsed}
"""


class Permits:
    """The permits of one rate of one key.

    Permits that are not spent by the end of their window expire. So within any window a key uses at
    most its limit, and one block more for each API process.

    Args:
        server: The queue server.
        name: The name of the counter.
        rate: The rate.
        clock: Returns the time in seconds.

    Attributes:
        left: Permits that the server had left, as of the last call.
    """

    def __init__(
        self,
        server: RedisClient,
        name: str,
        rate: Rate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = rate
        self.left = rate.limit
        self._server = server
        self._key = server.key("rates", name, str(rate.limit), rate.unit, str(rate.window))
        self._clock = clock
        self._block = max(1, rate.limit // BLOCKS_PER_WINDOW)
        self._permits = 0
        self._ends = 0.0
        self._refused = 0
        self._refused_until = 0.0
        self._lock = asyncio.Lock()

    @property
    def remaining(self) -> int:
        """Permits that are left, here and on the server."""
        return self.left + self._permits

    @property
    def reset_seconds(self) -> float:
        """Seconds until the window ends."""
        return max(0.0, self._ends - self._clock())

    def spend(self, count: int) -> bool | None:
        """Spend permits that this process has.

        Returns:
            Whether they were spent; None if only the server knows.
        """
        now = self._clock()
        if now < self._refused_until and count >= self._refused:
            return False
        if now < self._ends and count <= self._permits:
            self._permits -= count
            return True
        return False if count > self.rate.limit else None

    async def take(self, count: int) -> bool:
        """Spend permits, after a call to the server if this process has too few.

        Raises:
            QueueUnavailableError: If the server is unavailable.
        """
        async with self._lock:
            # Another request may have taken a block meanwhile.
            spent = self.spend(count)
            if spent is None:
                await asyncio.to_thread(self._refill, count)
                spent = self.spend(count)
            return bool(spent)

    def _refill(self, count: int) -> None:
        if self._clock() >= self._ends:
            self._permits = 0
        needed = count - self._permits
        window_ms = self.rate.window * 1000
        arguments = (self.rate.limit, window_ms, needed, max(needed, self._block))
        reply: Any = self._server.run_script(TAKE_PERMITS, (self._key,), *arguments)
        granted, self.left, ends_ms = reply
        now = self._clock()
        if now >= self._ends:
            # Those of a window that ended during the call are not valid any more.
            self._permits = 0
        self._ends = now + ends_ms / 1000
        self._permits += granted
        if not granted:
            # Until then one more permit becomes free at most.
            pause = min(MAX_REFUSAL_SECONDS, self.rate.window / self.rate.limit, ends_ms / 1000)
            self._refused, self._refused_until = count, now + pause
