"""`python -m benchmarks`: the service and its baselines, timed in turns within one run."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.measure import BenchmarkResult
from benchmarks.page import split_page, write_results
from benchmarks.runner import CASES, measure, measure_laws, not_run, write_report
from stitchwork.cli.main import run as run_command


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(tuple(CASES)), metavar="[CASE]...")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds.")
@click.option("--report", type=click.Path(path_type=Path), help="JSON file for the results.")
@click.option(
    "--page",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Page of the documentation whose results are replaced.",
)
@click.option(
    "--peers",
    type=click.Path(path_type=Path),
    help="Folder of the environments of other programs; created there if needed.",
)
@click.option(
    "--laws",
    type=click.Path(path_type=Path),
    help="Folder for plots over rows, widths, anchors, spaces, clients and workers, which replace "
    "the cases.",
)
def main(
    cases: tuple[str, ...],
    rounds: int,
    report: Path | None,
    page: Path | None,
    peers: Path | None,
    laws: Path | None,
) -> int:
    """Time the service and its baselines. Without CASE, all cases."""
    logging.getLogger().setLevel(logging.WARNING)
    if laws:
        return measure_laws(rounds, laws)
    if page:
        # Before what takes an hour.
        split_page(page)
    options = [f"--rounds {rounds}", *(["--peers FOLDER"] if peers else [])]
    chosen = {name: CASES[name] for name in cases or CASES}
    others = not_run(name for name in CASES if name not in chosen)
    command = " ".join(["python -m benchmarks", *cases, *options])

    def save(results: Sequence[BenchmarkResult], not_measured: Sequence[str]) -> None:
        if report:
            write_report(report, results)
        if page:
            write_results(page, results, rounds, command, [*not_measured, *others])

    return 0 if measure(chosen, rounds, peers, save) else 1


if __name__ == "__main__":
    sys.exit(run_command(main, "python -m benchmarks"))
