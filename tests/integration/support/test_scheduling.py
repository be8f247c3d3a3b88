"""With `pytest -n`, groups run whole, drills run alone at the end, and skips still need a rule."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support import allowed_skips, machine, naming, scheduling

CONFTEST = """
import os, time
import pytest
from tests.support.allowed_skips import Rule, SkipPolicy
from tests.support.scheduling import GroupScheduling

def pytest_configure(config):
    config.pluginmanager.register(SkipPolicy([Rule.parse("tests/a.py::*: no such server")]))

def pytest_xdist_make_scheduler(config, log):
    return GroupScheduling(config, log)

@pytest.fixture(autouse=True)
def entry(request):
    start = time.monotonic()
    yield
    worker = os.environ["PYTEST_XDIST_WORKER"]
    with open(request.config.rootpath / "log", "a") as log:
        print(request.node.nodeid, worker, start, time.monotonic(), file=log)
"""
SHORT = "import time\n\ndef test_a():\n    time.sleep(.05)\n\ndef test_b():\n    time.sleep(.05)\n"
SKIPPED = "import pytest\n\ndef test_c():\n    pytest.skip('no such server')\n"


def run(folder: Path, **files: str) -> tuple[int, str, list[tuple[str, str, float, float]]]:
    """Run a project in two processes: exit code, output, and what ran where and when."""
    (folder / "pytest.ini").write_text(
        "[pytest]\npython_files = *.py\naddopts = --import-mode=importlib\n"
    )
    (folder / "conftest.py").write_text(CONFTEST)
    for name, text in files.items():
        path = folder / "tests" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    paths = (str(naming.ROOT), *sys.path)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    env.pop("PYTEST_ADDOPTS", None)
    # The plugins of this environment take seconds to load.
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "tests"]
    process = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=machine.deadline(120)
    )
    log = folder / "log"
    lines = [line.split(" ") for line in log.read_text().splitlines()] if log.exists() else []
    return process.returncode, process.stdout, [(i, w, float(s), float(e)) for i, w, s, e in lines]


def test_drills_and_measurements_run_when_no_other_test_does(tmp_path: Path) -> None:
    drills = {"chaos__test_drill": SHORT, "system__test_large_bodies": SHORT}
    others = {f"integration__api__{i}": SHORT for i in "ab"} | {f"docs__{i}": SHORT for i in "cde"}
    code, output, log = run(tmp_path, **drills, **others, a=SKIPPED)
    assert code == 0, output
    assert len(log) == 2 * len(drills | others) + 1
    alone = [entry for entry in log if entry[0].startswith(scheduling.ALONE)]
    rest = [entry for entry in log if entry not in alone]
    assert len({worker for _, worker, *_ in alone}) == 1
    assert min(start for *_, start, _ in alone) > max(end for *_, end in rest)
    assert len({worker for name, worker, *_ in rest if "/api/" in name}) == 1
    assert {worker for _, worker, *_ in rest} == {"gw0", "gw1"}


def test_skip_in_a_process_fails_the_run_unless_a_rule_names_it(tmp_path: Path) -> None:
    code, output, log = run(tmp_path, chaos__test_drill=SKIPPED)
    assert code == 1, output
    assert len(log) == 1, "drills without other tests run"
    assert f"{allowed_skips.ALLOWED} does not name" in output
    assert "tests/chaos/test_drill.py::test_c: Skipped: no such server" in output


def test_groups_name_what_exists() -> None:
    for name in (*scheduling.ALONE, *scheduling.GROUPS):
        assert (naming.ROOT / name).exists(), name
