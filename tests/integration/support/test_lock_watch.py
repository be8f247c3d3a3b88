"""The watch of the interpreter's lock reports calls that hold it, and no others."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lock_watch import LockWatch

HOLDS = "sum(range(20_000_000)); time.sleep(0.05)"
RELEASES = """
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
"""


@pytest.mark.parametrize(("code", "is_long"), [(HOLDS, True), (RELEASES, False)])
def test_watch_reports_the_time_for_which_one_call_holds_the_lock(
    tmp_path: Path, code: str, is_long: bool
) -> None:
    watch = LockWatch(tmp_path / "lock", f"time.sleep(0.05)\n{code}")
    with watch.record() as holds:
        subprocess.run([sys.executable, "-c", watch.code], check=True)
    assert (max(holds, default=0.0) > 0.1) == is_long, holds
