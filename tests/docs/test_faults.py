"""The page of faults names tests that exist, one at least for each fault, and every drill."""

import ast
import re
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.code_blocks import ROOT

PAGE: Final = ROOT / "docs" / "operations" / "faults.md"
LINK: Final = re.compile(r"\[([^]]+)]\(([^)]+\.py)\)")


class Reference(NamedTuple):
    """A test that the page names."""

    path: Path
    name: str


def rows() -> list[str]:
    """The rows of the page's tables, without their headers."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    headers = ("| Fault |", "| Input |")
    return [line for line in lines if not line.startswith(headers)]


def references(text: str) -> list[Reference]:
    """The tests that a text links to: `test_` and the words of the link."""
    return [
        Reference((PAGE.parent / target).resolve(), "test_" + words.replace(" ", "_"))
        for words, target in LINK.findall(text)
    ]


def functions(path: Path) -> set[str]:
    """The test functions of a file."""
    tree = ast.parse(path.read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_fault_names_tests_that_exist(row: str) -> None:
    named = references(row)
    assert named, "no test"
    missing = [reference for reference in named if reference.name not in functions(reference.path)]
    assert not missing


def test_every_drill_is_on_the_page() -> None:
    chaos = ROOT / "tests" / "chaos"
    drills = {Reference(path, name) for path in chaos.glob("test_*.py") for name in functions(path)}
    assert drills - set(references(PAGE.read_text())) == set()
