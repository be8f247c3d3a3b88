"""Heads of the experiments: one linear and one MLP for each space, fitted on training rows."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.embedded_corpus import EmbeddedCorpus
from stitchwork.evaluation.experiments.measures import Labels
from stitchwork.geometry.classifier import Classifier, mlp
from stitchwork.models.head_fitting import fit_linear, standardization

HIDDEN: Final = 128
EPOCHS: Final = 60
KINDS: Final = ("linear", "mlp")


@dataclass(frozen=True, slots=True, eq=False)
class ProbeHead:
    """A classifier and the class of each of its outputs.

    Attributes:
        classifier: The layers.
        classes: (c,) int64, the class of each output.
    """

    classifier: Classifier
    classes: Labels

    def predict(self, rows: Floats) -> Labels:
        """(n,) class of the largest logit of each row."""
        best = np.argmax(np.asarray(self.classifier.logits(rows)), axis=1)
        predictions: Labels = self.classes[best]
        return predictions

    def probabilities(self, rows: Floats) -> Floats:
        """(n, c) softmax of the logits."""
        return np.asarray(self.classifier.scores(rows), np.float32)

    def accuracy(self, rows: Floats, labels: Labels) -> float:
        """Share of rows whose prediction is their label."""
        return float(np.mean(self.predict(rows) == labels))


def fit_probe_heads(
    embedded: EmbeddedCorpus,
    space: str,
    indices: NDArray[np.int64],
    kinds: Iterable[str],
    seed: int,
) -> dict[str, ProbeHead]:
    """Heads of one space.

    Args:
        embedded: A data set with labels.
        space: One of its spaces.
        indices: Rows to fit on.
        kinds: Kinds of head, of `KINDS`.
        seed: Seed of the MLP.

    Raises:
        InvalidInputError: If the data set has no labels.
    """
    if embedded.labels is None:
        raise InvalidInputError(f"{embedded.name} has no labels to fit heads on")
    rows, labels = embedded.rows[space][indices], embedded.labels[indices]
    fits = {
        "linear": lambda: _fit_linear(rows, labels),
        "mlp": lambda: _fit_mlp(rows, labels, seed),
    }
    return {kind: fits[kind]() for kind in kinds}


def _fit_linear(rows: Floats, labels: Labels) -> ProbeHead:
    """A linear head by the service's own fit."""
    fit = fit_linear(rows, [f"{label:06d}" for label in labels])
    return ProbeHead(fit.classifier, np.array([int(name) for name in fit.labels], np.int64))


def _fit_mlp(rows: Floats, labels: Labels, seed: int) -> ProbeHead:
    """One hidden layer with ReLU, fitted by Adam; standardisation is folded into the weights."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    mean, spread = standardization(rows)
    standardized = ((rows - mean) / spread).astype(np.float32)
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
        # The fit ends at the maximum number of epochs, on purpose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(standardized, labels)
    layers = [(w.T.astype(np.float64), b.astype(np.float64)) for w, b in _weights(model)]
    weight, bias = layers[0]
    weight = weight / spread
    layers[0] = (weight, bias - weight @ mean)
    weight, bias = layers[-1]
    if len(model.classes_) == 2:
        # For two classes scikit-learn has one output: the logit of the second over the first.
        layers[-1] = (np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2)
    arrays = tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in layers)
    return ProbeHead(mlp(arrays, "relu"), np.asarray(model.classes_, np.int64))


def _weights(model: object) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    coefficients, biases = getattr(model, "coefs_"), getattr(model, "intercepts_")  # noqa: B009
    return list(zip(coefficients, biases, strict=True))
