"""The API keys that a process knows, checked for changes every second."""

import hmac
import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from stitchwork.errors import InvalidInputError, RegistryUnavailableError
from stitchwork.registry.api_keys import ApiKeyRepository, digest, read_file
from stitchwork.resources import ApiKey

log = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 1.0
"""How often a process checks for changes; for an unknown key, it checks at once."""


class ApiKeyCache:
    """The keys that this process knows.

    While the registry is unavailable, the last known keys stay valid for a limited time; a process
    that never read the registry lets nobody in, since there may be keys. Once there was a key, the
    loss of all keys does not make the API public.

    Args:
        keys: The keys in the registry.
        file: A file with more keys.
        stale_seconds: How long the last known keys stay valid; at least five seconds.
        required: Whether a key is required even if none is set.

    Raises:
        InvalidInputError: If the file cannot be read.
    """

    def __init__(
        self,
        keys: ApiKeyRepository,
        file: Path | None = None,
        *,
        stale_seconds: float,
        required: bool,
    ) -> None:
        self.keys = keys
        self.required = required
        self._has_had_keys = False
        self._file = file
        # Between two checks nothing is stale yet.
        self._stale_seconds = max(stale_seconds, 5 * REFRESH_SECONDS)
        self._version: bytes | None = None
        self._checked = 0.0
        self._reloading = threading.Lock()
        self._stored: dict[str, ApiKey] = {}
        self._unreadable = 0
        self._file_stamp = _stamp(file)
        self._declared = by_digest(read_file(file) if file else [])
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)

    def start(self) -> None:
        """Begin to check for changes."""
        self._thread.start()

    def stop(self) -> None:
        """Check no more."""
        self._stopping.set()
        self._thread.join()

    @property
    def is_public(self) -> bool:
        """Whether no key is needed: none is set, none ever was, and none is required.

        Raises:
            RegistryUnavailableError: If it is not known which keys there are, or no longer.
        """
        return self.is_empty and not self.required and not self._has_had_keys

    @property
    def is_empty(self) -> bool:
        """Whether it is known that there are no keys at all.

        Raises:
            RegistryUnavailableError: If it is not known, or no longer.
        """
        return not (self._declared or self._current() or self._unreadable)

    def find(self, presented: str) -> ApiKey | None:
        """The record of a key, unless it is unknown, removed or expired.

        Raises:
            RegistryUnavailableError: If the file does not declare it, and it is not known which
                keys are in the registry, or no longer.
        """
        hashed = digest(presented)
        key = self._declared.get(hashed) or self._current().get(hashed)
        # The table is searched by the hash, of which an attacker chooses no part.
        matches = key is not None and hmac.compare_digest(key.digest, hashed)
        return key if key and matches and not key.expired else None

    def reload(self) -> None:
        """Check for changes.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
            InvalidInputError: If the file cannot be read; its previous keys stay valid.
        """
        with self._reloading:
            stamp = _stamp(self._file)
            if self._file and stamp != self._file_stamp:
                self._file_stamp = stamp
                self._declared = by_digest(read_file(self._file))
            version = self.keys.version()
            if version != self._version:
                # In this order: a new version means that there are keys to read.
                keys, self._unreadable = self.keys.read_all()
                self._stored = by_digest(keys)
                self._version = version
            self._checked = time.monotonic()
            self._has_had_keys |= bool(self._stored or self._declared or self._unreadable)

    def refresh(self) -> None:
        """Check for changes; if that fails, the last known keys stay valid."""
        try:
            self.reload()
        except RegistryUnavailableError as error:
            log.debug("API keys unavailable", extra={"reason": error.message})
        except InvalidInputError as error:
            extra = {"reason": error.message, "effect": "the previous keys stay valid"}
            log.error("API keys unreadable", extra=extra)

    def _current(self) -> dict[str, ApiKey]:
        """The keys in the registry, unless they were never read, or too long ago."""
        if self._version is None or time.monotonic() - self._checked > self._stale_seconds:
            raise RegistryUnavailableError(
                "keys cannot be checked while the registry server is unavailable"
            )
        return self._stored

    def _run(self) -> None:
        while not self._stopping.wait(REFRESH_SECONDS):
            self.refresh()


def by_digest(keys: Iterable[ApiKey]) -> dict[str, ApiKey]:
    """Keys by their digests."""
    return {key.digest: key for key in keys}


def _stamp(file: Path | None) -> tuple[int, ...]:
    """A value that changes when a file is replaced or written; empty if there is none."""
    try:
        status = file.stat() if file else None
    except OSError:
        return ()
    return (status.st_ino, status.st_mtime_ns, status.st_size) if status else ()
