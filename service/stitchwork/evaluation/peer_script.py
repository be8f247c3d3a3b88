"""Other programs that translate or compare spaces; run by an interpreter that has them installed.

`PYTHON peer_script.py PEER` reads lines of two paths from standard input: an .npz file with
`anchors_x` (k, d_x), `anchors_y` (k, d_y), `x` (n, d_x) and `y` (m, d_y), and the path of the
result, an .npz file with `x` and `y` translated or made comparable. It prints `done` after each.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
PeerFunction = Callable[[Rows, Rows, Rows, Rows], tuple[Rows, Rows]]


def latentis_procrustes() -> PeerFunction:
    """Procrustes of latentis: standardised, padded to one width, a rotation by SVD."""
    from latentis.transform.translate import Procrustes

    return _latentis(Procrustes)


def latentis_lstsq() -> PeerFunction:
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


def _latentis(make: Callable[[], Any]) -> PeerFunction:
    import torch

    def translate(anchors_x: Rows, anchors_y: Rows, x: Rows, y: Rows) -> tuple[Rows, Rows]:
        translator = make()
        translator.fit(torch.as_tensor(anchors_x), torch.as_tensor(anchors_y))
        rows, _ = translator.transform(torch.as_tensor(x))
        return rows.numpy(), y

    return translate


def rat_embed() -> PeerFunction:
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
        input_path, output_path = line.rstrip("\n").split("\t")
        with np.load(input_path, allow_pickle=False) as npz:
            queries, database = peer(*(npz[name] for name in ("anchors_x", "anchors_y", "x", "y")))
        np.savez(output_path, x=queries, y=database)
        print("done", flush=True)  # noqa: T201
