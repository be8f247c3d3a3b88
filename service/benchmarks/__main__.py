"""`python -m benchmarks`: the service and its baselines, timed in turns within one run."""

import logging
import sys
from pathlib import Path

import click

from benchmarks.page import write_results
from benchmarks.runner import CASES, measure, measure_laws, write_report
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
    results, complete = measure(cases or tuple(CASES), rounds, peers)
    if report:
        write_report(report, results)
    if page:
        options = [f"--rounds {rounds}", *(["--peers FOLDER"] if peers else [])]
        words = ["python -m benchmarks", *cases, *options]
        write_results(page, results, rounds, " ".join(words))
    return 0 if complete and all(result.met for result in results) else 1


if __name__ == "__main__":
    sys.exit(run_command(main, "python -m benchmarks"))
