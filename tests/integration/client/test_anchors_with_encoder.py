"""`stitchwork spaces put` with both anchors and an encoder, which are compared."""

import json
from pathlib import Path

import numpy as np
import pytest

from stitchwork.cli.main import main
from stitchwork.client import Stitchwork
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import Floats
from tests.support.running_service import SharedService

pytestmark = pytest.mark.models

TEXTS = [
    f"{thing} {claim}"
    for thing in ("the river", "my phone", "our law", "a small dog")
    for claim in ("is broken", "costs too much", "makes me happy", "will be gone")
]


@pytest.fixture(scope="module")
def rows(shared_service: SharedService) -> Floats:
    """The anchors, by the encoder itself."""
    with Stitchwork(shared_service.running.url) as client:
        client.put_anchor_set("own-rows", "text", items=TEXTS)
        encoder = {"kind": "transformers", "model": str(minilm_folder())}
        client.put_space("own-rows", "own-rows", encoder=encoder)
        client.wait("spaces", "own-rows")
        return client.embed("own-rows", TEXTS)


@pytest.fixture
def command(
    shared_service: SharedService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    monkeypatch.setenv("STITCHWORK_URL", shared_service.running.url)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS) + "\n")
    model = str(minilm_folder())
    return ["--text-model", model, "--texts", str(texts), "--anchors", str(tmp_path / "a.npy")]


def test_anchors_of_the_encoder_are_accepted_and_its_queries_are_answered(
    rows: Floats,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shared_service: SharedService,
) -> None:
    np.save(tmp_path / "a.npy", rows)
    words = ["spaces", "put", "both", "--anchor-set", "both", *command, "--json"]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["status"], record["checks"], record["dim"]) == ("ready", [], 384)
    with Stitchwork(shared_service.running.url) as client:
        np.testing.assert_allclose(client.embed("both", TEXTS), rows, atol=1e-4)


def test_anchors_that_differ_from_the_encoder_are_refused_with_their_rows(
    rows: Floats, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = rows.copy()
    swapped[[2, 7]] = swapped[[7, 2]]
    np.save(tmp_path / "a.npy", swapped)
    assert main(["spaces", "put", "swapped", "--anchor-set", "swapped", *command]) == 1
    message = capsys.readouterr().err
    assert "2 of 16 anchors differ from what" in message
    assert ": 2, 7. Send the anchors of the encoder" in message


def test_anchors_of_another_encoder_are_refused(
    rows: Floats, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
    np.save(tmp_path / "a.npy", noise)
    assert main(["spaces", "put", "foreign", "--anchor-set", "foreign", *command]) != 0
    assert "16 of 16 anchors differ from what" in capsys.readouterr().err
