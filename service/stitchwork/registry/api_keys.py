"""Keys to the API: who holds one, and what it opens. Only their hashes are kept.

A key is 256 random bits, so nobody finds one by trying hashes, however fast: SHA-256 alone, without
salt or stretching, is as good here as it is bad for passwords. They stand in the registry, under

    keys            hash of records by name
    keys:version    changes with every change, so that looking costs one small read

and, where a secret is mounted as a file, in that file.
"""

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from stitchwork.errors import (
    ConflictError,
    InvalidInputError,
    RegistryUnavailableError,
    UnknownResourceError,
)
from stitchwork.redis.client import PREFIX, Check, Command, RedisClient
from stitchwork.resources import ApiKey, Scope, check_id

log = logging.getLogger(__name__)

KEYS: Final = PREFIX + "keys"
VERSION: Final = PREFIX + "keys:version"
MARK: Final = "sw_"
"""What every key begins with, so that scanners for leaked secrets know one when they see it."""
LOOK_SECONDS: Final = 1.0
"""How often a process looks for changes; for a key that it does not know, it looks at once."""


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def new(
    name: str,
    scopes: Sequence[Scope],
    expires: datetime | None = None,
    limit: str | None = None,
) -> tuple[str, ApiKey]:
    """A new key, which is told once, and what is kept of it.

    Raises:
        InvalidInputError: If the name is not an id.
    """
    key = MARK + secrets.token_urlsafe(32)
    record = ApiKey(
        name=check_id(name),
        digest=digest(key),
        scopes=tuple(dict.fromkeys(scopes)),
        created=datetime.now(UTC).replace(microsecond=0),
        expires=expires,
        limit=limit,
    )
    return key, record


def line(key: ApiKey) -> str:
    """A key as one line of a key file."""
    parts = [key.name, ",".join(key.scopes), key.digest]
    return " ".join([*parts, key.expires.isoformat()] if key.expires else parts)


def read_file(path: Path) -> list[ApiKey]:
    """The keys of a file: a name, scopes, a SHA-256 and perhaps an expiry on each line.

    Raises:
        InvalidInputError: If it cannot be read, or a line says something else; the line is not
        shown.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeError) as error:
        raise InvalidInputError(
            f"key_file: {path} cannot be read: {type(error).__name__}"
        ) from error
    found = []
    for number, text in enumerate(lines, 1):
        words = text.split("#")[0].split()
        if not words:
            continue
        try:
            name, scopes, hashed, *rest = words
            expires = datetime.fromisoformat(rest[0]) if rest else None
            if len(rest) > 1 or (expires and expires.tzinfo is None):
                raise ValueError
            listed = tuple(map(Scope, scopes.split(",")))
            found.append(ApiKey(name=name, scopes=listed, digest=hashed, expires=expires))
        except (ValueError, ValidationError) as error:
            raise InvalidInputError(
                f"key_file: {path}, line {number}: expected NAME SCOPE[,SCOPE] SHA256 [EXPIRY with "
                "its zone], as `stitchwork api-keys declare` prints it"
            ) from error
    return found


class ApiKeyRepository:
    """The keys in the registry.

    Args:
        server: The registry server.
        promise: Milliseconds a write may take to reach the append-only file; 0 does not ask.
    """

    def __init__(self, server: RedisClient, *, aof_timeout_ms: int = 0) -> None:
        self._server = server
        self._aof_timeout_ms = aof_timeout_ms

    def version(self) -> bytes:
        """What changes with every change; empty before the first."""
        with self._server.session() as client:
            found: Any = client.get(VERSION)
        return found or b""

    def list(self) -> list[ApiKey]:
        """All keys, by name."""
        with self._server.session() as client:
            found: Any = client.hvals(KEYS)
        return sorted(
            (ApiKey.model_validate_json(text) for text in found), key=lambda key: key.name
        )

    def add(self, key: ApiKey) -> None:
        """Let a key in.

        Raises:
            ConflictError: If the name is taken: a key is rotated under a second name.
        """
        write: Command = ("HSET", KEYS, key.name, key.model_dump_json().encode())
        if not self._commit(Check(("HEXISTS", KEYS, key.name), "0"), write):
            raise ConflictError(
                f"a key {key.name} is there already; remove it, or take another name"
            )

    def remove(self, name: str) -> None:
        """Let a key in no more.

        Raises:
            UnknownResourceError: If there is none of this name.
        """
        if not self._commit(Check(("HEXISTS", KEYS, name), "1"), ("HDEL", KEYS, name)):
            raise UnknownResourceError(f"no key {name} in the registry")

    def _commit(self, check: Check, write: Command) -> bool:
        changed: Command = ("SET", VERSION, secrets.token_hex(8))
        return self._server.commit([check], [write, changed], aof_timeout_ms=self._aof_timeout_ms)


class ApiKeyCache:
    """The keys that this process knows; looks for changes every second.

    While the registry is away, what it knows holds for so long; what was never known lets nobody
    in, for there may be keys. Where there was a key once, the loss of all does not open the door.

    Args:
        keys: The keys in the registry.
        file: A file with more of them.
        stale_seconds: How long what is known holds without another look; at least five seconds.
        must: Whether a key is needed even if none is set.

    Raises:
        InvalidInputError: If the file cannot be read.
    """

    def __init__(
        self, keys: ApiKeyRepository, file: Path | None = None, *, stale_seconds: float, must: bool
    ) -> None:
        self.keys = keys
        self.must = must
        self._guarded = False
        self._file = file
        # Between two looks nothing is stale yet.
        self._stale_seconds = max(stale_seconds, 5 * LOOK_SECONDS)
        self._version: bytes | None = None
        self._looked = 0.0
        self._looking = threading.Lock()
        self._stored: dict[str, ApiKey] = {}
        self._stamp = _stamp(file)
        self._declared = by_digest(read_file(file) if file else [])
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._watching, name="keys", daemon=True)

    def start(self) -> None:
        """Begin to look for changes."""
        self._watch.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._watch.join()

    @property
    def open(self) -> bool:
        """Whether no key is needed: none is set, none ever was, and nothing demands one.

        Raises:
            RegistryUnavailableError: If it is not known which keys there are, or no longer.
        """
        return self.empty and not self.must and not self._guarded

    @property
    def empty(self) -> bool:
        """Whether it is known that there are no keys at all.

        Raises:
            RegistryUnavailableError: If it is not known, or no longer.
        """
        return not (self._declared or self._fresh())

    def find(self, presented: str) -> ApiKey | None:
        """The key that this is, unless it is unknown, removed or expired.

        Raises:
            RegistryUnavailableError: If it is none that the file declares, and what is in the
            registry
                is not known, or no longer.
        """
        hashed = digest(presented)
        found = self._declared.get(hashed) or self._fresh().get(hashed)
        # The table was searched by the hash, of which whoever tries keys chooses no part.
        known = found is not None and hmac.compare_digest(found.digest, hashed)
        return found if found and known and not found.expired else None

    def look(self) -> None:
        """See what has changed.

        Raises:
            RegistryUnavailableError: If the registry is away.
            InvalidInputError: If the file cannot be read; what it said before holds.
        """
        with self._looking:
            stamp = _stamp(self._file)
            if self._file and stamp != self._stamp:
                self._stamp = stamp
                self._declared = by_digest(read_file(self._file))
            version = self.keys.version()
            if version != self._version:
                # In this order: a version says that there are keys to look at.
                self._stored = by_digest(self.keys.list())
                self._version = version
            self._looked = time.monotonic()
            self._guarded |= bool(self._stored or self._declared)

    def refresh(self) -> None:
        """See what has changed; where that cannot be seen, what was known before holds."""
        try:
            self.look()
        except RegistryUnavailableError as error:
            log.debug("API keys unavailable", extra={"reason": error.message})
        except (InvalidInputError, ValidationError) as error:
            log.error(
                "API keys unreadable",
                exc_info=error,
                extra={"effect": "the previous keys stay valid"},
            )

    def _fresh(self) -> dict[str, ApiKey]:
        """The keys in the registry, unless they were never seen, or too long ago."""
        if self._version is None or time.monotonic() - self._looked > self._stale_seconds:
            raise RegistryUnavailableError(
                "keys cannot be checked while the registry server is away"
            )
        return self._stored

    def _watching(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self.refresh()


def by_digest(keys: Iterable[ApiKey]) -> dict[str, ApiKey]:
    """Keys by what is kept of them."""
    return {key.digest: key for key in keys}


def _stamp(file: Path | None) -> tuple[int, ...]:
    """What changes when a file is replaced or written; empty if there is none."""
    try:
        found = file.stat() if file else None
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size) if found else ()
