"""Heads: linear layers and MLPs, from embeddings to scores to probabilities."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi, sqrt
from typing import Final, TypeAlias

from array_api_compat import array_namespace

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.linalg import Convert, quiet

Layer: TypeAlias = tuple[Array, Array]
"""weight (out, in), bias (out,)."""

LARGE: Final = 2.0**40
"""About 1e12: rows whose scores overflowed are shrunk to this and scored again."""


def _identity(x: Array) -> Array:
    return x


def _relu(x: Array) -> Array:
    return array_namespace(x).where(x > 0, x, 0.0)


def _tanh(x: Array) -> Array:
    return array_namespace(x).tanh(x)


def _silu(x: Array) -> Array:
    # The logistic function by tanh, which saturates where exp would overflow.
    return x * (0.5 + 0.5 * array_namespace(x).tanh(0.5 * x))


def _gelu(x: Array) -> Array:
    """The exact gelu, x Φ(x), as torch.nn.GELU() has it.

    The standard has no erf. Abramowitz and Stegun, Handbook of Mathematical Functions, formula
    7.1.26, is within 1.5e-7 of it, which is float32's own rounding.
    """
    xp = array_namespace(x)
    # Beyond 10 the tail is below the smallest float32, and the square could overflow.
    z = xp.clip(xp.abs(x) / sqrt(2), None, 10.0)
    t = 1 / (1 + 0.3275911 * z)
    terms = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    tail = terms[0] * t
    for term in terms[1:]:
        tail = (tail + term) * t
    tail = 0.5 * tail * xp.exp(-z * z)
    return x * xp.where(x > 0, 1 - tail, tail)


def _gelu_tanh(x: Array) -> Array:
    """The tanh form of gelu, as torch.nn.GELU(approximate="tanh") has it."""
    xp = array_namespace(x)
    # Beyond 10 tanh is ±1 in any dtype, and the cube could overflow.
    near = xp.clip(x, -10.0, 10.0)
    return x * (0.5 + 0.5 * xp.tanh(sqrt(2 / pi) * (near + 0.044715 * near**3)))


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
    """A linear head, or an MLP with one activation between its layers.

    Attributes:
        layers: From the embedding to the scores, each weight (out, in) and bias (out,).
        activation: Name in `ACTIVATIONS`: `gelu` is x Φ(x), `gelu_tanh` its tanh form.

    Raises:
        InvalidInputError: If there is no layer, shapes do not follow on each other, a number is not
            finite, or the activation is unknown.
    """

    layers: tuple[Layer, ...]
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InvalidInputError(
                f"expected an activation of {', '.join(ACTIVATIONS)}, got {self.activation[:40]!r}",
                pointer="/activation",
            )
        if not self.layers:
            raise InvalidInputError("expected at least one layer, got none", pointer="/layers")
        width = None
        for i, (weight, bias) in enumerate(self.layers):
            problem = _problem(weight, bias, width)
            if problem:
                raise InvalidInputError(f"layer {i}: expected {problem}", pointer=f"/layers/{i}")
            width = weight.shape[0]

    @property
    def width(self) -> int:
        """Width of the embeddings it takes, d."""
        return int(self.layers[0][0].shape[1])

    @property
    def classes(self) -> int:
        """Number of classes it scores, c."""
        return int(self.layers[-1][0].shape[0])

    def on(self, convert: Convert) -> "Classifier":
        """The same classifier with every array converted, such as onto a device."""
        return replace(self, layers=tuple((convert(w), convert(b)) for w, b in self.layers))

    def logits(self, x: Array) -> Array:
        """Scores of embeddings; see the function of this name."""
        return logits(self, x)


def logits(classifier: Classifier, x: Array) -> Array:
    """Scores of embeddings.

    Args:
        classifier: The head.
        x: (n, d) rows of the head's space.

    Returns:
        (n, c) scores in the dtype of the weights, always finite: a row whose scores overflow is
        scored as the row of its direction at about 1e12, and what overflows even so is 0.

    Raises:
        InvalidInputError: If the rows are not of the head's width.
    """
    if x.ndim != 2 or x.shape[1] != classifier.width:
        raise InvalidInputError(
            f"expected rows of shape (n, {classifier.width}), got {tuple(x.shape)}"
        )
    weight, _ = classifier.layers[0]
    xp = array_namespace(x, weight)
    with quiet():
        x = xp.astype(x, weight.dtype, copy=False)
        scores = _scores(classifier, x)
        lost = ~xp.all(xp.isfinite(scores), axis=1)
        if bool(xp.any(lost)):
            rows = x[lost, :]
            peak = xp.max(xp.abs(rows), axis=1, keepdims=True)
            again = _scores(classifier, rows / peak * xp.clip(peak, None, LARGE))
            scores[lost, :] = xp.where(xp.isfinite(again), again, 0.0)
    return scores


def probabilities(logits: Array) -> Array:
    """Softmax of scores.

    Args:
        logits: (n, c) scores.

    Returns:
        (n, c) in [0, 1], rows that sum to 1. Always finite: an infinite score counts as the
        largest finite one, NaN as 0. Adding a number to a row's scores leaves it unchanged.
    """
    xp = array_namespace(logits)
    limit = float(xp.finfo(logits.dtype).max)
    known = xp.clip(xp.where(xp.isnan(logits), 0.0, logits), -limit, limit)
    # Halved, because the difference of two finite scores may overflow.
    half = 0.5 * known
    shares = xp.exp(half - xp.max(half, axis=1, keepdims=True)) ** 2
    return shares / xp.sum(shares, axis=1, keepdims=True)


def _scores(classifier: Classifier, x: Array) -> Array:
    activate = ACTIVATIONS[classifier.activation]
    for i, (weight, bias) in enumerate(classifier.layers):
        x = (activate(x) if i else x) @ weight.T + bias
    return x


def _problem(weight: Array, bias: Array, width: int | None) -> str | None:
    """What a layer should have been and what it is, where they differ."""
    xp = array_namespace(weight, bias)
    shapes = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
    if weight.ndim != 2 or bias.ndim != 1 or bias.shape[0] != weight.shape[0] or 0 in weight.shape:
        return f"weight (out, in) and bias (out,), got {shapes}"
    if width not in (None, weight.shape[1]):
        return f"{width} inputs as the layer before gives, got {weight.shape[1]}"
    if not bool(xp.all(xp.isfinite(weight))) or not bool(xp.all(xp.isfinite(bias))):
        return "finite weights, got NaN or infinity"
    return None
