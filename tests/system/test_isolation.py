"""`stitchwork serve` in a folder whose modules have the names of installed ones."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.conftest import Pair
from tests.support.processes import read_until, without_settings

SECONDS: Final = 120.0
SCRIPT: Final = Path(sys.executable).parent / "stitchwork"
NAMES: Final = ("service/__init__.py", "stitchwork/__init__.py", "redis.py", "queue.py")
MODULE: Final = """
from pathlib import Path
Path(__file__).with_suffix(".imported").touch()
raise ImportError("a module of the working directory was imported")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with modules that record their import and fail."""
    for name in NAMES:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(MODULE)
    return tmp_path


@pytest.fixture
def serve(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The service, started in the folder by its console script."""
    with subprocess.Popen(
        [SCRIPT, "serve", "--port", "0", "--offline"],
        cwd=folder,
        env=without_settings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_serve_in_a_hostile_folder_imports_nothing_of_it(
    serve: subprocess.Popen[str], folder: Path, pair: Pair
) -> None:
    url = read_until(serve.stdout, "stitchwork listens on http://").split()[-1]
    with httpx.Client(base_url=url, timeout=SECONDS) as client:
        assert client.get("/health/ready").status_code == 200
        for name, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors)):
            body = {"anchor_set": "S", "anchors": anchors.tolist()}
            assert client.put(f"/spaces/{name}", json=body).status_code == 201
        body = {"source": "x", "target": "y", "embeddings": pair.x[:2].tolist()}
        assert len(client.post("/translate", json=body).json()["embeddings"]) == 2
    serve.send_signal(signal.SIGINT)
    output, errors = serve.communicate(timeout=SECONDS)
    assert (serve.returncode, output) == (0, "")
    assert list(folder.rglob("*.imported")) == []
    assert "Traceback" not in errors
    # Its own readiness polls are not in the log.
    assert "/translate" in errors
    assert "/health" not in errors
