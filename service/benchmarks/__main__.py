"""`python -m benchmarks`: the service and its baselines, timed in turns within one run."""

import logging
import sys
from pathlib import Path

import click

from benchmarks.runner import CASES, run
from stitchwork.cli.main import run as run_command


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(tuple(CASES)), metavar="[CASE]...")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds.")
@click.option("--report", type=click.Path(path_type=Path), help="JSON file for the results.")
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
    cases: tuple[str, ...], rounds: int, report: Path | None, peers: Path | None, laws: Path | None
) -> int:
    """Time the service and its baselines. Without CASE, all cases."""
    logging.getLogger().setLevel(logging.WARNING)
    return run(cases or tuple(CASES), rounds, report, peers, laws)


if __name__ == "__main__":
    sys.exit(run_command(main, "python -m benchmarks"))
