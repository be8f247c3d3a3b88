"""The distribution: the contents of the wheel, and its bare install as a client."""

import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import numpy as np
import pytest

from stitchwork import __version__
from stitchwork.client import Stitchwork
from tests.conftest import Pair
from tests.support.code_blocks import ROOT
from tests.support.processes import without_settings
from tests.support.running_service import running

MAX_PACKAGES: Final = 15
PIP: Final = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
HEAVY: Final = ("fastapi", "pydantic", "redis", "rich", "scipy", "torch")


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=cwd, env=without_settings()
    )


def output(*command: object, cwd: Path | None = None) -> str:
    result = run(*command, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    output(*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a clean environment with the bare wheel in it."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    output(*PIP, "--python", folder / "bin" / "python", "install", wheel)
    return folder / "bin"


@pytest.fixture(scope="module")
def url(pair: Pair) -> Iterator[str]:
    with running(workers=0) as service, Stitchwork(service.url) as client:
        client.put_space("x", "S", anchors=pair.x_anchors)
        client.put_space("y", "S", anchors=pair.y_anchors)
        yield service.url


def test_wheel_contains_the_package_alone(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "stitchwork",
        f"stitchwork-{__version__}.dist-info",
    }
    assert "stitchwork/py.typed" in names
    assert "stitchwork/web/assets/index.html" in names
    assert "stitchwork/web/guide/index.html" in names


def test_bare_install_has_few_packages(bare: Path) -> None:
    code = "from importlib.metadata import distributions; print(*(d.name for d in distributions()))"
    packages = set(output(bare / "python", "-P", "-c", code).split())
    assert "stitchwork" in packages
    assert len(packages) <= MAX_PACKAGES, packages
    assert packages.isdisjoint(HEAVY)


def test_bare_install_calls_a_service(bare: Path, url: str, pair: Pair, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", pair.x)
    command = [bare / "stitchwork", "translate", "in.npy", "out.npy"]
    spaces = ["--source", "x", "--target", "y"]
    result = json.loads(output(*command, *spaces, "--url", url, "--json", cwd=tmp_path))
    assert result["rows"] == len(pair.x)
    code = (
        "import numpy as np; from stitchwork import Stitchwork; "
        f"rows = Stitchwork({url!r}).translate(np.load('in.npy'), 'x', 'y'); "
        "print(np.array_equal(rows, np.load('out.npy')))"
    )
    assert output(bare / "python", "-P", "-c", code, cwd=tmp_path).strip() == "True"


def test_bare_install_names_the_extra_of_parquet_files(
    bare: Path, url: str, pair: Pair, tmp_path: Path
) -> None:
    np.save(tmp_path / "in.npy", pair.x)
    command = [bare / "stitchwork", "translate", "in.npy", "out.parquet", "--url", url]
    process = subprocess.run(
        [*map(str, command), "--source", "x", "--target", "y"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert process.returncode == 1
    assert "Parquet files need pyarrow: pip install 'stitchwork[parquet]'" in process.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["in.npy"]


def test_bare_install_prints_tables(bare: Path, url: str) -> None:
    lines = output(bare / "stitchwork", "spaces", "list", "--url", url).splitlines()
    assert lines[0].split()[:2] == ["id", "status"]
    assert [line.split()[:2] for line in lines[2:]] == [["x", "ready"], ["y", "ready"]]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("serve", "stitchwork serve needs fastapi: pip install 'stitchwork[serve]'"),
        ("api", "stitchwork api needs fastapi: pip install 'stitchwork[api]'"),
        ("worker", "stitchwork worker needs torch: pip install 'stitchwork[worker]'"),
        ("status", "stitchwork status needs redis: pip install 'stitchwork[api]'"),
        ("evaluate", "stitchwork evaluate needs fastapi: pip install 'stitchwork[evaluation]'"),
    ],
)
def test_command_of_an_extra_names_it(bare: Path, command: str, sentence: str) -> None:
    result = run(bare / "stitchwork", command)
    assert (result.returncode, result.stderr.strip()) == (1, sentence)
