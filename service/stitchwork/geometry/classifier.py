"""Classifiers: the layers of a head, from embeddings to logits, and what logits mean."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final, Literal, Self, TypeAlias

from array_api_compat import array_namespace

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.head_layers import ACTIVATIONS, Layer, layer_mismatch, sigmoid
from stitchwork.geometry.linalg import Convert, suppress_warnings

ProblemType: TypeAlias = Literal[
    "single_label_classification", "multi_label_classification", "regression"
]
"""What a head predicts, in the words of transformers' configs."""

SINGLE_LABEL: Final[ProblemType] = "single_label_classification"
MULTI_LABEL: Final[ProblemType] = "multi_label_classification"
REGRESSION: Final[ProblemType] = "regression"
MAX_SIZE: Final = 2.0**40
"""About 1e12: rows whose logits overflowed are scaled down to this and computed again."""


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """The layers of a head.

    Attributes:
        layers: From embedding to logits; at least one is linear.
        problem_type: One label (softmax of the logits), any number of labels (the sigmoid of each
            logit) or a regression (the logits are values).
        temperature: Logits are divided by it before the softmax or the sigmoid.

    Raises:
        InvalidInputError: If no layer is linear, a layer is invalid or takes another width than
            the one before gives, or the temperature is not positive, or is not 1 for a regression.
    """

    layers: tuple[Layer, ...]
    problem_type: ProblemType = SINGLE_LABEL
    temperature: float = 1.0

    def __post_init__(self) -> None:
        width = None
        for i, layer in enumerate(self.layers):
            mismatch = layer_mismatch(layer, width)
            if mismatch:
                raise InvalidInputError(f"layer {i}: expected {mismatch}", pointer=f"/layers/{i}")
            width = layer.outputs or width
        if all(layer.kind != "linear" for layer in self.layers):
            raise InvalidInputError(
                "expected at least one linear layer, got none", pointer="/layers"
            )
        if not (isfinite(self.temperature) and self.temperature > 0):
            raise InvalidInputError(
                f"expected a temperature above 0, got {self.temperature:g}", pointer="/temperature"
            )
        if self.problem_type == REGRESSION and self.temperature != 1:
            raise InvalidInputError(
                "expected no temperature for a regression, whose values are no probabilities",
                pointer="/temperature",
            )

    @property
    def width(self) -> int:
        """Width of its input embeddings, d."""
        return next(layer.inputs for layer in self.layers if layer.inputs)

    @property
    def n_outputs(self) -> int:
        """Number of logits, c."""
        return next(layer.outputs for layer in reversed(self.layers) if layer.outputs)

    @property
    def nbytes(self) -> int:
        """Size of its arrays, in bytes."""
        return sum(int(array.nbytes) for layer in self.layers for array in layer.arrays.values())

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with every array converted, such as moved to a device."""
        return replace(self, layers=tuple(layer.convert_arrays(convert) for layer in self.layers))

    def logits(self, x: Array) -> Array:
        """Logits of embeddings; see the function `logits`."""
        return logits(self, x)

    def scores(self, x: Array) -> Array:
        """Probabilities or values of embeddings; see the function `scores`."""
        return scores(self, x)


def mlp(
    layers: Sequence[tuple[Array, Array]], activation: str | Sequence[str] = "relu"
) -> Classifier:
    """A classifier of linear layers with activations between them.

    Args:
        layers: Each weight (out, in) and bias (out,).
        activation: See `add_activations`.

    Raises:
        InvalidInputError: If the activations or the layers do not fit.
    """
    parts = [Layer("linear", {"weight": weight, "bias": bias}) for weight, bias in layers]
    return Classifier(add_activations(parts, activation))


def add_activations(layers: Sequence[Layer], activation: str | Sequence[str]) -> tuple[Layer, ...]:
    """Layers with an activation between each two.

    Args:
        layers: The layers.
        activation: Name in `ACTIVATIONS` of all activations, or one name for each pair of
            neighbours.

    Raises:
        InvalidInputError: If an activation is unknown, or there is not one for each pair.
    """
    count = max(0, len(layers) - 1)
    names = [activation] if isinstance(activation, str) else activation
    for name in names:
        if name not in ACTIVATIONS:
            raise InvalidInputError(
                f"expected an activation of {', '.join(ACTIVATIONS)}, got {name[:40]!r}",
                pointer="/activation",
            )
    if isinstance(activation, str):
        names = [activation] * count
    if len(names) != count:
        raise InvalidInputError(
            f"expected {count} activations, one between each two of {len(layers)} layers, got "
            f"{len(names)}",
            pointer="/activation",
        )
    result = [*layers[:1]]
    for name, layer in zip(names, layers[1:], strict=True):
        result += [Layer(name), layer]
    return tuple(result)


def logits(classifier: Classifier, x: Array) -> Array:
    """Logits of embeddings.

    Args:
        classifier: The head.
        x: (n, d) rows of the head's space.

    Returns:
        (n, c) in the dtype of the weights, always finite: a row whose logits overflow gets those
        of the row of its direction at a size of about 1e12, and what overflows even then is 0.

    Raises:
        InvalidInputError: If the rows do not have the head's width.
    """
    x = _rows(classifier, x)
    xp = array_namespace(x)
    with suppress_warnings():
        result = _forward(classifier, x)
        overflowed = ~xp.all(xp.isfinite(result), axis=1)
        if bool(xp.any(overflowed)):
            rows = x[overflowed, :]
            peak = xp.max(xp.abs(rows), axis=1, keepdims=True)
            rescaled = _forward(classifier, rows / peak * xp.clip(peak, None, MAX_SIZE))
            result[overflowed, :] = xp.where(xp.isfinite(rescaled), rescaled, 0.0)
    return result


def scores(classifier: Classifier, x: Array) -> Array:
    """What a head predicts for embeddings.

    Args:
        classifier: The head.
        x: (n, d) rows of the head's space.

    Returns:
        (n, c) in the dtype of the weights, always finite: probabilities of one label, in rows that
        sum to 1; probabilities of each label; or the values of a regression, where a value that
        overflows is the largest finite number.

    Raises:
        InvalidInputError: If the rows do not have the head's width.
    """
    if classifier.problem_type == REGRESSION:
        with suppress_warnings():
            return _finite(_forward(classifier, _rows(classifier, x)))
    scaled = logits(classifier, x)
    if classifier.temperature != 1:
        scaled = scaled / classifier.temperature
    return sigmoid(scaled) if classifier.problem_type == MULTI_LABEL else probabilities(scaled)


def expand_binary(classifier: Classifier) -> Classifier:
    """A classifier of two classes from one with a single score.

    Args:
        classifier: Its only score z is the logit of the second class, as that of scikit-learn's
            binary LogisticRegression or of a network trained with a sigmoid.

    Returns:
        The same layers, with logits (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)).

    Raises:
        InvalidInputError: If it has more than one score.
    """
    if classifier.n_outputs != 1:
        raise InvalidInputError(f"expected a single score, got {classifier.n_outputs}")
    *hidden, last = classifier.layers
    if last.kind != "linear":
        weight = next(layer.arrays["weight"] for layer in hidden if layer.kind == "linear")
        xp = array_namespace(weight)
        one = xp.ones_like(weight[:1, :1])
        hidden = [*classifier.layers]
        last = Layer("linear", {"weight": one, "bias": one[:, 0] * 0})
    weight, bias = last.arrays["weight"], last.arrays["bias"]
    xp = array_namespace(weight, bias)
    arrays = {
        "weight": xp.concat([xp.zeros_like(weight), weight], axis=0),
        "bias": xp.concat([xp.zeros_like(bias), bias], axis=0),
    }
    return replace(classifier, layers=(*hidden, replace(last, arrays=arrays)))


def probabilities(logits: Array) -> Array:
    """Softmax of logits.

    Args:
        logits: (n, c).

    Returns:
        (n, c) in [0, 1], rows that sum to 1. Always finite: an infinite logit counts as the
        largest finite number, NaN as 0. Adding a number to a row's logits leaves it unchanged.
    """
    xp = array_namespace(logits)
    # Halved, because the difference of two finite logits may overflow.
    half = 0.5 * _finite(logits)
    exponentials = xp.exp(half - xp.max(half, axis=1, keepdims=True)) ** 2
    return exponentials / xp.sum(exponentials, axis=1, keepdims=True)


def _finite(x: Array) -> Array:
    """An infinite number as the largest finite one, NaN as 0."""
    xp = array_namespace(x)
    limit = float(xp.finfo(x.dtype).max)
    return xp.clip(xp.where(xp.isnan(x), 0.0, x), -limit, limit)


def _rows(classifier: Classifier, x: Array) -> Array:
    """Rows in the dtype of the weights.

    Raises:
        InvalidInputError: If they do not have the head's width.
    """
    if x.ndim != 2 or x.shape[1] != classifier.width:
        raise InvalidInputError(
            f"expected rows of shape (n, {classifier.width}), got {tuple(x.shape)}"
        )
    weight = next(layer.arrays["weight"] for layer in classifier.layers if layer.arrays)
    xp = array_namespace(x, weight)
    with suppress_warnings():
        return xp.astype(x, weight.dtype, copy=False)


def _forward(classifier: Classifier, x: Array) -> Array:
    for layer in classifier.layers:
        x = layer.compute(x)
    return x
