"""`stitchwork dead-letters`: the jobs that were given up."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from stitchwork.bootstrap.shared import open_registry
from stitchwork.cli.options import Group
from stitchwork.cli.output import as_json, table
from stitchwork.cli.servers import connect
from stitchwork.cli.settings_options import REGISTRY_SETTINGS, SERVER_SETTINGS, SettingsCommand
from stitchwork.errors import CorruptDataError, IncompatibleFormatError, UnknownResourceError
from stitchwork.queue import dead_letters as repository
from stitchwork.queue import streams
from stitchwork.queue.dead_letters import DeadLetter
from stitchwork.queue.messages import Job
from stitchwork.queue.producer import Producer
from stitchwork.queue.shards import QueueShard
from stitchwork.settings import Settings

MAX_PREVIEW: Final = 200
"""Bytes or characters of an input that `show --inputs` prints."""


@click.group(cls=Group)
def dead_letters() -> None:
    """List, show, requeue or drop jobs that were given up."""


@dead_letters.command("list", cls=SettingsCommand, settings=SERVER_SETTINGS)
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def list_all(settings: Settings, json_: bool) -> None:
    """List the dead letters, the newest first."""
    _, shards = connect(settings)
    letters = repository.list_all(shards)
    described = [(letter, facts) for letter in letters if (facts := _facts(shards, letter))]
    if json_:
        click.echo(as_json([facts for _, facts in described]))
        return
    rows = []
    for letter, facts in described:
        size = f"{letter.size / 1000:.1f}"
        rows.append(
            (
                letter.id,
                facts["when"],
                facts.get("model"),
                letter.reason,
                facts.get("inputs", "?"),
                size,
            )
        )
    columns = ("letter", "when", "model", "reason", "inputs", "kB")
    click.echo(table(columns, rows, title="Dead letters"))


@dead_letters.command("show", cls=SettingsCommand, settings=SERVER_SETTINGS)
@click.argument("letter", metavar="LETTER")
@click.option("--inputs", is_flag=True, help="Print how the inputs begin; they are users' data.")
def show(settings: Settings, letter: str, inputs: bool) -> None:
    """Show one dead letter as JSON."""
    _, shards = connect(settings)
    job, items = repository.read(shards, letter)
    record: dict[str, Any] = {"job": job.model_dump(mode="json", exclude_none=True)}
    record["inputs"] = [
        {"bytes": len(item)} | ({"begins": repr(item[:MAX_PREVIEW])} if inputs else {})
        for item in items
    ]
    click.echo(as_json(record))


@dead_letters.command(
    "requeue", cls=SettingsCommand, settings=REGISTRY_SETTINGS | {"request_timeout_seconds"}
)
@click.argument("letter", metavar="LETTER")
def requeue(settings: Settings, letter: str) -> None:
    """Run a job again, wait for it, and drop its letter if it succeeds."""
    registry_server, shards = connect(settings)
    registry = open_registry(registry_server, settings)
    job, items = repository.read(shards, letter)
    if job.registration:
        streams.enqueue_registration(shards, registry.retry_registration(*job.registration))
        message = "the registration continues; see its record"
    else:
        message = asyncio.run(_run(shards, job, items, settings.request_timeout_seconds))
    repository.delete(shards, letter)
    click.echo(f"{letter}: {message}")


@dead_letters.command("drop", cls=SettingsCommand, settings=SERVER_SETTINGS)
@click.argument("letter", metavar="LETTER")
def drop(settings: Settings, letter: str) -> None:
    """Delete one dead letter."""
    _, shards = connect(settings)
    repository.delete(shards, letter)
    click.echo(f"{letter}: dropped")


async def _run(shards: Sequence[QueueShard], job: Job, items: list[Any], seconds: float) -> str:
    unlimited = 1 << 30
    producer = Producer(
        shards,
        max_jobs=unlimited,
        max_bytes=unlimited,
        max_wait_seconds=seconds,
        worker_ttl_seconds=seconds,
    )
    await producer.start()
    try:
        reply = await producer.run(job, items, seconds)
    finally:
        await producer.stop()
    rows = 0 if reply.rows is None else len(reply.rows)
    return f"succeeded with {rows} rows, which are discarded: its caller was answered before"


def _facts(shards: Sequence[QueueShard], letter: DeadLetter) -> dict[str, Any] | None:
    """What is known of a letter; None if it has been dropped since it was listed."""
    when = datetime.fromtimestamp(letter.time_ms / 1000, UTC).isoformat(timespec="seconds")
    facts: dict[str, Any] = {"letter": letter.id, "when": when, "reason": letter.reason}
    facts["bytes"] = letter.size
    try:
        job, items = repository.read(shards, letter.id)
    except UnknownResourceError:
        return None
    except (CorruptDataError, IncompatibleFormatError):
        # Its reason says so.
        return facts
    facts |= {"model": job.encoder.model if job.encoder else None, "inputs": len(items)}
    if job.registration:
        facts["registration"] = ":".join(job.registration[:2])
    return facts
