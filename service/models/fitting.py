"""A linear head fitted on labelled embeddings, by scikit-learn."""

import warnings
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from service.errors import InvalidInput
from service.geometry.heads import Classifier
from service.records import Floats

ITERATIONS: Final = 2000


class Fit(NamedTuple):
    """A fitted head, its labels in the order of its scores, and its accuracy on what it saw."""

    classifier: Classifier
    labels: list[str]
    train_accuracy: float


def fit_linear(embeddings: Floats, labels: Sequence[str]) -> Fit:
    """Fit a multinomial logistic regression.

    Args:
        embeddings: (n, d) float32, of any scale.
        labels: n labels.

    Returns:
        A head of the embeddings as they are: the standardisation it was fitted under is folded
        into its weights.

    Raises:
        InvalidInput: If there are fewer than two classes, or not one label for each row.
    """
    names = sorted(set(labels))
    if len(labels) != len(embeddings):
        raise InvalidInput(f"expected {len(embeddings)} labels, one each, got {len(labels)}")
    if len(names) < 2:
        raise InvalidInput(f"expected labels of at least two classes, got {len(names)}")
    # Numbers, since numpy's strings lose trailing NULs.
    place = {name: i for i, name in enumerate(names)}
    classes = np.array([place[name] for name in labels], np.int64)
    scaler = StandardScaler()
    rows = scaler.fit_transform(embeddings.astype(np.float64))
    model = LogisticRegression(max_iter=ITERATIONS)
    with warnings.catch_warnings():
        # A head that has not quite converged is still a head; its accuracy is reported.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, classes)
    accuracy = float(model.score(rows, classes))
    weight = model.coef_ / scaler.scale_
    bias = model.intercept_ - weight @ scaler.mean_
    if len(names) == 2:
        # scikit-learn keeps one row for two classes: the score of the second over the first.
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    layer = (weight.astype(np.float32), bias.astype(np.float32))
    return Fit(Classifier((layer,), "identity"), names, accuracy)
