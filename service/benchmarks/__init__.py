"""`python -m benchmarks`: the service against what limits it, timed in turns within one run."""

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks import costs, queueing, stitching, translating
from benchmarks.measure import OURS, THEIRS, Result, Round
from stitchwork.errors import StitchworkError
from stitchwork.evaluation.peers import LATENTIS, SERVERS, peer_environment

CASES: Final[Mapping[str, Callable[[Round], list[Result]]]] = {
    "map": translating.in_process,
    "translate": translating.over_http,
    "health": translating.health,
    "spaces": translating.spaces,
    "images": stitching.images,
    "texts": stitching.texts,
    "one": stitching.one_text,
    "serving": stitching.beside_servers,
    "queue": queueing.queue,
    "fit": costs.fitting,
    "compile": costs.compiling,
    "start": costs.starting,
}


def run(
    cases: Sequence[str],
    rounds: int,
    report: Path | None,
    peers: Path | None,
    laws: Path | None,
) -> int:
    """Run cases, print their table, and write the report.

    Args:
        cases: Names out of `CASES`.
        rounds: That count; one more warms up.
        report: Where the figures go as JSON.
        peers: Folder of the environments of other programs; made there if they are not.
        laws: Folder that scaling laws are drawn into, instead of any case; None draws none.

    Returns:
        0 if every case was run and every goal is met.
    """
    console = Console()
    found = {name: peer_environment(name, peers) for name in (*SERVERS, LATENTIS)} if peers else {}
    ask = Round(rounds, found, console.print)
    os.sched_setaffinity(0, {OURS})
    if laws:
        # Takes long to import, and only plots need it.
        from benchmarks.laws import scaling

        scaling(ask, laws)
        return 0
    results: list[Result] = []
    failed = False
    for case in cases:
        console.print(f"{case} …")
        try:
            results += CASES[case](ask)
        except StitchworkError as error:
            # What the others took long to measure is told all the same.
            console.print(f"  {case} failed: {error.message}", style="bold red")
            failed = True
    table = Table(title=f"{rounds} rounds in turns; what is measured has core {THEIRS} for itself")
    for name in ("case", "against", "ours", "partner", "ratio", "goal"):
        table.add_column(name, justify="right" if name not in ("case", "against") else "left")
    for result in results:
        table.add_row(*_cells(result), style=None if result.met else "bold red")
    console.print(table)
    for result in results:
        console.print(f"{result.case}: {json.dumps(result.facts)}", highlight=False, soft_wrap=True)
    if report:
        told = [asdict(one) | {"figure": one.figure, "met": one.met} for one in results]
        report.write_text(json.dumps(told, indent=2) + "\n")
    return 1 if failed or not all(result.met for result in results) else 0


def _cells(result: Result) -> list[str]:
    sides = [
        f"{statistics.median(side):.4g} {result.unit}" if side else ""
        for side in (result.ours, result.partner)
    ]
    goal = f"{'≥' if result.more else '≤'} {result.goal:g}"
    if result.difference or not result.partner:
        goal += f" {result.unit}"
    figure = f"{result.figure:+.2f}" if result.difference else f"{result.figure:.3f}"
    return [result.case, result.what, *sides, figure if result.partner else "", goal]
