"""Turns in which parts of bodies are read, so that no turn of the event loop is long."""

import asyncio
from collections import deque
from typing import Final

PARTS_PER_TURN: Final = 4
"""Parts of bodies that are read in a turn of the event loop, each of up to 256 KiB."""


class BodyTurns:
    """Lets a few parts of bodies be read in each turn of the event loop, in order.

    The server reads no more of a connection until its last part was taken. If all connections that
    have something were read in one turn, everything else would wait for all of them.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._free = PARTS_PER_TURN
        self._is_scheduled = False

    async def wait(self) -> None:
        """Wait until another part may be read."""
        loop = asyncio.get_running_loop()
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._begin_turn, loop)
        if self._free and not self._waiting:
            self._free -= 1
            return
        future = loop.create_future()
        self._waiting.append(future)
        await future

    def _begin_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._free = PARTS_PER_TURN
        while self._free and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                self._free -= 1
        self._is_scheduled = self._free < PARTS_PER_TURN
        if self._is_scheduled:
            loop.call_soon(self._begin_turn, loop)
