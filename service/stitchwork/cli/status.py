"""`stitchwork status` and `stitchwork dead`: what whoever looks after the service asks."""

import asyncio
import json
import socket
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from stitchwork.errors import CorruptDataError
from stitchwork.queue import dead_letters, streams, worker_registry
from stitchwork.queue.dead_letters import DeadLetter
from stitchwork.queue.messages import Job
from stitchwork.queue.producer import Producer
from stitchwork.redis.client import RedisClient
from stitchwork.registry.registry import Registry

SHOWN_CHARACTERS: Final = 200


def status(server: RedisClient, ttl: float, *, here: bool, as_json: bool) -> int:
    """Show the live workers and what waits.

    Args:
        server: The queue server.
        ttl: Seconds of silence after which a worker counts as gone.
        here: Only ask whether a worker of this host is alive, as a health check does.
        as_json: Print JSON.

    Returns:
        0 if there is a live worker, else 1.
    """
    workers = worker_registry.live_workers(server, ttl)
    if here:
        workers = [w for w in workers if w.worker.startswith(f"{socket.gethostname()}-")]
    waiting = {} if here else streams.stream_backlogs(server)
    if as_json:
        told = {
            "workers": [worker.model_dump(mode="json") for worker in workers],
            "queues": {name: backlog._asdict() for name, backlog in waiting.items()},
        }
        print(json.dumps(told, indent=2))  # noqa: T201
    else:
        _show_status(workers, waiting)
    return 0 if workers else 1


def _show_status(
    workers: list[worker_registry.WorkerStatus], waiting: dict[str, streams.StreamBacklog]
) -> None:
    console = Console()
    table = Table("worker", "device", "serves", "loaded", "MB", "refused", title="Live workers")
    for worker in workers:
        table.add_row(
            worker.worker,
            worker.device,
            ", ".join(worker.serves),
            str(len(worker.loaded)),
            f"{worker.model_bytes / 1e6:.0f}",
            ", ".join(worker.refused) or "none",
        )
    console.print(table)
    table = Table("encoder", "model", "waiting", "running", "first waits", title="Queues")
    for name, backlog in waiting.items():
        waited = "" if backlog.waited_ms is None else f"{backlog.waited_ms / 1000:.1f} s"
        held = str(backlog.held - backlog.running)
        table.add_row(name, backlog.model or "upkeep", held, str(backlog.running), waited)
    console.print(table)


def dead_list(server: RedisClient, *, as_json: bool) -> int:
    """Show the jobs that were given up, the newest first."""
    found = dead_letters.list_all(server)
    if as_json:
        print(json.dumps([_facts(server, letter) for letter in found], indent=2))  # noqa: T201
        return 0
    table = Table("letter", "when", "model", "reason", "inputs", "kB", title="Dead letters")
    for letter in found:
        facts = _facts(server, letter)
        table.add_row(
            letter.id,
            facts["when"],
            facts.get("model") or "",
            letter.reason,
            str(facts.get("inputs", "?")),
            f"{letter.size / 1000:.1f}",
        )
    Console().print(table)
    return 0


def dead_show(server: RedisClient, letter: str, *, inputs: bool) -> int:
    """Show one job that was given up; its inputs, which are users' own, only where asked for."""
    job, items = dead_letters.read(server, letter)
    told: dict[str, Any] = {"job": job.model_dump(mode="json", exclude_none=True)}
    told["inputs"] = [
        {"bytes": len(item)} | ({"begins": repr(item[:SHOWN_CHARACTERS])} if inputs else {})
        for item in items
    ]
    print(json.dumps(told, indent=2))  # noqa: T201
    return 0


def dead_requeue(server: RedisClient, registry: Registry, letter: str, seconds: float) -> int:
    """Have a job done after all, wait for it, and drop its letter if it succeeds.

    Raises:
        UnknownResourceError: If there is no such letter.
        StitchworkError: If it fails again; the letter stays.
    """
    job, items = dead_letters.read(server, letter)
    if job.registration:
        streams.enqueue_registration(server, registry.retry_registration(*job.registration))
        told = "its preparation goes on; see its record"
    else:
        told = asyncio.run(_again(server, job, items, seconds))
    dead_letters.delete(server, letter)
    print(f"{letter}: {told}")  # noqa: T201
    return 0


def dead_drop(server: RedisClient, letter: str) -> int:
    """Forget one letter."""
    dead_letters.delete(server, letter)
    print(f"{letter}: dropped")  # noqa: T201
    return 0


async def _again(server: RedisClient, job: Job, items: list[Any], seconds: float) -> str:
    most = 1 << 30
    dispatcher = Producer(
        server, max_jobs=most, max_bytes=most, max_wait_seconds=seconds, worker_ttl_seconds=seconds
    )
    dispatcher.start()
    try:
        reply = await dispatcher.run(job, items, seconds)
    finally:
        await asyncio.to_thread(dispatcher.stop)
    rows = 0 if reply.rows is None else len(reply.rows)
    return f"answered with {rows} rows; its caller was told long ago, so nobody gets them"


def _facts(server: RedisClient, letter: DeadLetter) -> dict[str, Any]:
    milliseconds = int(letter.id.split("-")[0])
    when = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
    facts: dict[str, Any] = {"letter": letter.id, "when": when, "reason": letter.reason}
    facts["bytes"] = letter.size
    try:
        job, items = dead_letters.read(server, letter.id)
    except CorruptDataError:
        return facts
    facts |= {"model": job.encoder.model if job.encoder else None, "inputs": len(items)}
    if job.registration:
        facts["draft"] = ":".join(job.registration[:2])
    return facts
