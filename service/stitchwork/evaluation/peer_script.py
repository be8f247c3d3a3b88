"""Other programs that translate or compare spaces; run by an interpreter that has them installed.

`PYTHON peer_script.py PEER` reads lines of two paths from standard input: an .npz file with
`anchors_x` (k, d_x), `anchors_y` (k, d_y), `x` (n, d_x) and `y` (m, d_y), and the path of the
result, an .npz file with `x` and `y` translated or made comparable. It prints `done` after each.
"""

import os
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


def isotrieve_ridge() -> PeerFunction:
    """Ridge regression of isotrieve: affine, its penalty by generalised cross-validation."""
    from isotrieve import RidgeMapping

    def translate(anchors_x: Rows, anchors_y: Rows, x: Rows, y: Rows) -> tuple[Rows, Rows]:
        mapping = RidgeMapping().fit(anchors_x, anchors_y)
        return np.asarray(mapping.transform(x), np.float32), y

    return translate


def uncentred_procrustes() -> PeerFunction:
    """The orthogonal map between rows as they are, about the origin."""

    def translate(anchors_x: Rows, anchors_y: Rows, x: Rows, y: Rows) -> tuple[Rows, Rows]:
        return x @ _rotation(anchors_x, anchors_y), y

    return translate


def drift_procrustes() -> PeerFunction:
    """Drift-Adapter's orthogonal map, then a factor for each dimension by least squares."""

    def translate(anchors_x: Rows, anchors_y: Rows, x: Rows, y: Rows) -> tuple[Rows, Rows]:
        rotation = _rotation(anchors_x, anchors_y)
        rows = anchors_x @ rotation
        squares = np.maximum(np.sum(rows * rows, axis=0), 1e-12)
        return x @ rotation * (np.sum(rows * anchors_y, axis=0) / squares), y

    return translate


def _rotation(anchors_x: Rows, anchors_y: Rows) -> Rows:
    left, _, right = np.linalg.svd(anchors_x.T @ anchors_y, full_matrices=False)
    rotation: Rows = left @ right
    return rotation


def drift_affine() -> PeerFunction:
    """Drift-Adapter's low-rank affine map, then a factor for each dimension, by AdamW."""
    from torch import nn

    def make(rotation: Any) -> nn.Module:
        width_x, width_y = rotation.shape
        return nn.Sequential(nn.Linear(width_x, RANK, bias=False), nn.Linear(RANK, width_y))

    return _drift_trained(make)


def drift_mlp() -> PeerFunction:
    """Drift-Adapter's residual network, then a factor for each dimension, by AdamW.

    What the residual is added to is the orthogonal map, since spaces differ in width.
    """
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self, rotation: torch.Tensor) -> None:
            super().__init__()
            width_x, width_y = rotation.shape
            self.base = nn.Linear(width_x, width_y, bias=False)
            self.base.weight.data.copy_(rotation.T)
            self.network = nn.Sequential(
                nn.Linear(width_x, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, width_y)
            )

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.base(rows) + self.network(rows)
            return result

    return _drift_trained(Residual)


RANK = 64
HIDDEN = 256
BATCH, EPOCHS, PATIENCE, LEARNING_RATE = 64, 100, 10, 1e-3
VALIDATION_SHARE = 0.1


def _drift_trained(make: Callable[[Any], Any]) -> PeerFunction:
    """Minimum squared error on nine tenths of the anchors; the best epoch on the last tenth.

    As in Vejendla, arXiv 2509.23471; rate, epochs and patience, which suit few anchors, are ours.
    """
    import torch

    def translate(anchors_x: Rows, anchors_y: Rows, x: Rows, y: Rows) -> tuple[Rows, Rows]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make(torch.as_tensor(_rotation(anchors_x, anchors_y)))
            factors = _train(model, torch.as_tensor(anchors_x), torch.as_tensor(anchors_y))
        with torch.no_grad():
            return (model(torch.as_tensor(x)) * factors).numpy(), y

    return translate


def _train(model: Any, rows_x: Any, rows_y: Any) -> Any:
    """Train a model in place; returns the factor of each dimension of its output."""
    import torch

    factors = torch.nn.Parameter(torch.ones(rows_y.shape[1]))
    parameters = [*model.parameters(), factors]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    order = torch.randperm(len(rows_x))
    validation_size = max(1, int(VALIDATION_SHARE * len(order)))
    validation, train = order[:validation_size], order[validation_size:]

    def error(indices: Any) -> Any:
        predictions = model(rows_x[indices]) * factors
        return torch.nn.functional.mse_loss(predictions, rows_y[indices])

    best, best_values, waited = float("inf"), [p.detach().clone() for p in parameters], 0
    for _ in range(EPOCHS):
        shuffled = train[torch.randperm(len(train))]
        for start in range(0, len(shuffled), BATCH):
            optimizer.zero_grad()
            error(shuffled[start : start + BATCH]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(error(validation))
        waited += 1
        if loss < best:
            best, best_values, waited = loss, [p.detach().clone() for p in parameters], 0
        if waited == PATIENCE:
            break
    with torch.no_grad():
        for parameter, value in zip(parameters, best_values, strict=True):
            parameter.copy_(value)
    return factors


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
    "isotrieve-ridge": isotrieve_ridge,
    "drift-adapter-procrustes": drift_procrustes,
    "drift-adapter-affine": drift_affine,
    "drift-adapter-mlp": drift_mlp,
    "uncentred-procrustes": uncentred_procrustes,
}


if __name__ == "__main__":
    # Several threads would wait for each other as soon as a core is busy.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    peer = PEERS[sys.argv[1]]()
    print("done", flush=True)  # noqa: T201
    for line in sys.stdin:
        input_path, output_path = line.rstrip("\n").split("\t")
        with np.load(input_path, allow_pickle=False) as npz:
            queries, database = peer(*(npz[name] for name in ("anchors_x", "anchors_y", "x", "y")))
        np.savez(output_path, x=queries, y=database)
        print("done", flush=True)  # noqa: T201
