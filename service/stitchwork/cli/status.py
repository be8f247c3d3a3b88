"""`stitchwork status`: the live workers and the queues."""

import click

from stitchwork.cli.output import as_json, table
from stitchwork.cli.servers import connect
from stitchwork.cli.settings_options import SERVER_SETTINGS, SettingsCommand
from stitchwork.queue import streams, worker_registry
from stitchwork.queue.shards import read_shards
from stitchwork.settings import Settings


@click.command(cls=SettingsCommand, settings=SERVER_SETTINGS | {"worker_ttl_seconds"})
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def status(settings: Settings, json_: bool) -> int:
    """Show the live workers and what waits in the queues; the exit code is 1 without a worker."""
    _, shards = connect(settings)
    workers = worker_registry.live_workers(shards, settings.worker_ttl_seconds)
    backlogs, unavailable = read_shards(shards, streams.stream_backlogs)
    queues = streams.merge_backlogs(backlogs)
    if json_:
        report = {
            "workers": [worker.model_dump(mode="json") for worker in workers],
            "queues": {name: backlog._asdict() for name, backlog in queues.items()},
            "unavailable_shards": unavailable,
        }
        click.echo(as_json(report))
    else:
        click.echo(_worker_table(workers))
        click.echo()
        click.echo(_queue_table(queues))
        for shard in unavailable:
            click.echo(f"Shard {shard} of the queue does not answer, and is left out.", err=True)
    return 0 if workers else 1


def _worker_table(workers: list[worker_registry.WorkerStatus]) -> str:
    columns = ("worker", "device", "dtypes", "serves", "loaded", "MB", "refused")
    rows = [
        (
            worker.worker,
            worker.device,
            list(worker.dtypes),
            list(worker.serves),
            len(worker.loaded),
            f"{worker.model_bytes / 1e6:.0f}",
            list(worker.refused) or "none",
        )
        for worker in workers
    ]
    return table(columns, rows, title="Live workers")


def _queue_table(queues: dict[str, streams.StreamBacklog]) -> str:
    columns = ("encoder", "model", "dtype", "waiting", "running", "first waits")
    rows = [
        (
            name,
            backlog.model or "registration",
            backlog.dtype if backlog.model else "",
            backlog.jobs - backlog.running,
            backlog.running,
            "" if backlog.waited_ms is None else f"{backlog.waited_ms / 1000:.1f} s",
        )
        for name, backlog in queues.items()
    ]
    return table(columns, rows, title="Queues")
