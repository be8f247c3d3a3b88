"""The queues that were full a moment ago, which are not asked again for each request."""

import time
from typing import Final

from cachetools import LRUCache

from stitchwork.errors import QueueFullError
from stitchwork.queue.callers import CALLER
from stitchwork.queue.pending_requests import PendingRequest
from stitchwork.resources import EncoderSpec, encoder_key

MAX_QUEUES: Final = 4_096
"""Encoders and callers that the queue is remembered to be full for."""
COMMON_LIMITS: Final = frozenset({"max-jobs", "share-of-jobs", "max-inputs", "max-age", "max-wait"})
"""The limits that, with no room left, refuse other requests of a caller too. The rest depends on
the size or the deadline of a request."""


class FullQueues:
    """The encoders whose queues were full for a caller a moment ago.

    Args:
        seconds: Time for which a queue that was full counts as full without being read again,
            unless one of its jobs is done.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._errors: LRUCache[tuple[str, str], tuple[float, QueueFullError]] = LRUCache(MAX_QUEUES)

    def check(self, encoder: EncoderSpec) -> None:
        """Refuse a request of the current caller.

        Args:
            encoder: The encoder that it needs.

        Raises:
            QueueFullError: If the queue of the encoder was full for it.
        """
        if not self._errors:
            return
        until, error = self._errors.get((encoder_key(encoder), CALLER.get().name), (0.0, None))
        if error is not None and time.monotonic() < until:
            raise QueueFullError(error.message, max_items=error.max_items, limit=error.limit)

    def add(self, request: PendingRequest, error: QueueFullError) -> None:
        """A request was refused, which is remembered if every other one would be."""
        if error.limit in COMMON_LIMITS and not error.max_items:
            place = request.encoder, request.parts.caller.name
            self._errors[place] = (time.monotonic() + self._seconds, error)

    def discard(self, request: PendingRequest) -> None:
        """A request has ended, so that its place in the queue is free."""
        self._errors.pop((request.encoder, request.parts.caller.name), None)
