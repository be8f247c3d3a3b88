"""The API keys that a process knows, checked for changes every second."""

import hmac
import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from stitchwork.background import PeriodicTask
from stitchwork.errors import RegistryUnavailableError
from stitchwork.registry.api_keys import ApiKeyRepository, admin_record, digest, read_file
from stitchwork.resources import ApiKey

log = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 1.0
"""How often a process checks for changes; for an unknown key, it checks at once."""
LOOKUP_SECONDS: Final = 0.1
"""Minimum time between checks for unknown keys, so that guessing keys cannot load the registry."""


class ApiKeyCache:
    """The keys that this process knows.

    While the registry is unavailable, the last known keys stay valid for a limited time; a process
    that never read the registry lets nobody in, since there may be keys. Once there was a key, the
    loss of all keys does not make the API public. Keys that a file no longer declares, or that
    cannot be read in it any more, are not valid.

    Args:
        keys: The keys in the registry.
        file: A file with more keys.
        admin_key: One more key, of scope admin.
        stale_seconds: How long the last known keys stay valid; at least five seconds.
        required: Whether a key is required even if none is set.
        lookup_seconds: Minimum time between two checks for unknown keys.

    Raises:
        InvalidInputError: If the file cannot be read.
    """

    def __init__(
        self,
        keys: ApiKeyRepository,
        file: Path | None = None,
        *,
        admin_key: str | None = None,
        stale_seconds: float,
        required: bool,
        lookup_seconds: float = LOOKUP_SECONDS,
    ) -> None:
        self.keys = keys
        self.required = required
        self.lookup_seconds = lookup_seconds
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
        self._of_settings = [admin_record(admin_key)] if admin_key else []
        declared, errors = read_file(file) if file else ([], [])
        if errors:
            raise errors[0]
        self._declared = by_digest([*self._of_settings, *declared])
        self.task = PeriodicTask("keys", self.refresh, REFRESH_SECONDS)

    def start(self) -> None:
        """Begin to check for changes."""
        self.task.start()

    def stop(self) -> None:
        """Check no more."""
        self.task.stop()

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
        """
        with self._reloading:
            self._reload_file()
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

    def _reload_file(self) -> None:
        """Read the file if it has changed; a key that it does not declare now is not valid."""
        stamp = _stamp(self._file)
        if self._file is None or stamp == self._file_stamp:
            return
        keys, errors = read_file(self._file)
        for error in errors:
            extra = {"reason": error.message, "effect": "no key of it is accepted"}
            log.error("API keys unreadable", extra=extra)
        self._declared = by_digest([*self._of_settings, *keys])
        self._file_stamp = stamp

    def _current(self) -> dict[str, ApiKey]:
        """The keys in the registry, unless they were never read, or too long ago."""
        if self._version is None or time.monotonic() - self._checked > self._stale_seconds:
            raise RegistryUnavailableError(
                "keys cannot be checked while the registry server is unavailable"
            )
        return self._stored


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
