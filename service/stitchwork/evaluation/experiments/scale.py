"""Scale invariance: MLPs with three activations on rescaled rows."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.evaluation.experiments.study import ProgressCallback, Record, Study, ignore_progress

Float64Array: TypeAlias = NDArray[np.float64]
ALPHAS: Final = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 10.0)
HIDDEN: Final = 128
EPOCHS: Final = 40
BATCH: Final = 64
LEARNING_RATE: Final = 1e-3

Activation: TypeAlias = tuple[
    Callable[[Float64Array], Float64Array], Callable[[Float64Array], Float64Array]
]
"""A function and its derivative, elementwise."""


def _relu_derivative(x: Float64Array) -> Float64Array:
    return (x > 0).astype(np.float64)


ACTIVATIONS: Final[dict[str, Activation]] = {
    "relu": (lambda x: np.maximum(x, 0.0), _relu_derivative),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "cosine": (np.cos, lambda x: -np.sin(x)),
}


def scale(study: Study, *, progress: ProgressCallback = ignore_progress) -> Record:
    """One MLP of each activation on each space, applied to its test rows times α.

    Args:
        study: A data set with labels.
        progress: Called for each network.

    Returns:
        Accuracy by space, activation and α, the `records`.

    Source:
        Maiorca et al., arXiv 2406.15057, scale invariance of neural classifiers: a network with
        monotone activations keeps its predictions over a range of scales, one with a cosine does
        not.
    """
    labels = study.embedded.labels
    true = study.evaluation_set.labels
    assert labels is not None  # noqa: S101 runs on data sets with labels only
    train, records = study.embedded.train[: study.settings.max_head_rows], list[Record]()
    total = len(study.spaces) * len(ACTIVATIONS)
    for i, space in enumerate(study.spaces):
        rows = study.embedded.rows[space][train].astype(np.float64)
        # Centred and of unit length on average, so that only the length of rows is varied.
        mean = rows.mean(axis=0)
        length = float(np.mean(np.linalg.norm(rows - mean, axis=1)))
        rows = (rows - mean) / length
        test = (study.evaluation_set.rows[space].astype(np.float64) - mean) / length
        for j, name in enumerate(ACTIVATIONS):
            progress(i * len(ACTIVATIONS) + j, total)
            network = SmallMlp(
                name, rows.shape[1], len(study.embedded.classes), study.settings.seed
            )
            network.fit(rows, labels[train])
            for alpha in ALPHAS:
                right = np.mean(np.argmax(network.logits(alpha * test), axis=1) == true)
                labels_of = {"space": space, "activation": name, "alpha": alpha}
                records.append({**labels_of, "accuracy": round(float(right), 6)})
    progress(total, total)
    return {"records": records}


class SmallMlp:
    """An MLP with one hidden layer, fitted by Adam, in numpy: frameworks have no cosine.

    Args:
        activation: A name in `ACTIVATIONS`.
        width: Width of the rows.
        classes: Number of classes.
        seed: Seed of weights and batches.
    """

    def __init__(self, activation: str, width: int, classes: int, seed: int) -> None:
        self._activation, self._derivative = ACTIVATIONS[activation]
        self._rng = np.random.default_rng(seed)
        # Large enough that a cosine is not almost linear on unit rows.
        self._weights: list[Float64Array] = [
            self._rng.normal(size=(width, HIDDEN)),
            np.zeros(HIDDEN),
            self._rng.normal(size=(HIDDEN, classes)) / np.sqrt(HIDDEN),
            np.zeros(classes),
        ]

    def logits(self, rows: Float64Array) -> Float64Array:
        """(n, c) logits of (n, d) rows."""
        first, shift, second, bias = self._weights
        logits: Float64Array = self._activation(rows @ first + shift) @ second + bias
        return logits

    def fit(self, rows: Float64Array, labels: NDArray[np.int64]) -> None:
        """Train on (n, d) rows and their classes."""
        moments = [(np.zeros_like(w), np.zeros_like(w)) for w in self._weights]
        step = 0
        for _ in range(EPOCHS):
            order = self._rng.permutation(len(rows))
            for start in range(0, len(rows), BATCH):
                batch = order[start : start + BATCH]
                step += 1
                for i, gradient in enumerate(self._gradients(rows[batch], labels[batch])):
                    first, second = moments[i]
                    first += 0.1 * (gradient - first)
                    second += 0.001 * (gradient**2 - second)
                    rate = LEARNING_RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                    self._weights[i] -= rate * first / (np.sqrt(second) + 1e-8)

    def _gradients(self, rows: Float64Array, labels: NDArray[Any]) -> list[Float64Array]:
        first, shift, second, bias = self._weights
        inner = rows @ first + shift
        hidden = self._activation(inner)
        logits = hidden @ second + bias
        errors = np.exp(logits - logits.max(axis=1, keepdims=True))
        errors /= errors.sum(axis=1, keepdims=True)
        errors[np.arange(len(labels)), labels] -= 1
        errors /= len(labels)
        hidden_errors = (errors @ second.T) * self._derivative(inner)
        return [
            rows.T @ hidden_errors,
            hidden_errors.sum(axis=0),
            hidden.T @ errors,
            errors.sum(axis=0),
        ]
