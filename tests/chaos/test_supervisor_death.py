"""The launcher of `stitchwork serve` is killed, with a real worker and API under it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stitchwork.client import Stitchwork
from tests.conftest import Pair
from tests.support.processes import await_gone, family_of, read_until, without_settings

pytestmark = [pytest.mark.drills, pytest.mark.models]

REQUEST_SECONDS = 5.0
SHUTDOWN_SECONDS = REQUEST_SECONDS + 10.0 + 15.0
"""The time in which API and workers finish their requests, and some for a busy machine."""


@contextmanager
def serving(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`stitchwork serve` as users start it, and its URL."""
    env = without_settings(
        STITCHWORK_PORT="0",
        STITCHWORK_DATA_DIR=str(data_dir),
        STITCHWORK_REQUEST_TIMEOUT_SECONDS=str(REQUEST_SECONDS),
        STITCHWORK_LOG_LEVEL="error",
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "stitchwork", "serve"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process, read_until(process.stdout, "http://").split()[-1]
        finally:
            process.kill()


def test_killed_launcher_leaves_no_process_and_the_next_start_serves_the_same(
    tmp_path: Path, pair: Pair
) -> None:
    """No child outlives the launcher by more than the shutdown time."""
    with serving(tmp_path) as (first, url), Stitchwork(url) as client:
        client.put_space("x", "S", anchors=pair.x_anchors)
        client.put_space("y", "S", anchors=pair.y_anchors)
        before = {record["id"]: record["version"] for record in client.records("spaces")}
        rows = client.translate(pair.x, "x", "y")
        family = family_of(first)
        # The API compares new spaces in a process of its own, which may have ended already.
        assert len(family) in (5, 6), "a supervisor, two servers, a worker and an API"
        first.kill()
        await_gone(family, SHUTDOWN_SECONDS)
    with serving(tmp_path) as (second, url), Stitchwork(url) as client:
        assert {record["id"]: record["version"] for record in client.records("spaces")} == before
        assert (client.translate(pair.x, "x", "y") == rows).all()
        second.send_signal(signal.SIGTERM)
        assert second.wait(SHUTDOWN_SECONDS) == 0
