"""API keys: creation, key files, and the keys in the registry. Only their hashes are stored.

A key is 256 random bits, so nobody finds one by trying hashes, however fast: SHA-256 without salt
or stretching is safe here, as it would not be for passwords. The registry has

    keys            hash of records by name
    keys:version    changes with every change, so that a check for changes is one small read
"""

import hashlib
import logging
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from stitchwork.errors import (
    ConflictError,
    IncompatibleFormatError,
    InvalidInputError,
    UnknownResourceError,
)
from stitchwork.ids import check_id
from stitchwork.redis.client import Check, RedisClient
from stitchwork.redis.commands import Command
from stitchwork.redis.rates import parse_rates
from stitchwork.registry.stored_records import dump_record, load_record
from stitchwork.resources import ApiKey, Scope

log = logging.getLogger(__name__)

KEYS: Final = "keys"
VERSION: Final = "keys:version"
BOUNDS: Final = frozenset({"limit", "weight", "max_queue_items"})
"""Fields of a key that bound what it may use."""
KEY_PREFIX: Final = "sw_"
"""The beginning of every key, by which scanners for leaked secrets recognize one."""


def digest(key: str) -> str:
    """The SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def new(
    name: str,
    scopes: Sequence[Scope],
    expires: datetime | None = None,
    **bounds: Any,
) -> tuple[str, ApiKey]:
    """A new key and its record; the key itself is stored nowhere.

    Args:
        name: Its name.
        scopes: What it allows.
        expires: When it expires.
        bounds: Its `limit`, `weight` and `max_queue_items`, as `ApiKey` has them.

    Raises:
        InvalidInputError: If the name is not an id.
    """
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    record = ApiKey(
        name=check_id(name),
        digest=digest(key),
        scopes=tuple(dict.fromkeys(scopes)),
        created=datetime.now(UTC).replace(microsecond=0),
        expires=expires,
        **bounds,
    )
    return key, record


def admin_record(key: str) -> ApiKey:
    """The record of a key of scope admin that the settings name."""
    return ApiKey(name="admin-key", digest=digest(key), scopes=(Scope.ADMIN,))


def line(key: ApiKey) -> str:
    """A key as one line of a key file."""
    parts = [key.name, ",".join(key.scopes), key.digest]
    if key.expires:
        parts.append(key.expires.isoformat())
    bounds = key.model_dump(include=set(BOUNDS), exclude_defaults=True)
    # Rates are the same without their spaces.
    words = (f"{name}={str(value).replace(' ', '')}" for name, value in bounds.items())
    return " ".join([*parts, *words])


def read_file(path: Path) -> tuple[list[ApiKey], list[InvalidInputError]]:
    """The keys of a file: a name, scopes, a SHA-256, optionally an expiry, and bounds on each line.

    Returns:
        The keys, and an error for a file that cannot be read, or for each malformed line, which it
        does not repeat.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeError) as error:
        message = f"key_file: {path} cannot be read: {type(error).__name__}"
        return [], [InvalidInputError(message)]
    keys, errors = list[ApiKey](), list[InvalidInputError]()
    for number, text in enumerate(lines, 1):
        words = text.split("#")[0].split()
        if not words:
            continue
        try:
            name, scopes, hashed, *rest = words
            dated = [word for word in rest if "=" not in word]
            expires = datetime.fromisoformat(dated[0]) if dated else None
            if len(dated) > 1 or (expires and expires.tzinfo is None):
                raise ValueError
            bounds: Any = dict(word.split("=", 1) for word in rest if "=" in word)
            if not BOUNDS.issuperset(bounds):
                raise ValueError
            if "limit" in bounds:
                parse_rates(bounds["limit"])
            listed = tuple(map(Scope, scopes.split(",")))
            keys.append(ApiKey(name=name, scopes=listed, digest=hashed, expires=expires, **bounds))
        except (ValueError, InvalidInputError):
            message = (
                f"key_file: {path}, line {number}: expected NAME SCOPE[,SCOPE] SHA256 [EXPIRY with "
                "its zone] [limit=RATES] [weight=N] [max_queue_items=N], as `stitchwork api-keys "
                "declare` prints it"
            )
            errors.append(InvalidInputError(message))
    return keys, errors


KeyList: TypeAlias = list[ApiKey]


class ApiKeyRepository:
    """The keys in the registry.

    Args:
        server: The registry server.
        aof_timeout_ms: Milliseconds to wait for the append-only file; 0 does not wait.
    """

    def __init__(self, server: RedisClient, *, aof_timeout_ms: int = 0) -> None:
        self._server = server
        self._aof_timeout_ms = aof_timeout_ms

    def version(self) -> bytes:
        """A value that changes with every change; empty before the first."""
        with self._server.session() as client:
            value: Any = client.get(self._server.key(VERSION))
        return value or b""

    def list(self) -> KeyList:
        """All keys, by name, without those that cannot be read, which are logged."""
        return self.read_all()[0]

    def read_all(self) -> tuple[KeyList, int]:
        """All keys, by name, and the number of those that cannot be read, which are logged."""
        with self._server.session() as client:
            records: Any = client.hgetall(self._server.key(KEYS))
        keys = []
        for raw_name, data in sorted(records.items()):
            name = raw_name.decode(errors="backslashreplace")
            try:
                keys.append(load_record(ApiKey, data, f"API key {name}"))
            except IncompatibleFormatError as error:
                extra = {"key": name, "reason": error.message}
                log.error("API key unreadable", extra=extra)
        return keys, len(records) - len(keys)

    def add(self, key: ApiKey) -> None:
        """Store a key.

        Raises:
            ConflictError: If the name is taken: a key is rotated under a second name.
        """
        keys = self._server.key(KEYS)
        write: Command = ("HSET", keys, key.name, dump_record(key))
        if not self._commit(Check(("HEXISTS", keys, key.name), "0"), write):
            raise ConflictError(
                f"a key {key.name} is there already; remove it, or take another name"
            )

    def remove(self, name: str) -> None:
        """Revoke a key.

        Raises:
            UnknownResourceError: If there is no key of this name.
        """
        keys = self._server.key(KEYS)
        if not self._commit(Check(("HEXISTS", keys, name), "1"), ("HDEL", keys, name)):
            raise UnknownResourceError(f"no key {name} in the registry")

    def _commit(self, check: Check, write: Command) -> bool:
        changed: Command = ("SET", self._server.key(VERSION), secrets.token_hex(8))
        return self._server.commit([check], [write, changed], aof_timeout_ms=self._aof_timeout_ms)
