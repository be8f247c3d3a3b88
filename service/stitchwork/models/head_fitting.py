"""Fits linear heads on labelled embeddings with scikit-learn."""

import warnings
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import Classifier, mlp
from stitchwork.resources import Floats, Label

MAX_ITERATIONS: Final = 2000
INVERSE_STRENGTHS: Final = (0.001, 0.01, 0.1, 1.0)
"""Candidates for C, the inverse strength of regularisation. An overfitted head is worse on other
rows, and far worse through a bridge, which reproduces weak directions least exactly."""
MIN_RELATIVE_STD: Final = 1e-7
"""Standard deviations below this part of the largest one are rounding errors of float32."""
MIN_VALIDATION_ROWS: Final = 50
"""With fewer rows a fifth of them is too few to choose a strength; the last one is used."""
VALIDATION_ITERATIONS: Final = 200
VALIDATION_TOLERANCE: Final = 1e-3


class LinearFit(NamedTuple):
    """A fitted head.

    Attributes:
        classifier: The classifier.
        labels: Its labels, in the order of its scores.
        train_accuracy: Its accuracy on the rows it was fitted on.
    """

    classifier: Classifier
    labels: list[Label]
    train_accuracy: float


def fit_linear(embeddings: Floats, labels: Sequence[Label]) -> LinearFit:
    """Fit a multinomial logistic regression; a fifth of the rows selects its regularisation.

    Args:
        embeddings: (n, d) float32, of any scale.
        labels: n labels of one type.

    Returns:
        A head of the unscaled embeddings: the standardisation that it was fitted with is folded
        into its weights.

    Raises:
        InvalidInputError: If there are fewer than two classes, or the numbers of labels and rows
            differ.
    """
    names: list[Label] = sorted(set(labels))
    if len(labels) != len(embeddings):
        raise InvalidInputError(
            f"expected one label for each of {len(embeddings)} embeddings, got {len(labels)}"
        )
    if len(names) < 2:
        raise InvalidInputError(f"expected labels of at least two classes, got {len(names)}")
    # Indices, since numpy strings lose trailing NULs.
    index = {name: i for i, name in enumerate(names)}
    classes = np.array([index[name] for name in labels], np.int64)
    wide = embeddings.astype(np.float64)
    mean, std = standardization(wide)
    rows = (wide - mean) / std
    with warnings.catch_warnings():
        # A head that has not converged is usable; its accuracy is reported.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=_select_c(rows, classes), max_iter=MAX_ITERATIONS)
        model.fit(rows, classes)
    accuracy = float(model.score(rows, classes))
    weight = model.coef_ / std
    bias = model.intercept_ - weight @ mean
    if len(names) == 2:
        # For two classes scikit-learn has one row: the score of the second relative to the first.
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    layer = (weight.astype(np.float32), bias.astype(np.float32))
    return LinearFit(mlp((layer,)), names, accuracy)


def standardization(rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each dimension, for standardising rows.

    Args:
        rows: (n, d).

    Returns:
        Mean (d,) and standard deviation (d,), both float64. The latter has a positive lower bound:
        dimensions that a network never activates vary only by rounding, which a division by their
        tiny deviation would amplify.
    """
    wide = rows.astype(np.float64)
    std = wide.std(axis=0)
    minimum = max(MIN_RELATIVE_STD * float(std.max()), float(np.finfo(np.float32).tiny))
    return wide.mean(axis=0), np.maximum(std, minimum)


def _select_c(rows: NDArray[np.floating], classes: NDArray[np.int64]) -> float:
    """The inverse strength with the lowest loss on a fifth of the rows."""
    if len(rows) < MIN_VALIDATION_ROWS:
        return INVERSE_STRENGTHS[-1]
    order = np.random.default_rng(0).permutation(len(rows))
    validation, train = np.split(order, [len(rows) // 5])
    known = np.unique(classes[train])
    validation = validation[np.isin(classes[validation], known)]
    if len(known) < 2 or len(validation) == 0:
        return INVERSE_STRENGTHS[-1]
    columns = np.searchsorted(known, classes[validation])
    # Each fit starts from the previous one, with weaker regularisation; the loss has one minimum.
    model = LogisticRegression(
        max_iter=VALIDATION_ITERATIONS, tol=VALIDATION_TOLERANCE, warm_start=True
    )
    rows = rows.astype(np.float32)
    best_loss, best = np.inf, INVERSE_STRENGTHS[0]
    for inverse_strength in INVERSE_STRENGTHS:
        model.set_params(C=inverse_strength).fit(rows[train], classes[train])
        scores = model.predict_log_proba(rows[validation])
        loss = -float(np.mean(scores[np.arange(len(columns)), columns]))
        if loss >= best_loss:
            break
        best_loss, best = loss, inverse_strength
    return best
