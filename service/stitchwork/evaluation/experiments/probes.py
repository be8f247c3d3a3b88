"""Heads of the experiments: one linear and one MLP per space, fitted on the training rows."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.embedded_corpus import Embedded
from stitchwork.evaluation.experiments.measures import Labels
from stitchwork.geometry.classifier import Classifier, probabilities
from stitchwork.models.head_fitting import fit_linear, standardization

HIDDEN: Final = 128
EPOCHS: Final = 60
KINDS: Final = ("linear", "mlp")


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A classifier, and the class that each of its scores stands for."""

    classifier: Classifier
    order: Labels

    def classes(self, rows: Floats) -> Labels:
        """(n,) class of the largest score."""
        found: Labels = self.order[np.argmax(np.asarray(self.classifier.logits(rows)), axis=1)]
        return found

    def probabilities(self, rows: Floats) -> Floats:
        """(n, c) softmax of the scores."""
        return np.asarray(probabilities(self.classifier.logits(rows)), np.float32)

    def accuracy(self, rows: Floats, labels: Labels) -> float:
        """Share of rows whose largest score is that of their label."""
        return float(np.mean(self.classes(rows) == labels))


def heads(
    embedded: Embedded, space: str, at: NDArray[np.int64], kinds: Iterable[str], seed: int
) -> dict[str, Head]:
    """Heads of one space.

    Args:
        embedded: A data set with labels.
        space: Which of its spaces.
        at: Rows to fit on.
        kinds: Of `KINDS`.
        seed: Of the MLP.

    Raises:
        InvalidInputError: If the data set has no labels.
    """
    if embedded.labels is None:
        raise InvalidInputError(f"{embedded.name} has no labels to fit heads on")
    rows, labels = embedded.rows[space][at], embedded.labels[at]
    fits = {"linear": lambda: _linear(rows, labels), "mlp": lambda: _mlp(rows, labels, seed)}
    return {kind: fits[kind]() for kind in kinds}


def _linear(rows: Floats, labels: Labels) -> Head:
    """The service's own."""
    fit = fit_linear(rows, [f"{label:06d}" for label in labels])
    return Head(fit.classifier, np.array([int(name) for name in fit.labels], np.int64))


def _mlp(rows: Floats, labels: Labels, seed: int) -> Head:
    """One hidden layer of relu by Adam, its standardisation folded into the first weights."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    mean, spread = standardization(rows)
    seen = ((rows - mean) / spread).astype(np.float32)
    model = MLPClassifier(
        (HIDDEN,),
        alpha=1e-3,
        batch_size=min(128, len(rows)),
        max_iter=EPOCHS,
        n_iter_no_change=5,
        random_state=seed,
        tol=1e-3,
    )
    with warnings.catch_warnings():
        # The number of epochs is what ends the fit, on purpose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(seen, labels)
    layers = [(w.T.astype(np.float64), b.astype(np.float64)) for w, b in _weights(model)]
    weight, bias = layers[0]
    weight = weight / spread
    layers[0] = (weight, bias - weight @ mean)
    weight, bias = layers[-1]
    if len(model.classes_) == 2:
        # scikit-learn keeps one score for two classes: that of the second over the first.
        layers[-1] = (np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2)
    arrays = tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in layers)
    return Head(Classifier(arrays, "relu"), np.asarray(model.classes_, np.int64))


def _weights(model: object) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    coefficients, biases = getattr(model, "coefs_"), getattr(model, "intercepts_")  # noqa: B009
    return list(zip(coefficients, biases, strict=True))
