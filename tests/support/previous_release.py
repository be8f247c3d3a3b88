"""The oldest code of the history with the present format of messages, and processes that run it."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from stitchwork.queue.messages import FORMAT

REPOSITORY: Final = Path(__file__).parents[2]
MESSAGES: Final = "service/stitchwork/queue/messages.py"


def unpack_previous_release(folder: Path) -> tuple[str, dict[str, str]]:
    """Unpack it into a folder; skips the test where there is no history.

    Args:
        folder: An empty folder.

    Returns:
        The commit, and the environment in which `python -m stitchwork` runs it.
    """
    change = _git("log", "--format=%H", f"-SFORMAT: Final = {FORMAT}", "--", MESSAGES)
    if not change:
        pytest.skip("there is no git history to take the earlier code from")
    commit = change.split()[-1]
    archive = subprocess.run(
        ["git", "archive", commit, "service"], cwd=REPOSITORY, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    env = {"PYTHONPATH": str(folder / "service")}
    words = (sys.executable, "-P", "-c", "import stitchwork; print(stitchwork.__file__)")
    located = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
    assert located.startswith(str(folder)), located
    return commit[:7], env


def _git(*words: str) -> str:
    run = subprocess.run(
        ["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return run.stdout if run.returncode == 0 else ""
