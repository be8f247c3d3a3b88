"""`stitchwork keys`: who may use the API."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.redis.rate_limiter import parsed
from stitchwork.registry import api_keys as stored
from stitchwork.registry.api_keys import ApiKeyRepository
from stitchwork.resources import Scope


def add(
    keys: ApiKeyRepository, name: str, scopes: Sequence[str], days: float | None, limit: str | None
) -> int:
    """Make a key, let it in, and show it once.

    Raises:
        InvalidInputError: If the name is not an id, no scope is given, or the limit says nothing.
        ConflictError: If the name is taken.
    """
    if limit is not None:
        parsed(limit)
    key, record = stored.new(name, _scopes(scopes), _expiry(days), limit)
    keys.add(record)
    print(key)  # noqa: T201
    return 0


def declare(name: str, scopes: Sequence[str], days: float | None) -> int:
    """Make a key, show its line for a key file, and the key itself on standard error."""
    key, record = stored.new(name, _scopes(scopes), _expiry(days))
    print(key, file=sys.stderr)  # noqa: T201
    print(stored.line(record))  # noqa: T201
    return 0


def show(keys: ApiKeyRepository, *, as_json: bool) -> int:
    """List the keys of the registry, without what they are."""
    found = keys.list()
    if as_json:
        told = [key.model_dump(mode="json", exclude={"digest"}) for key in found]
        print(json.dumps(told, indent=2))  # noqa: T201
        return 0
    table = Table("name", "scopes", "limit", "created", "expires", title="Keys")
    for key in found:
        expires = f"{key.expires:%Y-%m-%d %H:%M}" if key.expires else "never"
        until = f"{expires}, over" if key.expired else expires
        created = f"{key.created:%Y-%m-%d %H:%M}" if key.created else ""
        table.add_row(key.name, ", ".join(key.scopes), key.limit or "", created, until)
    Console().print(table)
    return 0


def remove(keys: ApiKeyRepository, name: str, *, last: bool) -> int:
    """Let a key in no more.

    Raises:
        UnknownResourceError: If there is none of this name.
        ConflictError: If no key would be left, and `last` does not ask for that.
    """
    if {key.name for key in keys.list()} == {name} and not last:
        raise ConflictError(
            f"{name} is the last key in the registry; an API that starts without any is open to "
            "whoever reaches it. Say --last if that is meant"
        )
    keys.remove(name)
    print(f"{name}: removed")  # noqa: T201
    return 0


def _scopes(given: Sequence[str]) -> list[Scope]:
    if not given:
        raise InvalidInputError(f"expected --scope, one of {', '.join(Scope)}")
    return [Scope(name) for name in given]


def _expiry(days: float | None) -> datetime | None:
    if days is None:
        return None
    if not 0 < days <= 36_500:
        raise InvalidInputError(f"--days: expected more than 0 and at most 36500, got {days:g}")
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
