"""The results of the benchmarks as a part of `docs/benchmarks.md`."""

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.measure import PARTS, BenchmarkResult
from stitchwork import __version__
from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.markdown import table

BEGIN: Final = "<!-- begin results -->"
END: Final = "<!-- end results -->"


def write_results(
    page: Path,
    results: Sequence[BenchmarkResult],
    rounds: int,
    command: str,
    not_measured: Sequence[str] = (),
) -> None:
    """Replace what is between `BEGIN` and `END` in a page.

    Args:
        page: A Markdown file that contains both lines.
        results: The results of one run.
        rounds: Its number of rounds.
        command: The command that ran it.
        not_measured: What the page says was not measured.

    Raises:
        InvalidInputError: If a line is missing.
    """
    before, after = split_page(page)
    section = _section(results, rounds, command, not_measured)
    page.write_text(f"{before}{BEGIN}\n\n{section}\n\n{END}{after}")


def split_page(page: Path) -> tuple[str, str]:
    """The texts before `BEGIN` and after `END` in a page.

    Raises:
        InvalidInputError: If a line is missing.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InvalidInputError(f"expected the lines {BEGIN} and {END} in {page}")
    return before, after


def _section(
    results: Sequence[BenchmarkResult], rounds: int, command: str, not_measured: Sequence[str]
) -> str:
    first = (
        f"Written by `{command}` on {time.strftime('%Y-%m-%d')}: version {__version__}, "
        f"{platform.system()} {platform.machine()} with {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, medians of {rounds} rounds. The range is that of single "
        "rounds; a goal that is missed is marked ✗."
    )
    header = ["case", "baseline", "ours", "baseline's", "ratio", "range", "goal"]
    parts = [first, table(header, [_row(result) for result in results])]
    if not_measured:
        parts.insert(1, f"Not measured: {', '.join(not_measured)}.")
    costly = [result for result in results if result.cpu_ms]
    if costly:
        rows = [
            [result.case, *(f"{result.cpu_ms[part]:.3f}" for part in PARTS)] for result in costly
        ]
        parts += ["CPU milliseconds per request:", table(["case", *PARTS], rows)]
    return "\n\n".join(parts)


def _row(result: BenchmarkResult) -> list[str]:
    sides = [
        f"{statistics.median(side):.4g} {result.unit}" if side else ""
        for side in (result.ours, result.partner)
    ]
    if not result.partner:
        figure, values, unit = "", result.ours, f" {result.unit}"
    elif result.is_difference:
        values = [a - b for a, b in zip(result.ours, result.partner, strict=True)]
        figure, unit = f"{result.figure:+.2f} {result.unit}", f" {result.unit}"
    else:
        values = [a / b for a, b in zip(result.ours, result.partner, strict=True)]
        figure, unit = f"{result.figure:.3f}", ""
    spread = f"{min(values):.4g} to {max(values):.4g}" if len(values) > 1 else ""
    goal = f"{'≥' if result.higher_is_better else '≤'} {result.goal:g}{unit}"
    return [
        result.case,
        result.baseline,
        *sides,
        figure,
        spread,
        goal if result.met else f"{goal} ✗",
    ]
