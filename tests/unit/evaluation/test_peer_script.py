"""Methods of other programs that are written from their papers."""

import sys
from pathlib import Path

import numpy as np
import pytest

from stitchwork.client import Floats
from stitchwork.evaluation import peer_script
from stitchwork.evaluation.peer_script import PEERS as FUNCTIONS
from stitchwork.evaluation.peers import PEERS, WRITTEN_FROM_PAPERS, peer_environment


def spaces(rows: int) -> tuple[Floats, Floats]:
    """Rows of two spaces: the second is the first, rotated, with a part that no rotation gives."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 8))
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    y = x @ rotation * np.linspace(0.5, 1.5, 8) + 0.7 * np.tanh(2 * x @ rng.normal(size=(8, 8)))
    return x.astype(np.float32), y.astype(np.float32)


def error(name: str) -> float:
    """Mean squared error on rows that were no anchors."""
    x, y = spaces(700)
    translated, database = FUNCTIONS[name]()(x[:500], y[:500], x[500:], y[500:])
    np.testing.assert_array_equal(database, y[500:])
    assert translated.shape == y[500:].shape
    return float(np.mean((translated - y[500:]) ** 2))


def test_every_peer_has_a_function() -> None:
    assert set(PEERS) == set(FUNCTIONS)


def test_uncentred_procrustes_recovers_a_rotation() -> None:
    x, _ = spaces(60)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))
    y = (x @ rotation).astype(np.float32)
    translated, _ = FUNCTIONS["uncentred-procrustes"]()(x[:40], y[:40], x[40:], y[40:])
    np.testing.assert_allclose(translated, y[40:], atol=1e-4)


def test_each_form_of_drift_adapter_improves_on_a_rotation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_script, "EPOCHS", 25)
    rotation = error("uncentred-procrustes")
    assert error("drift-adapter-procrustes") < 0.98 * rotation
    assert error("drift-adapter-affine") < rotation
    assert error("drift-adapter-mlp") < 0.9 * rotation


@pytest.mark.parametrize("name", WRITTEN_FROM_PAPERS)
def test_methods_from_papers_run_in_this_environment(name: str, tmp_path: Path) -> None:
    assert peer_environment(name, tmp_path) == Path(sys.executable)
    assert list(tmp_path.iterdir()) == []
