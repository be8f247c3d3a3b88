"""Peer processes, with a small program in place of an installed one."""

import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError, JobFailedError
from stitchwork.evaluation.peers import PeerProcess, peer_environment, translate_with_peer

PYTHON = Path(sys.executable)
RAT = """
import numpy as np
print("a package that says hello")

class RATranslator:
    def fit_embeddings(self, a, b):
        self.anchors = {"a": a, "b": b}
        return self

    def transform(self, rows, side):
        if not len(rows):
            raise ValueError("no rows at all")
        return rows @ self.anchors[side].T
"""
"""A program that has rat-embed's interface."""


def unit(rows: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


@pytest.fixture
def rat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rat.py").write_text(RAT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{sysconfig.get_path('purelib')}")


def random_rows(n: int, d: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.usefixtures("rat")
def test_peer_process_returns_translated_rows() -> None:
    x, y = random_rows(30, 8, 0), random_rows(30, 5, 1)
    with PeerProcess("rat-embed", PYTHON) as peer:
        for n, m in ((4, 7), (1, 2)):
            queries, database = peer.relate(x, y, random_rows(n, 8, 2), random_rows(m, 5, 3))
            np.testing.assert_allclose(queries, unit(random_rows(n, 8, 2)) @ unit(x).T, atol=1e-6)
            np.testing.assert_allclose(database, unit(random_rows(m, 5, 3)) @ unit(y).T, atol=1e-6)


@pytest.mark.usefixtures("rat")
def test_failing_peer_raises_with_its_error_output() -> None:
    with PeerProcess("rat-embed", PYTHON) as peer:
        with pytest.raises(JobFailedError, match=r"rat-embed exited with 1: .*no rows at all"):
            peer.relate(
                random_rows(9, 8, 0),
                random_rows(9, 5, 1),
                random_rows(4, 8, 2),
                random_rows(0, 5, 3),
            )
        with pytest.raises(JobFailedError, match="no rows at all"):
            peer.relate(
                random_rows(9, 8, 0),
                random_rows(9, 5, 1),
                random_rows(4, 8, 2),
                random_rows(4, 5, 3),
            )


@pytest.mark.usefixtures("rat")
def test_unsupported_peer_operation_is_refused() -> None:
    with PeerProcess("rat-embed", PYTHON) as peer:
        with pytest.raises(InvalidInputError, match="cannot translate into the target space"):
            peer(random_rows(9, 8, 0), random_rows(9, 5, 1), random_rows(4, 8, 2))
        with pytest.raises(InvalidInputError, match="parallel anchors, got 9 and 8"):
            peer.relate(
                random_rows(9, 8, 0),
                random_rows(8, 5, 1),
                random_rows(4, 8, 2),
                random_rows(4, 5, 2),
            )


def test_interpreter_without_the_peer_raises() -> None:
    with pytest.raises(JobFailedError, match="No module named 'latentis'"):
        translate_with_peer(
            "latentis-lstsq",
            PYTHON,
            random_rows(9, 8, 0),
            random_rows(9, 5, 1),
            random_rows(4, 8, 2),
        )


def test_unknown_peer_or_interpreter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected one of latentis-procrustes"):
        PeerProcess("procrustes", PYTHON)
    with pytest.raises(InvalidInputError, match="there is no interpreter"):
        PeerProcess("rat-embed", tmp_path / "python")
    with pytest.raises(InvalidInputError, match="expected one of"):
        peer_environment("procrustes", tmp_path)


def test_peer_that_cannot_be_installed_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(JobFailedError, match=r"rat-embed==0.3.0 cannot be installed: ERROR"):
        peer_environment("rat-embed", tmp_path / "peers")
    assert not list((tmp_path / "peers").glob("*/whole")), "or the next call would trust it"
