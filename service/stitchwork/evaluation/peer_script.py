"""Other programs for the same work; run by an interpreter that has them, not by ours.

`PYTHON foreign.py PEER` reads lines of two paths from standard input: an .npz file with `anchors_x`
(k, d_x), `anchors_y` (k, d_y), `x` (n, d_x) and `y` (m, d_y), and where the answer goes, an .npz
file with what became of `x` and `y`. For each it prints `done`.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
Peer = Callable[[Rows, Rows, Rows, Rows], tuple[Rows, Rows]]


def latentis_procrustes() -> Peer:
    """The translator that latentis ships: standardised, padded to one width, a rotation by SVD."""
    from latentis.transform.translate import Procrustes

    return _latentis(Procrustes)


def latentis_lstsq() -> Peer:
    """Least squares of latentis, between the same standardised spaces."""
    from latentis.transform.base import StandardScaling
    from latentis.transform.translate import MatrixAligner, Translator
    from latentis.transform.translate.functional import lstsq_align_state

    return _latentis(
        lambda: Translator(
            aligner=MatrixAligner("lstsq", lstsq_align_state),
            x_transform=StandardScaling(),
            y_transform=StandardScaling(),
        )
    )


def _latentis(make: Callable[[], Any]) -> Peer:
    import torch

    def translate(anchors_x: Rows, anchors_y: Rows, x: Rows, y: Rows) -> tuple[Rows, Rows]:
        translator = make()
        translator.fit(torch.as_tensor(anchors_x), torch.as_tensor(anchors_y))
        rows, _ = translator.transform(torch.as_tensor(x))
        return rows.numpy(), y

    return translate


def rat_embed() -> Peer:
    """Relative Anchor Translation: both sides become (n, k), x as queries and y as a database."""
    from rat import RATranslator

    def unit(rows: Rows) -> Rows:
        lengths: Rows = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.maximum(lengths, 1e-12)

    def relate(anchors_x: Rows, anchors_y: Rows, x: Rows, y: Rows) -> tuple[Rows, Rows]:
        fitted = RATranslator().fit_embeddings(unit(anchors_x), unit(anchors_y))
        return fitted.transform(unit(x), "a"), fitted.transform(unit(y), "b")

    return relate


PEERS = {
    "latentis-procrustes": latentis_procrustes,
    "latentis-lstsq": latentis_lstsq,
    "rat-embed": rat_embed,
}


if __name__ == "__main__":
    peer = PEERS[sys.argv[1]]()
    print("done", flush=True)  # noqa: T201
    for line in sys.stdin:
        asked, answer = line.rstrip("\n").split("\t")
        with np.load(asked, allow_pickle=False) as held:
            names = ("anchors_x", "anchors_y", "x", "y")
            found = peer(*(held[name] for name in names))
        np.savez(answer, x=found[0], y=found[1])
        print("done", flush=True)  # noqa: T201
