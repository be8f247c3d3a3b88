"""Names of encoders, which workers and queues know by their keys."""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Final

from stitchwork.registry.repository import Repository
from stitchwork.resources import Space, encoder_key

PAGE_SIZE: Final = 1000
MIN_SECONDS: Final = 10.0
"""Time between two searches for keys that are not known."""


class EncoderNames:
    """The models of encoders by their keys, from the spaces that have them.

    Args:
        spaces: The spaces.
    """

    def __init__(self, spaces: Repository[Space]) -> None:
        self._spaces = spaces
        self._names: dict[str, str] = {}
        self._lock = threading.Lock()
        self._next_search = 0.0

    def find(self, keys: Iterable[str]) -> dict[str, str]:
        """The models of these encoders; without those that no space has.

        Only one caller at a time searches the registry; meanwhile the others get what is known.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
        """
        keys = set(keys)
        is_due = not keys <= self._names.keys() and time.monotonic() >= self._next_search
        if is_due and self._lock.acquire(blocking=False):
            try:
                self._names = dict(self._read())
            finally:
                # Also after a failure: a registry that hangs costs one timeout, not one a request.
                self._next_search = time.monotonic() + MIN_SECONDS
                self._lock.release()
        names = self._names
        return {key: names[key] for key in keys if key in names}

    def _read(self) -> Iterator[tuple[str, str]]:
        cursor: str | None = None
        while True:
            page = self._spaces.page(PAGE_SIZE, cursor)
            for entry in page.entries:
                # A worker that embeds the anchors of a new space has its encoder loaded too.
                for record in (entry.record, entry.registration):
                    if record is not None and record.encoder is not None:
                        yield encoder_key(record.encoder), record.encoder.model
            cursor = page.cursor
            if cursor is None:
                return
