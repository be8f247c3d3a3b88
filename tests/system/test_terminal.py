"""`stitchwork serve` on a terminal."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import BOUND, without_settings

INTERRUPT = b"\x03"


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A service with a pseudo-terminal as its controlling terminal, and our end of it."""
    ours, theirs = pty.openpty()
    words = ["serve", "--port", "0", "--workers", "0", "--data-dir", str(tmp_path)]
    # setsid's --ctty makes the standard input the controlling terminal, which Ctrl-C needs.
    with subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-P", "-m", "stitchwork", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=without_settings(TERM="xterm", COLUMNS="120"),
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def test_serve_draws_progress_prints_its_address_and_ends_on_ctrl_c(
    terminal: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, descriptor = terminal
    text = ""
    while "/guide/" not in text:
        text += os.read(descriptor, 65_536).decode()
    assert "waiting for the API" in text
    (address,) = re.findall(r"^.*stitchwork listens on .*$", text, re.M)
    assert re.search(
        r"listens on (http://127\.0\.0\.1:\d+), a page at \1/, documentation at \1/guide/\s*$",
        address,
    )
    os.write(descriptor, INTERRUPT)
    assert process.wait(BOUND) == 0
