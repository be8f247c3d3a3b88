"""Running benchmark cases: the table, the report, and the exit status."""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks import costs, moving, null_model, queueing, serving, stitching, translating
from benchmarks.measure import (
    LOAD_CORE,
    MEASURED_CORE,
    PARTS,
    BenchmarkContext,
    BenchmarkResult,
)
from stitchwork.evaluation.peers import LATENTIS, SERVERS, peer_environment

Case = Callable[[BenchmarkContext], list[BenchmarkResult]]

CASES: Final[Mapping[str, Case]] = {
    "null": null_model.null_model,
    "map": translating.in_process,
    "translate": translating.over_http,
    "health": translating.health,
    "spaces": translating.spaces,
    "images": stitching.images,
    "texts": stitching.texts,
    "one": stitching.one_text,
    "serving": serving.other_servers,
    "queue": queueing.queue,
    "migrate": moving.moves,
    "fit": costs.fitting,
    "compile": costs.compiling,
    "start": costs.starting,
}


Save = Callable[[Sequence[BenchmarkResult], Sequence[str]], None]


def measure(cases: Mapping[str, Case], rounds: int, peers: Path | None, save: Save) -> bool:
    """Run cases and print their table.

    Args:
        cases: The cases, by name.
        rounds: Number of measured rounds; one more warms up.
        peers: Folder of the environments of other programs, created there if necessary; None skips
            other programs.
        save: Called after each case with the results so far, and with what was not measured.

    Returns:
        Whether everything was measured and meets its goal.
    """
    console = Console()
    interpreters = {}
    if peers:
        interpreters = {name: peer_environment(name, peers) for name in (*SERVERS, LATENTIS)}
    context = BenchmarkContext(rounds, interpreters, partial(console.print, markup=False))
    os.sched_setaffinity(0, {LOAD_CORE})
    results: list[BenchmarkResult] = []
    names = list(cases)
    for i, case in enumerate(names):
        console.print(f"{case} …")
        start = time.monotonic()
        with context.attempt(case):
            results += cases[case](context)
        console.print(f"  {case}: {time.monotonic() - start:.0f} s")
        save(results, [*dict.fromkeys(context.not_measured), *not_run(names[i + 1 :])])
    _print_table(console, results, rounds)
    return not context.not_measured and all(result.met for result in results)


def not_run(cases: Iterable[str]) -> list[str]:
    """Cases that were not run, as a page names them."""
    return [f"{case} (not run)" for case in cases]


def measure_laws(rounds: int, folder: Path) -> int:
    """Measure the scaling laws and draw their plots in a folder.

    Returns:
        The exit status, 0.
    """
    # Imported here because matplotlib is slow to import.
    from benchmarks import laws

    os.sched_setaffinity(0, {LOAD_CORE})
    laws.measure_laws(BenchmarkContext(rounds, {}, Console().print), folder)
    return 0


def write_report(path: Path, results: Sequence[BenchmarkResult]) -> None:
    """Write the results as JSON."""
    records = [asdict(result) | {"figure": result.figure, "met": result.met} for result in results]
    path.write_text(json.dumps(records, indent=2) + "\n")


def _print_table(console: Console, results: Sequence[BenchmarkResult], rounds: int) -> None:
    table = Table(
        title=f"{rounds} rounds in turns; the measured process has core {MEASURED_CORE} to itself"
    )
    for name in ("case", "baseline", "ours", "partner", "ratio", "goal"):
        table.add_column(name, justify="right" if name not in ("case", "baseline") else "left")
    for part in PARTS:
        table.add_column(f"{part}, CPU ms", justify="right")
    for result in results:
        table.add_row(*_cells(result), style=None if result.met else "bold red")
    console.print(table)
    for result in results:
        console.print(
            f"{result.case}: {json.dumps(result.details)}", highlight=False, soft_wrap=True
        )


def _cells(result: BenchmarkResult) -> list[str]:
    sides = [
        f"{statistics.median(side):.4g} {result.unit}" if side else ""
        for side in (result.ours, result.partner)
    ]
    goal = f"{'≥' if result.higher_is_better else '≤'} {result.goal:g}"
    if result.is_difference or not result.partner:
        goal += f" {result.unit}"
    figure = f"{result.figure:+.2f}" if result.is_difference else f"{result.figure:.3f}"
    costs = [f"{result.cpu_ms[part]:.3f}" if result.cpu_ms else "" for part in PARTS]
    return [result.case, result.baseline, *sides, figure if result.partner else "", goal, *costs]
