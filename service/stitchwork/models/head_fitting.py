"""A linear head fitted on labelled embeddings, by scikit-learn."""

import warnings
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import Classifier
from stitchwork.resources import Floats

ITERATIONS: Final = 2000
STRENGTHS: Final = (0.001, 0.01, 0.1, 1.0)
"""Inverse strengths of regularisation that are tried. A head that has learnt its rows by heart is
worse on others, and through a bridge, which gives back weak directions least exactly, far worse."""
DEAD: Final = 1e-7
"""Standard deviation, relative to the largest of a dimension, below which float32 says nothing."""
TOO_FEW: Final = 50
"""Rows below which a fifth of them tells nothing, and the last strength is taken."""
TRIED_ITERATIONS: Final = 200
ROUGHLY: Final = 1e-3


class Fit(NamedTuple):
    """A fitted head, its labels in the order of its scores, and its accuracy on what it saw."""

    classifier: Classifier
    labels: list[str]
    train_accuracy: float


def fit_linear(embeddings: Floats, labels: Sequence[str]) -> Fit:
    """Fit a multinomial logistic regression, regularised as suits a fifth of the rows held out.

    Args:
        embeddings: (n, d) float32, of any scale.
        labels: n labels.

    Returns:
        A head of the embeddings as they are: the standardisation it was fitted under is folded
        into its weights.

    Raises:
        InvalidInputError: If there are fewer than two classes, or not one label for each row.
    """
    names = sorted(set(labels))
    if len(labels) != len(embeddings):
        raise InvalidInputError(f"expected {len(embeddings)} labels, one each, got {len(labels)}")
    if len(names) < 2:
        raise InvalidInputError(f"expected labels of at least two classes, got {len(names)}")
    # Numbers, since numpy's strings lose trailing NULs.
    place = {name: i for i, name in enumerate(names)}
    classes = np.array([place[name] for name in labels], np.int64)
    wide = embeddings.astype(np.float64)
    mean, spread = standardization(wide)
    rows = (wide - mean) / spread
    with warnings.catch_warnings():
        # A head that has not quite converged is still a head; its accuracy is reported.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=_strength(rows, classes), max_iter=ITERATIONS)
        model.fit(rows, classes)
    accuracy = float(model.score(rows, classes))
    weight = model.coef_ / spread
    bias = model.intercept_ - weight @ mean
    if len(names) == 2:
        # scikit-learn keeps one row for two classes: the score of the second over the first.
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    layer = (weight.astype(np.float32), bias.astype(np.float32))
    return Fit(Classifier((layer,), "identity"), names, accuracy)


def standardization(rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What rows are standardised by: mean and standard deviation of each dimension.

    Args:
        rows: (n, d).

    Returns:
        Two of (d,), the second never 0: dimensions that a network leaves dead vary by rounding
        alone, and a weight that makes much of them would make much of rounding.
    """
    wide = rows.astype(np.float64)
    spread = wide.std(axis=0)
    least = max(DEAD * float(spread.max()), float(np.finfo(np.float32).tiny))
    return wide.mean(axis=0), np.maximum(spread, least)


def _strength(rows: NDArray[np.floating], classes: NDArray[np.int64]) -> float:
    """The strength under which held-out rows are least surprising."""
    if len(rows) < TOO_FEW:
        return STRENGTHS[-1]
    order = np.random.default_rng(0).permutation(len(rows))
    held_out, seen = np.split(order, [len(rows) // 5])
    known = np.unique(classes[seen])
    held_out = held_out[np.isin(classes[held_out], known)]
    if len(known) < 2 or len(held_out) == 0:
        return STRENGTHS[-1]
    at = np.searchsorted(known, classes[held_out])
    # From the simplest head on, each starting where the one before ended: the loss has one valley.
    model = LogisticRegression(max_iter=TRIED_ITERATIONS, tol=ROUGHLY, warm_start=True)
    rows = rows.astype(np.float32)
    best, chosen = np.inf, STRENGTHS[0]
    for strength in STRENGTHS:
        model.set_params(C=strength).fit(rows[seen], classes[seen])
        told = model.predict_log_proba(rows[held_out])
        loss = -float(np.mean(told[np.arange(len(at)), at]))
        if loss >= best:
            break
        best, chosen = loss, strength
    return chosen
