"""Whether a net minds the length of its inputs: MLPs of three activations under rescaled rows."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.evaluation.experiments.study import Record, Study, Told, quietly

Doubles: TypeAlias = NDArray[np.float64]
ALPHAS: Final = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 10.0)
HIDDEN: Final = 128
EPOCHS: Final = 40
BATCH: Final = 64
RATE: Final = 1e-3

Activation: TypeAlias = tuple[Callable[[Doubles], Doubles], Callable[[Doubles], Doubles]]
"""A function of numbers, and its derivative."""


def _step(x: Doubles) -> Doubles:
    return (x > 0).astype(np.float64)


ACTIVATIONS: Final[dict[str, Activation]] = {
    "relu": (lambda x: np.maximum(x, 0.0), _step),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "cosine": (np.cos, lambda x: -np.sin(x)),
}


def scale(study: Study, *, progress: Told = quietly) -> Record:
    """One MLP of each activation on each space, fed its held-out rows times α.

    Args:
        study: A data set with labels.
        progress: Told of each net.

    Returns:
        Accuracy by space, activation and α, the `records`.

    Source:
        Maiorca et al., arXiv 2406.15057, scale invariance of neural classifiers: a net whose
        activations are monotone keeps its answer over a range of scales, one with a cosine does
        not.
    """
    labels = study.embedded.labels
    true = study.bench.labels
    assert labels is not None  # noqa: S101 only data sets with labels are asked
    train, records = study.embedded.train[: study.settings.head_rows], list[Record]()
    total = len(study.spaces) * len(ACTIVATIONS)
    for at, space in enumerate(study.spaces):
        rows = study.embedded.rows[space][train].astype(np.float64)
        # Centred and of unit length on average: a translated row's length is the only freedom.
        mean = rows.mean(axis=0)
        length = float(np.mean(np.linalg.norm(rows - mean, axis=1)))
        rows = (rows - mean) / length
        tested = (study.bench.rows[space].astype(np.float64) - mean) / length
        for i, name in enumerate(ACTIVATIONS):
            progress(at * len(ACTIVATIONS) + i, total)
            net = Net(name, rows.shape[1], len(study.embedded.classes), study.settings.seed)
            net.fit(rows, labels[train])
            for alpha in ALPHAS:
                right = np.mean(np.argmax(net.scores(alpha * tested), axis=1) == true)
                of = {"space": space, "activation": name, "alpha": alpha}
                records.append({**of, "accuracy": round(float(right), 6)})
    progress(total, total)
    return {"records": records}


class Net:
    """One hidden layer, by Adam on the cross entropy, in numpy: frameworks have no cosine.

    Args:
        activation: Of `ACTIVATIONS`.
        width: Of the rows.
        classes: Number of scores.
        seed: Of weights and batches.
    """

    def __init__(self, activation: str, width: int, classes: int, seed: int) -> None:
        self._act, self._slope = ACTIVATIONS[activation]
        self._rng = np.random.default_rng(seed)
        # Wide enough that a cosine bends within the range of unit rows.
        self._weights: list[Doubles] = [
            self._rng.normal(size=(width, HIDDEN)),
            np.zeros(HIDDEN),
            self._rng.normal(size=(HIDDEN, classes)) / np.sqrt(HIDDEN),
            np.zeros(classes),
        ]

    def scores(self, rows: Doubles) -> Doubles:
        """(n, c) scores of (n, d) rows."""
        first, shift, second, bias = self._weights
        found: Doubles = self._act(rows @ first + shift) @ second + bias
        return found

    def fit(self, rows: Doubles, labels: NDArray[np.int64]) -> None:
        """Train on (n, d) rows and their classes."""
        moments = [(np.zeros_like(w), np.zeros_like(w)) for w in self._weights]
        step = 0
        for _ in range(EPOCHS):
            order = self._rng.permutation(len(rows))
            for start in range(0, len(rows), BATCH):
                at = order[start : start + BATCH]
                step += 1
                for i, gradient in enumerate(self._gradients(rows[at], labels[at])):
                    first, second = moments[i]
                    first += 0.1 * (gradient - first)
                    second += 0.001 * (gradient**2 - second)
                    rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                    self._weights[i] -= rate * first / (np.sqrt(second) + 1e-8)

    def _gradients(self, rows: Doubles, labels: NDArray[Any]) -> list[Doubles]:
        first, shift, second, bias = self._weights
        inner = rows @ first + shift
        hidden = self._act(inner)
        scores = hidden @ second + bias
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        shares[np.arange(len(labels)), labels] -= 1
        shares /= len(labels)
        back = (shares @ second.T) * self._slope(inner)
        return [rows.T @ back, back.sum(axis=0), hidden.T @ shares, shares.sum(axis=0)]
