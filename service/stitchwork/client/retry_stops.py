"""What ends the attempts of the requests of one call, once another of its parts has failed."""

import asyncio
import threading
from contextlib import suppress

from tenacity import RetryCallState
from tenacity.stop import stop_base


class ThreadStop(stop_base):
    """Ends the attempts of requests in several threads, and the pauses between them."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether it was set: the condition of tenacity for no further attempt."""
        return self._event.is_set()

    def set(self) -> None:
        """No request is sent again."""
        self._event.set()

    def sleep(self, seconds: float) -> None:
        """Pause, at most until it is set."""
        self._event.wait(seconds)


class AsyncStop(stop_base):
    """Ends the attempts of requests in several tasks, and the pauses between them."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether it was set: the condition of tenacity for no further attempt."""
        return self._event.is_set()

    def set(self) -> None:
        """No request is sent again."""
        self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Pause, at most until it is set."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
