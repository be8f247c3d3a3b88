"""`stitchwork api-keys`: the keys of the API."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import click

from stitchwork.bootstrap.shared import open_registry
from stitchwork.cli.options import Group
from stitchwork.cli.output import as_json, table
from stitchwork.cli.servers import connect
from stitchwork.cli.settings_options import REGISTRY_SETTINGS, SettingsCommand
from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.redis.rates import parse_rates
from stitchwork.registry import api_keys as records
from stitchwork.registry.api_keys import ApiKeyRepository
from stitchwork.resources import ApiKey, Scope
from stitchwork.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

MAX_DAYS: Final = 36_500


@click.group(cls=Group)
def api_keys() -> None:
    """Add, list, remove or declare API keys."""


def _key_options(function: F) -> F:
    scope = click.option(
        "--scope",
        "scopes",
        multiple=True,
        type=click.Choice([scope.value for scope in Scope]),
        help="What the key allows; may be repeated.",
    )
    days = click.option("--days", type=float, metavar="DAYS", help="Days until the key expires.")
    limit = click.option(
        "--limit",
        metavar="RATES",
        help="Rate limits of this key, such as `100/minute;5000/day;200000 tokens/hour`.",
    )
    weight = click.option(
        "--weight",
        type=click.IntRange(1, 1000),
        default=1,
        show_default=True,
        help="Share of this key of each encoder and of the queue, in units of other callers'.",
    )
    items = click.option(
        "--max-queue-items",
        type=click.IntRange(1),
        help="Inputs of this key that may be in the queue of an encoder at a time.",
    )
    options = scope(days(limit(weight(items(function)))))
    return click.argument("name", metavar="NAME")(options)


@api_keys.command("add", cls=SettingsCommand, settings=REGISTRY_SETTINGS)
@_key_options
def add(
    settings: Settings, name: str, scopes: tuple[str, ...], days: float | None, **bounds: Any
) -> None:
    """Create a key, store its hash in the registry, and print the key, this once.

    NAME is written to the log beside the requests of the key.
    """
    key, record = _new_key(name, scopes, days, bounds)
    _repository(settings).add(record)
    click.echo(key)


@api_keys.command("declare", cls=SettingsCommand, settings=())
@_key_options
def declare(
    settings: Settings, name: str, scopes: tuple[str, ...], days: float | None, **bounds: Any
) -> None:
    """Create a key and store nothing: print its line for a key file.

    The key itself goes to standard error.
    """
    key, record = _new_key(name, scopes, days, bounds)
    click.echo(key, err=True)
    click.echo(records.line(record))


@api_keys.command("list", cls=SettingsCommand, settings=REGISTRY_SETTINGS)
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def list_all(settings: Settings, json_: bool) -> None:
    """List the keys of the registry, without the keys themselves."""
    keys = _repository(settings).list()
    if json_:
        click.echo(as_json([key.model_dump(mode="json", exclude={"digest"}) for key in keys]))
        return
    rows = []
    for key in keys:
        expires = f"{key.expires:%Y-%m-%d %H:%M}" if key.expires else "never"
        created = f"{key.created:%Y-%m-%d %H:%M}" if key.created else ""
        until = f"{expires}, expired" if key.expired else expires
        bounds = (key.limit, key.weight, key.max_queue_items)
        rows.append((key.name, list(key.scopes), *bounds, created, until))
    names = ("name", "scopes", "limit", "weight", "max_queue_items", "created", "expires")
    click.echo(table(names, rows, title="API keys"))


@api_keys.command("remove", cls=SettingsCommand, settings=REGISTRY_SETTINGS)
@click.argument("name", metavar="NAME")
@click.option("--last", is_flag=True, help="Remove even the last key.")
def remove(settings: Settings, name: str, last: bool) -> None:
    """Revoke a key; an API refuses it within about a second."""
    repository = _repository(settings)
    if {key.name for key in repository.list()} == {name} and not last:
        raise ConflictError(
            f"{name} is the last key in the registry; an API that starts without keys is open to "
            "everyone who can reach it. Pass --last to remove it all the same"
        )
    repository.remove(name)
    click.echo(f"{name}: removed")


def _new_key(
    name: str, scopes: tuple[str, ...], days: float | None, bounds: dict[str, Any]
) -> tuple[str, ApiKey]:
    if bounds["limit"] is not None:
        parse_rates(bounds["limit"])
    return records.new(name, _scopes(scopes), _expiry(days), **bounds)


def _repository(settings: Settings) -> ApiKeyRepository:
    return open_registry(connect(settings)[0], settings).keys


def _scopes(names: tuple[str, ...]) -> list[Scope]:
    if not names:
        raise InvalidInputError(f"expected --scope, one of {', '.join(Scope)}")
    return [Scope(name) for name in names]


def _expiry(days: float | None) -> datetime | None:
    if days is None:
        return None
    if not 0 < days <= MAX_DAYS:
        raise InvalidInputError(
            f"--days: expected more than 0 and at most {MAX_DAYS}, got {days:g}"
        )
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
