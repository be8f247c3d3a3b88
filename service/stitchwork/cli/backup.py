"""`stitchwork backup` and `stitchwork restore`: the registry as a file."""

from pathlib import Path
from typing import Final

import click

from stitchwork.bootstrap.shared import open_registry
from stitchwork.cli.servers import connect
from stitchwork.cli.settings_options import REGISTRY_SETTINGS, SettingsCommand
from stitchwork.registry import backups
from stitchwork.registry.backups import BackupSummary
from stitchwork.settings import Settings

MIN_TIMEOUT_SECONDS: Final = 60.0
"""One call reads or writes all records, which takes longer than those of a request."""


@click.command(cls=SettingsCommand, settings=REGISTRY_SETTINGS)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
def backup(settings: Settings, file: Path) -> int:
    """Write all of the registry, as it is at one moment, to a new FILE with checksums.

    It holds anchors, heads, inputs of anchor sets and hashes of API keys. The service goes on.
    The exit code is 1 if some resources are incomplete in the registry; they are named.
    """
    server, _ = connect(_patient(settings))
    summary = backups.write_backup(server, file)
    click.echo(f"{file}: {_counts(summary)}")
    return _warn(summary)


@click.command(cls=SettingsCommand, settings=REGISTRY_SETTINGS)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, exists=True))
@click.option("--replace", is_flag=True, help="Replace all that is registered, API keys included.")
def restore(settings: Settings, file: Path, replace: bool) -> int:
    """Restore the registry from FILE, into the same or another server, all at once.

    The registry must be empty, unless --replace is passed. API keys that were removed after the
    backup are valid again.
    """
    server, _ = connect(_patient(settings))
    registry = open_registry(server, _patient(settings))
    summary = backups.restore_backup(registry.changes, file, replace=replace)
    click.echo(f"restored as of {summary.created}: {_counts(summary)}")
    return _warn(summary)


def _patient(settings: Settings) -> Settings:
    seconds = max(settings.redis_timeout_seconds, MIN_TIMEOUT_SECONDS)
    return settings.model_copy(update={"redis_timeout_seconds": seconds})


def _counts(summary: BackupSummary) -> str:
    return ", ".join(
        f"{count} {name}{'' if count == 1 else 's'}" for name, count in summary.counts.items()
    )


def _warn(summary: BackupSummary) -> int:
    for name in summary.incomplete:
        click.echo(
            f"stitchwork: {name}: the registry has no complete data of it; the backup has its "
            "record only",
            err=True,
        )
    return 1 if summary.incomplete else 0
