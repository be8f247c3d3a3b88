"""Heads from fitted scikit-learn estimators, read by their attributes.

scikit-learn is not imported, and nothing is pickled: an estimator is known by the name of its
class. Steps that are affine are folded into the first layer in float64; everything that a head
cannot compute exactly is refused by name.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError

Float64s: TypeAlias = NDArray[np.float64]
Affine: TypeAlias = tuple[Float64s, Float64s]
"""matrix (d_out, d_in), or its diagonal (d,), and offset (d_out,): y = x matrixᵀ + offset."""


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """A head as `put_head` takes it.

    Attributes:
        layers: From embedding to scores, each weight (out, in) and bias (out,).
        labels: One label for each class; two for a single score.
        activation: Activation between the layers; None for a linear head.
    """

    layers: tuple[Affine, ...]
    labels: list[Any]
    activation: str | None = None

    @property
    def arrays(self) -> dict[str, Float64s]:
        """The layers under the names of a torch Sequential, such as `0.weight` and `0.bias`."""
        named = ((2 * i, *layer) for i, layer in enumerate(self.layers))
        return {
            f"{i}.{name}": array
            for i, weight, bias in named
            for name, array in (("weight", weight), ("bias", bias))
        }


def head_weights(estimator: Any, *, uncalibrated: bool = False) -> HeadWeights:
    """The head of a fitted estimator.

    Args:
        estimator: A classifier, or a Pipeline of affine transformers that ends in one.
        uncalibrated: Whether to take a classifier without probabilities, with the softmax of its
            decision values, which is not calibrated, in their place.

    Raises:
        InvalidInputError: If the estimator is not fitted, or not one that a head can compute.
    """
    try:
        return _head_weights(estimator, uncalibrated)
    except AttributeError as error:
        raise InvalidInputError(f"expected a fitted estimator: {error}") from error


def _head_weights(estimator: Any, uncalibrated: bool) -> HeadWeights:
    name = _class_name(estimator)
    if name in ("GridSearchCV", "RandomizedSearchCV"):
        return _head_weights(estimator.best_estimator_, uncalibrated)
    if name == "Pipeline":
        *transformers, last = [step for _, step in estimator.steps]
        weights = _head_weights(last, uncalibrated)
        for transformer in reversed(list(_flatten(transformers))):
            weights = _fold(weights, _affine(transformer))
        return weights
    if name not in CLASSIFIERS:
        raise InvalidInputError(
            f"expected one of {', '.join(CLASSIFIERS)} or a Pipeline that ends in one, got {name}"
        )
    if name in UNCALIBRATED and not uncalibrated:
        raise InvalidInputError(
            f"{name} has no probabilities; pass uncalibrated=True to take the softmax of its "
            "decision values, which is not calibrated"
        )
    if _has_several_outputs(estimator):
        raise InvalidInputError(f"{name}: expected one label for each row, got several")
    return CLASSIFIERS[name](estimator)


def _logistic_regression(estimator: Any) -> HeadWeights:
    head = _linear(estimator)
    # Attribute of older versions; without it, softmax for three classes or more.
    multi_class = getattr(estimator, "multi_class", "auto")
    (weight, bias), count = head.layers[0], len(head.labels)
    if count > 2 and (multi_class == "ovr" or estimator.solver == "liblinear"):
        raise InvalidInputError(
            "LogisticRegression: expected multinomial probabilities, got one-versus-rest"
        )
    if count == 2 and multi_class == "multinomial":
        # These older versions take the softmax of (-z, z).
        layer = (np.concatenate([-weight, weight]), np.concatenate([-bias, bias]))
        return replace(head, layers=(layer,))
    return head


def _linear(estimator: Any) -> HeadWeights:
    weight = np.atleast_2d(np.asarray(estimator.coef_, np.float64))
    bias = np.broadcast_to(np.asarray(estimator.intercept_, np.float64), len(weight))
    labels = estimator.classes_.tolist()
    return HeadWeights(((weight, bias),), labels)


def _mlp(estimator: Any) -> HeadWeights:
    labels = estimator.classes_.tolist()
    layers: list[Affine] = [
        (np.asarray(weight, np.float64).T, np.asarray(bias, np.float64))
        for weight, bias in zip(estimator.coefs_, estimator.intercepts_, strict=True)
    ]
    if estimator.activation != "logistic":
        return HeadWeights(tuple(layers), labels, estimator.activation)
    # The logistic function of z is (1 + tanh(z / 2)) / 2.
    for i in range(len(layers)):
        weight, bias = layers[i]
        if i > 0:
            weight, bias = weight / 2, bias + weight.sum(axis=1) / 2
        if i < len(layers) - 1:
            weight, bias = weight / 2, bias / 2
        layers[i] = weight, bias
    return HeadWeights(tuple(layers), labels, "tanh")


def _has_several_outputs(estimator: Any) -> bool:
    """Whether it was fitted on several labels of each row."""
    if isinstance(estimator.classes_, list):
        return True
    if _class_name(estimator) == "MLPClassifier":
        return bool(estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1)
    # The weights of several labels of a ridge classifier look like those of several classes.
    binarizer = getattr(estimator, "_label_binarizer", None)
    return binarizer is not None and str(binarizer.y_type_).startswith("multilabel")


def _flatten(transformers: Iterable[Any]) -> Iterator[Any]:
    """The steps of a pipeline, with those of the pipelines among them."""
    for transformer in transformers:
        if type(transformer).__name__ == "Pipeline":
            yield from _flatten(step for _, step in transformer.steps)
        else:
            yield transformer


def _affine(transformer: Any) -> Affine | None:
    """A step before the classifier; None if it changes nothing."""
    if transformer is None or isinstance(transformer, str):
        return None
    name = _class_name(transformer)
    if name not in TRANSFORMERS:
        detail = (
            "it scales each row by its own length, which no layer does; register a space of "
            "normalised anchors and leave it out"
            if name == "Normalizer"
            else f"expected steps of {', '.join(TRANSFORMERS)}"
        )
        raise InvalidInputError(f"{name} cannot be part of a head: {detail}")
    return TRANSFORMERS[name](transformer)


def _standard_scaler(scaler: Any) -> Affine:
    width = scaler.n_features_in_
    mean = np.zeros(width) if scaler.mean_ is None else np.asarray(scaler.mean_, np.float64)
    scale = np.ones(width) if scaler.scale_ is None else np.asarray(scaler.scale_, np.float64)
    # Its attributes are also those of with_mean=False and with_std=False, which have no effect.
    mean = mean if scaler.with_mean else np.zeros(width)
    scale = scale if scaler.with_std else np.ones(width)
    return 1 / scale, -mean / scale


def _max_abs_scaler(scaler: Any) -> Affine:
    if getattr(scaler, "clip", False):
        raise InvalidInputError("MaxAbsScaler with clip=True cannot be part of a head")
    scale = np.asarray(scaler.scale_, np.float64)
    return 1 / scale, np.zeros(len(scale))


def _min_max_scaler(scaler: Any) -> Affine:
    if scaler.clip:
        raise InvalidInputError("MinMaxScaler with clip=True cannot be part of a head")
    return np.asarray(scaler.scale_, np.float64), np.asarray(scaler.min_, np.float64)


def _pca(pca: Any) -> Affine:
    matrix = np.asarray(pca.components_, np.float64)
    if pca.whiten:
        deviations = np.sqrt(np.asarray(pca.explained_variance_, np.float64))
        # As scikit-learn does, so that components without variance stay finite.
        matrix = matrix / np.maximum(deviations, np.finfo(deviations.dtype).eps)[:, None]
    return matrix, -matrix @ np.asarray(pca.mean_, np.float64)


def _truncated_svd(svd: Any) -> Affine:
    matrix = np.asarray(svd.components_, np.float64)
    return matrix, np.zeros(len(matrix))


def _fold(weights: HeadWeights, step: Affine | None) -> HeadWeights:
    """The head of what comes before a step."""
    if step is None:
        return weights
    (matrix, offset), (weight, bias) = step, weights.layers[0]
    product = weight * matrix if matrix.ndim == 1 else weight @ matrix
    first = product, bias + weight @ offset
    return replace(weights, layers=(first, *weights.layers[1:]))


def _class_name(estimator: Any) -> str:
    """The name of a class of scikit-learn.

    Raises:
        InvalidInputError: If it is another's, which may compute anything under the same name.
    """
    class_ = type(estimator)
    if class_.__module__.split(".")[0] != "sklearn":
        raise InvalidInputError(
            f"expected an estimator of scikit-learn, got {class_.__module__}.{class_.__qualname__}"
        )
    return class_.__name__


CLASSIFIERS: Final[dict[str, Callable[[Any], HeadWeights]]] = {
    "LogisticRegression": _logistic_regression,
    "LogisticRegressionCV": _logistic_regression,
    "MLPClassifier": _mlp,
    "LinearSVC": _linear,
    "RidgeClassifier": _linear,
    "RidgeClassifierCV": _linear,
}
UNCALIBRATED: Final = ("LinearSVC", "RidgeClassifier", "RidgeClassifierCV")
"""Classifiers without probabilities."""
TRANSFORMERS: Final[dict[str, Callable[[Any], Affine]]] = {
    "StandardScaler": _standard_scaler,
    "MinMaxScaler": _min_max_scaler,
    "MaxAbsScaler": _max_abs_scaler,
    "PCA": _pca,
    "TruncatedSVD": _truncated_svd,
}
"""Affine steps of a pipeline."""
