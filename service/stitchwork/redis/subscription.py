"""Notices on a channel of a server, any of which may get lost."""

import time
from typing import Any

from stitchwork.redis.client import RedisClient


class Subscription:
    """A subscription to one channel, on a connection of its own.

    Args:
        server: The server; the subscription closes it.
        channel: The channel.
    """

    def __init__(self, server: RedisClient, channel: str) -> None:
        self._server = server
        self._channel = channel
        self._pubsub: Any = None

    def wait(self, seconds: float) -> bool:
        """Wait for a notice; those that have come by then count as one.

        Returns:
            False if none has come in this time.

        Raises:
            UnavailableError: If the connection breaks; the next call makes another one.
        """
        deadline = time.monotonic() + seconds
        with self._server.session() as client:
            try:
                if self._pubsub is None:
                    self._pubsub = client.pubsub()  # type: ignore[no-untyped-call]
                    self._pubsub.subscribe(self._channel)
                notified = False
                while (remaining := deadline - time.monotonic()) > 0 and not notified:
                    notified = self._receive(remaining)
                while notified and self._pubsub.get_message(timeout=0.0):
                    continue
            except BaseException:
                self._unsubscribe()
                raise
        return notified

    def close(self) -> None:
        """Close the connection."""
        self._unsubscribe()
        self._server.close()

    def _unsubscribe(self) -> None:
        if self._pubsub is not None:
            self._pubsub.close()
            self._pubsub = None

    def _receive(self, seconds: float) -> bool:
        message = self._pubsub.get_message(timeout=seconds)
        return message is not None and message["type"] == "message"
