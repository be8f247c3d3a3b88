"""Kills processes under mixed load, and counts the outcome of each request.

Run by `python -m tests.chaos.drill`.
"""

import asyncio
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks.cores import pinned_to, pinned_worker_command
from benchmarks.load import http_client
from stitchwork.client import Stitchwork
from stitchwork.supervisor import Plan, ServiceProcess, start
from tests.support.expected_results import ExpectedResults, expected_results
from tests.support.load import LoadGenerator, LoadRequest, LoadResult

MIX: Final = {"stitch": 0.5, "embed": 0.3, "translate": 0.1, "classify": 0.1}
BY_WORKERS: Final = ("stitch", "embed")
SHARES: Final = {"at peak": 0.2, "overloaded": 0.2, "afterwards": 0.1, "under kills": 0.5}
"""The phases' shares of the time. Kills come last: workers load their models again afterwards."""
DEADLINE: Final = 20.0
MIN_GOODPUT: Final = 0.8
NEVER: Final = ("lost", "doubled", "swapped", "wrong")
COLUMNS: Final = ("right", "refused", "late", *NEVER)


@dataclass(frozen=True)
class Drill:
    """The parameters of a drill.

    Attributes:
        seconds: How long load is applied, in all phases together.
        apis: API processes.
        workers: Workers.
        clients: Clients that send one request after another.
        kill_seconds: Seconds from one kill to the next.
        overload: The load while overloaded, in units of the peak.
        seed: The seed of data, requests and victims.
        report: A JSON file for the figures; None writes none.
    """

    seconds: float = 120.0
    apis: int = 3
    workers: int = 3
    clients: int = 24
    kill_seconds: float = 5.0
    overload: float = 10.0
    seed: int = 0
    report: Path | None = None


@dataclass(slots=True)
class Outcome:
    """The result of a drill.

    Attributes:
        results: Outcomes by phase.
        kills: Names of the processes that were killed.
    """

    results: dict[str, LoadResult] = field(default_factory=dict)
    kills: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Goodput of the workers under overload, in units of their peak.

        Verbs without a worker do not count: the API is never at its limit.
        """
        rates = [self.results[name].goodput(BY_WORKERS) for name in ("overloaded", "at peak")]
        return rates[0] / rates[1]

    @property
    def failures(self) -> list[str]:
        """Outcomes that must not occur, as sentences."""
        counts = {name: sum(t.outcomes[name] for t in self.results.values()) for name in NEVER}
        unknown = {name for t in self.results.values() for name in t.outcomes} - set(COLUMNS)
        failures = [f"{count} {name}" for name, count in counts.items() if count]
        failures += sorted(unknown)
        if self.ratio < MIN_GOODPUT:
            failures.append(f"goodput under overload is {self.ratio:.2f} of its peak")
        return failures


def run(drill: Drill) -> int:
    """Start a service, run the drill on it, print the table, and write the report.

    Returns:
        0 if every request got one response, the right one or a refusal, and goodput stayed high.
    """
    console = Console()
    with tempfile.TemporaryDirectory(prefix="stitchwork-drill-") as name:
        folder = Path(name)
        console.print("Computing the right answers in this process …")
        expected = expected_results(folder, drill.seed)
        rest, own = _halves()
        plan = Plan(
            port=0,
            data_dir=folder / "data",
            apis=drill.apis,
            workers=drill.workers,
            env={
                "STITCHWORK_MODEL_ROOTS": name,
                "STITCHWORK_LOG_LEVEL": "error",
                "STITCHWORK_OFFLINE": "true",
                "STITCHWORK_BLAS_THREADS": "1",
                "STITCHWORK_LEASE_SECONDS": "3",
                "STITCHWORK_WORKER_TTL_SECONDS": "5",
                "STITCHWORK_MAX_QUEUE_WAIT_SECONDS": "5",
            },
        )
        if own:
            # Load, checks and APIs run on the other cores, so that workers are measured alone.
            plan = replace(plan, worker_command=pinned_worker_command(own))
        with pinned_to(rest), start(plan) as running:
            with Stitchwork(running.url) as registering:
                expected.register(registering)
            console.print(
                f"{drill.apis} API processes and {drill.workers} workers serve at {running.url}"
                + (f"; the workers have {len(own)} of {len(rest + own)} cores." if own else ".")
            )
            outcome = asyncio.run(_phases(drill, running, expected, console))
    _show(console, drill, outcome)
    if drill.report:
        drill.report.write_text(json.dumps(_figures(drill, outcome), indent=2) + "\n")
    for failure in outcome.failures:
        console.print(f"FAILED: {failure}", style="bold red")
    return 1 if outcome.failures else 0


def _halves() -> tuple[list[int], list[int]]:
    """The cores of this machine in two halves; both empty where they cannot be chosen."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    half = len(cores) // 2
    return (cores[:half], cores[half:]) if half else ([], [])


async def _phases(
    drill: Drill, running: ServiceProcess, expected: ExpectedResults, console: Console
) -> Outcome:
    outcome = Outcome()
    rng = random.Random(drill.seed)  # noqa: S311 reproducible, not secret
    pick = _picker(expected, rng)
    async with http_client(running.url, DEADLINE) as http:
        load = LoadGenerator(http, DEADLINE)
        # Every worker loads every encoder, and every API its maps, before the measurement.
        await load.closed(pick, drill.clients, max(5.0, drill.seconds / 20))
        for name, share in SHARES.items():
            seconds = drill.seconds * share
            console.print(f"{name}: {seconds:.0f} s")
            killer = None
            if name == "under kills":
                killer = asyncio.create_task(_kill(drill, running, load, rng, outcome))
            if name == "overloaded":
                rate = drill.overload * outcome.results["at peak"].goodput()
                result = await load.open(pick, rate, seconds)
            else:
                result = await load.closed(pick, drill.clients, seconds)
            outcome.results[name] = result
            if killer is not None:
                killer.cancel()
                await _await_restart(running, drill)
    return outcome


def _picker(expected: ExpectedResults, rng: random.Random) -> Callable[[], LoadRequest]:
    kinds, weights = zip(*MIX.items(), strict=True)

    def pick() -> LoadRequest:
        (kind,) = rng.choices(kinds, weights)
        return rng.choice(expected.requests[kind])

    return pick


async def _kill(
    drill: Drill, running: ServiceProcess, load: LoadGenerator, rng: random.Random, outcome: Outcome
) -> None:
    """Kill a random worker, then a random API process, and so on."""
    for turn in range(1_000_000):
        await asyncio.sleep(drill.kill_seconds)
        prefix = ("worker", "api")[turn % 2]
        alive = {name: pid for name, pid in running.pids.items() if name.startswith(prefix)}
        if not alive:
            continue
        name = rng.choice(sorted(alive))
        if prefix == "api":
            load.last_kill = time.monotonic()
        os.kill(alive[name], signal.SIGKILL)
        outcome.kills.append(name)


async def _await_restart(running: ServiceProcess, drill: Drill) -> None:
    """Wait until all processes run again, so that the next phase has all of them."""
    until = time.monotonic() + 60.0
    async with http_client(running.url, 5.0) as http:
        while time.monotonic() < until:
            up = len([name for name in running.pids if name.startswith(("worker", "api"))])
            async with http.get("/health/ready") as answer:
                alive = (await answer.json()).get("workers", 0)
            if up >= drill.apis + drill.workers and alive >= drill.workers:
                return
            await asyncio.sleep(0.2)


def _show(console: Console, drill: Drill, outcome: Outcome) -> None:
    table = Table(
        title=f"{drill.apis} APIs, {drill.workers} workers, {len(outcome.kills)} killed; "
        f"{drill.overload:g} times the peak offered while overloaded; seed {drill.seed}"
    )
    table.add_column("requests")
    for name in outcome.results:
        table.add_column(name, justify="right")
    results = list(outcome.results.values())
    table.add_row("seconds", *(f"{result.end - result.start:.0f}" for result in results))
    table.add_row("sent", *(str(result.sent) for result in results))
    for key in COLUMNS:
        table.add_row(key, *(str(result.outcomes[key]) for result in results))
    table.add_row("sent again after a kill", *(str(result.retries) for result in results))
    table.add_row("right per second", *(f"{result.goodput():.1f}" for result in results))
    workers = [f"{result.goodput(BY_WORKERS):.1f}" for result in results]
    table.add_row("  of these by workers", *workers)
    for q in (50, 99):
        table.add_row(f"p{q} in ms", *(f"{result.percentile(q) * 1000:.0f}" for result in results))
    console.print(table)
    console.print(f"Goodput of the workers under overload is {outcome.ratio:.2f} of its peak.")


def _figures(drill: Drill, outcome: Outcome) -> dict[str, Any]:
    return {
        "apis": drill.apis,
        "workers": drill.workers,
        "overload": drill.overload,
        "seed": drill.seed,
        "killed": outcome.kills,
        "goodput_ratio": outcome.ratio,
        "phases": {
            name: {
                "seconds": result.end - result.start,
                "sent": result.sent,
                "cut": result.retries,
                **{key: result.outcomes[key] for key in COLUMNS},
                "right_per_second": result.goodput(),
                "right_per_second_by_workers": result.goodput(BY_WORKERS),
                "p50_seconds": result.percentile(50),
                "p99_seconds": result.percentile(99),
            }
            for name, result in outcome.results.items()
        },
    }


@click.command()
@click.option("--seconds", default=120.0, show_default=True, help="How long load is on.")
@click.option("--apis", default=3, show_default=True, help="API processes.")
@click.option("--workers", default=3, show_default=True, help="Workers.")
@click.option("--clients", default=24, show_default=True, help="Clients, one request at a time.")
@click.option("--kill-seconds", default=5.0, show_default=True, help="From one kill to the next.")
@click.option("--overload", default=10.0, show_default=True, help="Times the peak on offer.")
@click.option("--seed", default=0, show_default=True, help="Of data, requests and victims.")
@click.option("--report", type=click.Path(path_type=Path), help="JSON file for the figures.")
def main(**options: Any) -> None:
    """Kill processes under load, and count the outcome of each request."""
    logging.getLogger().setLevel(logging.WARNING)
    sys.exit(run(Drill(**options)))


if __name__ == "__main__":
    main()
