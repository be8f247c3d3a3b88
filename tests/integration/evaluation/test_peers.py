"""How other programs are run, with a small one of our own where a real one is installed."""

import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError, JobFailedError
from stitchwork.evaluation.peers import Peer, environment, translate_with_peer

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


def unit(of: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(of, axis=1, keepdims=True)
    return of / lengths


@pytest.fixture
def rat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rat.py").write_text(RAT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{sysconfig.get_path('purelib')}")


def rows(n: int, d: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.usefixtures("rat")
def test_rows_go_to_another_program_and_come_back() -> None:
    x, y = rows(30, 8, 0), rows(30, 5, 1)
    with Peer("rat-embed", PYTHON) as peer:
        for n, m in ((4, 7), (1, 2)):
            queries, database = peer.relate(x, y, rows(n, 8, 2), rows(m, 5, 3))
            np.testing.assert_allclose(queries, unit(rows(n, 8, 2)) @ unit(x).T, atol=1e-6)
            np.testing.assert_allclose(database, unit(rows(m, 5, 3)) @ unit(y).T, atol=1e-6)


@pytest.mark.usefixtures("rat")
def test_a_program_that_fails_is_told_of_with_what_it_said() -> None:
    with Peer("rat-embed", PYTHON) as peer:
        with pytest.raises(JobFailedError, match=r"rat-embed exited with 1: .*no rows at all"):
            peer.relate(rows(9, 8, 0), rows(9, 5, 1), rows(4, 8, 2), rows(0, 5, 3))
        with pytest.raises(JobFailedError, match="no rows at all"):
            peer.relate(rows(9, 8, 0), rows(9, 5, 1), rows(4, 8, 2), rows(4, 5, 3))


@pytest.mark.usefixtures("rat")
def test_what_a_peer_cannot_do_is_refused() -> None:
    with Peer("rat-embed", PYTHON) as peer:
        with pytest.raises(InvalidInputError, match="no rows of the target space"):
            peer(rows(9, 8, 0), rows(9, 5, 1), rows(4, 8, 2))
        with pytest.raises(InvalidInputError, match="parallel anchors, got 9 and 8"):
            peer.relate(rows(9, 8, 0), rows(8, 5, 1), rows(4, 8, 2), rows(4, 5, 2))


def test_an_interpreter_without_the_peer() -> None:
    with pytest.raises(JobFailedError, match="No module named 'latentis'"):
        translate_with_peer("latentis-lstsq", PYTHON, rows(9, 8, 0), rows(9, 5, 1), rows(4, 8, 2))


def test_peers_and_interpreters_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected one of latentis-procrustes"):
        Peer("procrustes", PYTHON)
    with pytest.raises(InvalidInputError, match="there is no interpreter"):
        Peer("rat-embed", tmp_path / "python")
    with pytest.raises(InvalidInputError, match="expected one of"):
        environment("procrustes", tmp_path)


def test_a_peer_that_cannot_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(JobFailedError, match=r"rat-embed==0.3.0 cannot be installed: ERROR"):
        environment("rat-embed", tmp_path / "peers")
    assert not list((tmp_path / "peers").glob("*/whole")), "or the next call would trust it"
