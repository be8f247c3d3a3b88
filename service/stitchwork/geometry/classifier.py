"""Classifiers: linear heads and MLPs, from embeddings to logits to probabilities."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi, sqrt
from typing import Final, Self, TypeAlias

from array_api_compat import array_namespace

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.linalg import Convert, erf, suppress_warnings

Layer: TypeAlias = tuple[Array, Array]
"""weight (out, in), bias (out,)."""
Activation: TypeAlias = str | tuple[str, ...]
"""One activation for all layers, or one between each two."""

MAX_SIZE: Final = 2.0**40
"""About 1e12: rows whose scores overflowed are scaled down to this and scored again."""


def _identity(x: Array) -> Array:
    return x


def _relu(x: Array) -> Array:
    return array_namespace(x).where(x > 0, x, 0.0)


def _tanh(x: Array) -> Array:
    return array_namespace(x).tanh(x)


def _silu(x: Array) -> Array:
    # The logistic function in terms of tanh, which saturates where exp would overflow.
    return x * (0.5 + 0.5 * array_namespace(x).tanh(0.5 * x))


def _gelu(x: Array) -> Array:
    """The exact GELU, x Φ(x), as torch.nn.GELU()."""
    return x * (0.5 + 0.5 * erf(x / sqrt(2)))


def _gelu_tanh(x: Array) -> Array:
    """The tanh approximation of GELU, as torch.nn.GELU(approximate="tanh")."""
    xp = array_namespace(x)
    # Outside ±10 tanh is ±1 in any dtype, and the cube could overflow.
    clipped = xp.clip(x, -10.0, 10.0)
    return x * (0.5 + 0.5 * xp.tanh(sqrt(2 / pi) * (clipped + 0.044715 * clipped**3)))


ACTIVATIONS: Final[dict[str, Callable[[Array], Array]]] = {
    "identity": _identity,
    "relu": _relu,
    "tanh": _tanh,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A linear head, or an MLP.

    Attributes:
        layers: From embedding to logits, each weight (out, in) and bias (out,).
        activation: Name in `ACTIVATIONS` of the activation between all layers, or one name for
            each pair of neighbours: `gelu` is x Φ(x), `gelu_tanh` its tanh approximation.

    Raises:
        InvalidInputError: If there is no layer, a layer's input width is not the output width of
            the one before, a number is not finite, an activation is unknown, or there is not one
            for each pair of layers.
    """

    layers: tuple[Layer, ...]
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        names = (self.activation,) if isinstance(self.activation, str) else self.activation
        for name in names:
            if name not in ACTIVATIONS:
                raise InvalidInputError(
                    f"expected an activation of {', '.join(ACTIVATIONS)}, got {name[:40]!r}",
                    pointer="/activation",
                )
        if not self.layers:
            raise InvalidInputError("expected at least one layer, got none", pointer="/layers")
        if names is self.activation and len(names) != len(self.layers) - 1:
            raise InvalidInputError(
                f"expected {len(self.layers) - 1} activations, one between each two of "
                f"{len(self.layers)} layers, got {len(names)}",
                pointer="/activation",
            )
        width = None
        for i, (weight, bias) in enumerate(self.layers):
            mismatch = _layer_mismatch(weight, bias, width)
            if mismatch:
                raise InvalidInputError(f"layer {i}: expected {mismatch}", pointer=f"/layers/{i}")
            width = weight.shape[0]

    @property
    def activations(self) -> tuple[str, ...]:
        """The activation between each two layers."""
        if isinstance(self.activation, str):
            return (self.activation,) * (len(self.layers) - 1)
        return self.activation

    @property
    def width(self) -> int:
        """Width of its input embeddings, d."""
        return int(self.layers[0][0].shape[1])

    @property
    def n_classes(self) -> int:
        """Number of classes, c."""
        return int(self.layers[-1][0].shape[0])

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with every array converted, such as moved to a device."""
        return replace(self, layers=tuple((convert(w), convert(b)) for w, b in self.layers))

    def logits(self, x: Array) -> Array:
        """Logits of embeddings; see the function `logits`."""
        return logits(self, x)


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
    if x.ndim != 2 or x.shape[1] != classifier.width:
        raise InvalidInputError(
            f"expected rows of shape (n, {classifier.width}), got {tuple(x.shape)}"
        )
    weight, _ = classifier.layers[0]
    xp = array_namespace(x, weight)
    with suppress_warnings():
        x = xp.astype(x, weight.dtype, copy=False)
        scores = _forward(classifier, x)
        overflowed = ~xp.all(xp.isfinite(scores), axis=1)
        if bool(xp.any(overflowed)):
            rows = x[overflowed, :]
            peak = xp.max(xp.abs(rows), axis=1, keepdims=True)
            rescaled = _forward(classifier, rows / peak * xp.clip(peak, None, MAX_SIZE))
            scores[overflowed, :] = xp.where(xp.isfinite(rescaled), rescaled, 0.0)
    return scores


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
    if classifier.n_classes != 1:
        raise InvalidInputError(f"expected a single score, got {classifier.n_classes}")
    *hidden, (weight, bias) = classifier.layers
    xp = array_namespace(weight, bias)
    expanded = (
        xp.concat([xp.zeros_like(weight), weight], axis=0),
        xp.concat([xp.zeros_like(bias), bias], axis=0),
    )
    return replace(classifier, layers=(*hidden, expanded))


def probabilities(logits: Array) -> Array:
    """Softmax of logits.

    Args:
        logits: (n, c).

    Returns:
        (n, c) in [0, 1], rows that sum to 1. Always finite: an infinite logit counts as the
        largest finite number, NaN as 0. Adding a number to a row's logits leaves it unchanged.
    """
    xp = array_namespace(logits)
    limit = float(xp.finfo(logits.dtype).max)
    finite = xp.clip(xp.where(xp.isnan(logits), 0.0, logits), -limit, limit)
    # Halved, because the difference of two finite logits may overflow.
    half = 0.5 * finite
    exponentials = xp.exp(half - xp.max(half, axis=1, keepdims=True)) ** 2
    return exponentials / xp.sum(exponentials, axis=1, keepdims=True)


def _forward(classifier: Classifier, x: Array) -> Array:
    steps = [_identity, *(ACTIVATIONS[name] for name in classifier.activations)]
    for activate, (weight, bias) in zip(steps, classifier.layers, strict=True):
        x = activate(x) @ weight.T + bias
    return x


def _layer_mismatch(weight: Array, bias: Array, width: int | None) -> str | None:
    """What was expected of a layer and what came, as error messages say it; None if valid."""
    xp = array_namespace(weight, bias)
    shapes = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
    if weight.ndim != 2 or bias.ndim != 1 or bias.shape[0] != weight.shape[0] or 0 in weight.shape:
        return f"weight (out, in) and bias (out,), got {shapes}"
    if width not in (None, weight.shape[1]):
        return f"{width} inputs, the outputs of the layer before, got {weight.shape[1]}"
    if not bool(xp.all(xp.isfinite(weight))) or not bool(xp.all(xp.isfinite(bias))):
        return "finite weights, got NaN or infinity"
    return None
