"""KServe's SDK and MLServer's codecs against a running service, each in an environment of its own.

Their dependencies exclude each other's, and some of this package's. What an environment shares with
the one that runs the tests is not installed again.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.protocols.conftest import TEXTS, World
from tests.support import machine

pytestmark = pytest.mark.models

SCRIPTS = Path(__file__).parent / "scripts"
INPUTS = TEXTS[3:15]
INSTALL_SECONDS = 300.0


def install(folder: Path, package: str) -> Path:
    """Install a package in an environment on top of this one, and return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    parents = [path for path in sys.path if path.endswith("site-packages")]
    (site / "parent.pth").write_text("\n".join(parents) + "\n")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    result = subprocess.run(
        [*pip, "install", "--quiet", "--no-compile", package],
        capture_output=True,
        text=True,
        timeout=machine.deadline(INSTALL_SECONDS),
    )
    assert result.returncode == 0, result.stderr
    return python


@pytest.fixture(scope="module")
def interpreters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The interpreters of the environments with each package."""
    packages = ["kserve", "mlserver"]
    folders = [tmp_path_factory.mktemp(name) / "env" for name in packages]
    with ThreadPoolExecutor() as pool:
        return dict(zip(packages, pool.map(install, folders, packages), strict=True))


def run(python: Path, script: str, world: World) -> Any:
    """What a script prints, which calls the service."""
    result = subprocess.run(
        [python, SCRIPTS / script, world.url, world.grpc, json.dumps(INPUTS)],
        capture_output=True,
        text=True,
        timeout=machine.deadline(INSTALL_SECONDS),
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def expected_labels(world: World) -> list[str]:
    body = world.http.post("/stitch/minilm/topic", json={"items": INPUTS}).json()
    return [prediction["label"] for prediction in body["predictions"]]


def expected_rows(world: World) -> Any:
    rows = world.http.post("/embed/minilm", json={"items": INPUTS}).json()["embeddings"]
    body = {"source": "minilm", "target": "turned", "embeddings": rows}
    return world.http.post("/translate", json=body).json()["embeddings"]


def test_sdk_of_kserve_infers_by_rest_and_grpc(world: World, interpreters: dict[str, Path]) -> None:
    received = run(interpreters["kserve"], "kserve_client.py", world)
    labels, rows = expected_labels(world), expected_rows(world)
    for results in (received["rest"], received["grpc"]):
        assert [results[name] for name in ("ready", "live", "model")] == [True, True, True]
        for form in ("raw", "plain"):
            assert results[f"labels {form}"] == labels
            assert results[f"outputs {form}"] == ["labels", "scores"]
            np.testing.assert_allclose(results[f"rows {form}"], rows, atol=1e-4)
        np.testing.assert_allclose(results["rows half"], rows, atol=0.05)
        assert "no" in results["error"]


def test_codecs_of_mlserver_encode_and_decode_by_rest_and_grpc(
    world: World, interpreters: dict[str, Path]
) -> None:
    received = run(interpreters["mlserver"], "mlserver_client.py", world)
    labels, rows = expected_labels(world), expected_rows(world)
    for results in (received["rest"], received["grpc"]):
        assert results["labels"] == labels
        assert np.shape(results["scores"]) == (len(INPUTS), 5)
        np.testing.assert_allclose(results["rows"], rows, atol=1e-4)
        assert "no" in results["error"]
