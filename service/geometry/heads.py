"""Heads: linear layers and MLPs, from embeddings to scores to probabilities."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from array_api_compat import array_namespace

from service.errors import InvalidInput
from service.geometry import Array

Layer = tuple[Array, Array]
"""weight (out, in), bias (out,)."""


def _identity(x: Array) -> Array:
    return x


def _relu(x: Array) -> Array:
    xp = array_namespace(x)
    return xp.where(x > 0, x, xp.zeros_like(x))


def _tanh(x: Array) -> Array:
    return array_namespace(x).tanh(x)


def _silu(x: Array) -> Array:
    return x * 0.5 * (1 + array_namespace(x).tanh(0.5 * x))


def _gelu(x: Array) -> Array:
    # The standard has no erf; this is torch's approximate="tanh", within 5e-4 of the exact form.
    return 0.5 * x * (1 + array_namespace(x).tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


ACTIVATIONS: Final[dict[str, Callable[[Array], Array]]] = {
    "identity": _identity,
    "relu": _relu,
    "tanh": _tanh,
    "silu": _silu,
    "gelu": _gelu,
}


@dataclass(frozen=True, slots=True)
class Classifier:
    """A linear head, or an MLP with one activation between its layers.

    Attributes:
        layers: From the embedding to the scores, each weight (out, in) and bias (out,).
        activation: Name in `ACTIVATIONS`; `gelu` is its tanh form.

    Raises:
        InvalidInput: If there is no layer, shapes do not follow on each other, or the activation
            is unknown.
    """

    layers: tuple[Layer, ...]
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InvalidInput(
                f"expected an activation of {', '.join(ACTIVATIONS)}, got {self.activation[:40]!r}",
                pointer="/activation",
            )
        if not self.layers:
            raise InvalidInput("expected at least one layer", pointer="/layers")
        width = None
        for i, (weight, bias) in enumerate(self.layers):
            if weight.ndim != 2 or bias.ndim != 1 or bias.shape[0] != weight.shape[0]:
                raise InvalidInput(
                    f"layer {i}: expected weight (out, in) and bias (out,), got "
                    f"{tuple(weight.shape)} and {tuple(bias.shape)}",
                    pointer=f"/layers/{i}",
                )
            if width not in (None, weight.shape[1]):
                raise InvalidInput(
                    f"layer {i}: expected {width} inputs as the layer before gives, got "
                    f"{weight.shape[1]}",
                    pointer=f"/layers/{i}",
                )
            width = weight.shape[0]

    @property
    def width(self) -> int:
        """Width of the embeddings it takes."""
        return int(self.layers[0][0].shape[1])

    @property
    def classes(self) -> int:
        """Number of classes it scores."""
        return int(self.layers[-1][0].shape[0])

    def on(self, convert: Callable[[Array], Array]) -> "Classifier":
        """The same classifier with every array converted, such as onto a device."""
        return replace(self, layers=tuple((convert(w), convert(b)) for w, b in self.layers))

    def logits(self, x: Array) -> Array:
        """Scores of embeddings.

        Args:
            x: (n, width) rows.

        Returns:
            (n, classes) scores.
        """
        activate = ACTIVATIONS[self.activation]
        for i, (weight, bias) in enumerate(self.layers):
            x = (activate(x) if i else x) @ weight.T + bias
        return x


def probabilities(logits: Array) -> Array:
    """Softmax of scores.

    Args:
        logits: (n, c) scores.

    Returns:
        (n, c) in [0, 1], rows sum to 1; finite whatever the scores, and a score that overflowed
        takes all.
    """
    xp = array_namespace(logits)
    largest = xp.finfo(logits.dtype).max
    bounded = xp.clip(logits, -largest, largest)
    shifted = xp.exp(bounded / 2 - xp.max(bounded / 2, axis=1, keepdims=True)) ** 2
    return shifted / xp.sum(shifted, axis=1, keepdims=True)
