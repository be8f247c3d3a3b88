"""Steps of scikit-learn pipelines before an estimator, as layers of a head."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.client.head_weights import LayerWeights
from stitchwork.errors import InvalidInputError

Float64s: TypeAlias = NDArray[np.float64]
Affine: TypeAlias = tuple[Float64s, Float64s]
"""matrix (d_out, d_in), or its diagonal (d,), and offset (d_out,): y = x matrixᵀ + offset."""

MAX_OFFSET: Final = 100.0
"""Larger offsets, in units of the deviation, are not folded: their float32 sums would cancel."""


def class_name(estimator: Any) -> str:
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


def prepend(step: Any, layers: list[LayerWeights]) -> list[LayerWeights]:
    """The layers of a head of what comes before a step.

    Raises:
        InvalidInputError: If no layer computes the step.
    """
    if step is None or isinstance(step, str):
        return layers
    name = class_name(step)
    if name == "Normalizer":
        return [LayerWeights("normalize", options={"norm": step.norm}), *layers]
    if name not in TRANSFORMERS:
        raise InvalidInputError(
            f"{name} cannot be part of a head: expected steps of Normalizer, "
            f"{', '.join(TRANSFORMERS)}"
        )
    matrix, offset = TRANSFORMERS[name](step)
    first = layers[0]
    if first.kind == "linear" and (matrix.ndim == 2 or np.abs(offset).max() <= MAX_OFFSET):
        weight, bias = first.arrays["weight"], first.arrays["bias"]
        product = weight * matrix if matrix.ndim == 1 else weight @ matrix
        folded = {"weight": product, "bias": bias + weight @ offset}
        return [LayerWeights("linear", folded), *layers[1:]]
    return [_layer(matrix, offset), *layers]


def _layer(matrix: Float64s, offset: Float64s) -> LayerWeights:
    if matrix.ndim == 2:
        return LayerWeights("linear", {"weight": matrix, "bias": offset})
    ones = np.ones(len(matrix))
    arrays = {"weight": matrix, "running_mean": -offset / matrix, "running_var": ones}
    return LayerWeights("batch_norm", arrays, {"eps": 0.0})


def flatten(steps: Iterable[Any]) -> Iterator[Any]:
    """The steps of a pipeline, with those of the pipelines among them."""
    for step in steps:
        if type(step).__name__ == "Pipeline":
            yield from flatten(part for _, part in step.steps)
        else:
            yield step


def _standard_scaler(scaler: Any) -> Affine:
    width = scaler.n_features_in_
    mean = np.zeros(width) if scaler.mean_ is None else np.asarray(scaler.mean_, np.float64)
    scale = np.ones(width) if scaler.scale_ is None else np.asarray(scaler.scale_, np.float64)
    # Its attributes are also those of with_mean=False and with_std=False, which have no effect.
    mean = mean if scaler.with_mean else np.zeros(width)
    scale = scale if scaler.with_std else np.ones(width)
    return 1 / scale, -mean / scale


def _robust_scaler(scaler: Any) -> Affine:
    width = scaler.n_features_in_
    centre = np.asarray(scaler.center_, np.float64) if scaler.with_centering else np.zeros(width)
    scale = np.asarray(scaler.scale_, np.float64) if scaler.with_scaling else np.ones(width)
    return 1 / scale, -centre / scale


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


TRANSFORMERS: Final[dict[str, Callable[[Any], Affine]]] = {
    "StandardScaler": _standard_scaler,
    "RobustScaler": _robust_scaler,
    "MinMaxScaler": _min_max_scaler,
    "MaxAbsScaler": _max_abs_scaler,
    "PCA": _pca,
    "IncrementalPCA": _pca,
    "TruncatedSVD": _truncated_svd,
}
"""Affine steps of a pipeline."""
