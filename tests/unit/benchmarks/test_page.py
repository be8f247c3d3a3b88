"""Results of benchmarks in a page of the documentation."""

from pathlib import Path

import pytest

from benchmarks.measure import BenchmarkResult
from benchmarks.page import BEGIN, END, write_results
from stitchwork.errors import InvalidInputError
from tests.support.previous_release import REPOSITORY

RATE = BenchmarkResult("rate", "other", "req/s", [90.0, 110.0, 100.0], [50.0] * 3, 2.5, True)
DIFFERENCE = BenchmarkResult(
    *("one text", "the pass", "ms", [3.0, 5.0], [2.0, 2.0], 2.5, False), is_difference=True
)
ALONE = BenchmarkResult(
    "null", "a|b", "ms", [1.25], [], 2.0, False, cpu_ms={"API": 0.25, "worker": 0.5, "servers": 1.0}
)


def test_results_replace_those_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    for _ in range(2):
        write_results(page, [RATE, DIFFERENCE, ALONE], 3, "python -m benchmarks")
    text = page.read_text()
    assert text.startswith(f"before\n\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\n\nafter\n")
    assert "old" not in text
    lines = text.splitlines()
    assert "| rate | other | 100 req/s | 50 req/s | 2.000 | 1.8 to 2.2 | ≥ 2.5 ✗ |" in lines
    assert "| one text | the pass | 4 ms | 2 ms | +2.00 ms | 1 to 3 | ≤ 2.5 ms |" in lines
    assert "| null | a\\|b | 1.25 ms |  |  |  | ≤ 2 ms |" in lines
    assert "| null | 0.250 | 0.500 | 1.000 |" in lines
    assert "Not measured" not in text


def test_page_names_what_was_not_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    write_results(page, [RATE], 3, "python -m benchmarks", ["ray (failed)", "map (not run)"])
    assert "Not measured: ray (failed), map (not run)." in page.read_text().splitlines()
    write_results(page, [RATE], 3, "python -m benchmarks")
    assert "Not measured" not in page.read_text()


def test_page_without_a_place_for_results_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("words\n")
    with pytest.raises(InvalidInputError, match="begin results"):
        write_results(page, [RATE], 3, "python -m benchmarks")
    assert page.read_text() == "words\n"


def test_documentation_has_a_place_for_results() -> None:
    text = (REPOSITORY / "docs/benchmarks.md").read_text()
    assert text.index(BEGIN) < text.index(END)
