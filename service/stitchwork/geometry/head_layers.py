"""Layers of heads: the arrays and options of each kind, and what it computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, pi, sqrt
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self, TypeAlias

from array_api_compat import array_namespace, device

from stitchwork.geometry import Array
from stitchwork.geometry.linalg import Convert, erf

Options: TypeAlias = Mapping[str, float | str]
NORMS: Final = ("l1", "l2", "max")
"""Norms that rows can be divided by."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer of a head.

    Attributes:
        kind: Name of its type in `LAYER_TYPES`.
        arrays: Its weights by the names of torch: `weight` (out, in) and `bias` (out,) of a linear
            layer, else vectors (d,).
        options: Its other parameters, such as `eps`; those that are absent have their defaults.
    """

    kind: str
    arrays: Mapping[str, Array] = field(default_factory=dict)
    options: Options = field(default_factory=dict)

    @property
    def inputs(self) -> int | None:
        """Width of its input; None if it takes any."""
        weight = self.arrays.get("weight")
        return None if weight is None else int(weight.shape[-1])

    @property
    def outputs(self) -> int | None:
        """Width of its output; None if it is that of its input."""
        weight = self.arrays.get("weight")
        return None if weight is None else int(weight.shape[0])

    def option(self, name: str) -> Any:
        """The value of an option, or its default."""
        return self.options.get(name, LAYER_TYPES[self.kind].options[name])

    def compute(self, x: Array) -> Array:
        """Its output (n, out) for rows (n, in)."""
        return LAYER_TYPES[self.kind].compute(self, x)

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with every array converted, such as moved to a device."""
        return replace(self, arrays={name: convert(a) for name, a in self.arrays.items()})


class LayerType(NamedTuple):
    """A kind of layer.

    Attributes:
        compute: Its output for a layer and rows.
        arrays: Names of its arrays.
        options: Names of its options, with their defaults.
    """

    compute: Callable[[Layer, Array], Array]
    arrays: tuple[str, ...] = ()
    options: Options = MappingProxyType({})


def _identity(x: Array) -> Array:
    return x


def _relu(x: Array) -> Array:
    return array_namespace(x).where(x > 0, x, 0.0)


def _tanh(x: Array) -> Array:
    return array_namespace(x).tanh(x)


def sigmoid(x: Array) -> Array:
    """The logistic function, elementwise."""
    # In terms of tanh, which saturates where exp would overflow.
    return 0.5 + 0.5 * array_namespace(x).tanh(0.5 * x)


def _log_sigmoid(x: Array) -> Array:
    xp = array_namespace(x)
    return xp.where(x < 0, x, 0.0) - xp.log1p(xp.exp(-xp.abs(x)))


def _silu(x: Array) -> Array:
    return x * sigmoid(x)


def _gelu(x: Array) -> Array:
    return x * (0.5 + 0.5 * erf(x / sqrt(2)))


def _gelu_tanh(x: Array) -> Array:
    xp = array_namespace(x)
    # Outside ±10 tanh is ±1 in any dtype, and the cube could overflow.
    clipped = xp.clip(x, -10.0, 10.0)
    return x * (0.5 + 0.5 * xp.tanh(sqrt(2 / pi) * (clipped + 0.044715 * clipped**3)))


ACTIVATIONS: Final[dict[str, Callable[[Array], Array]]] = {
    "identity": _identity,
    "relu": _relu,
    "tanh": _tanh,
    "sigmoid": sigmoid,
    "log_sigmoid": _log_sigmoid,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
"""Functions of each number: `gelu` is x Φ(x), `gelu_tanh` its tanh approximation."""


def _linear(layer: Layer, x: Array) -> Array:
    return x @ layer.arrays["weight"].T + layer.arrays["bias"]


def _layer_norm(layer: Layer, x: Array) -> Array:
    xp = array_namespace(x)
    centred = x - xp.mean(x, axis=1, keepdims=True)
    variance = xp.mean(centred * centred, axis=1, keepdims=True)
    scaled = centred / xp.sqrt(variance + layer.option("eps"))
    return scaled * layer.arrays["weight"] + layer.arrays["bias"]


def _batch_norm(layer: Layer, x: Array) -> Array:
    """As in evaluation: an affine function, by the running statistics."""
    xp, arrays = array_namespace(x), layer.arrays
    factor = arrays["weight"] / xp.sqrt(arrays["running_var"] + layer.option("eps"))
    return (x - arrays["running_mean"]) * factor + arrays["bias"]


def _normalize(layer: Layer, x: Array) -> Array:
    xp, norm = array_namespace(x), layer.option("norm")
    magnitudes = xp.abs(x)
    peak = xp.max(magnitudes, axis=1, keepdims=True)
    # By the largest number first, so that no square or sum overflows; zero rows stay zero.
    peak = xp.where(peak > 0, peak, 1.0)
    scaled = x / peak
    if norm == "max":
        return scaled
    if norm == "l1":
        length = xp.sum(magnitudes / peak, axis=1, keepdims=True)
    else:
        length = xp.sqrt(xp.sum(scaled * scaled, axis=1, keepdims=True))
    return scaled / xp.where(length > 0, length, 1.0)


def _leaky_relu(layer: Layer, x: Array) -> Array:
    return array_namespace(x).where(x > 0, x, layer.option("negative_slope") * x)


def _activation(function: Callable[[Array], Array]) -> LayerType:
    return LayerType(lambda _, x: function(x))


LAYER_TYPES: Final[dict[str, LayerType]] = {
    "linear": LayerType(_linear, ("weight", "bias")),
    "layer_norm": LayerType(_layer_norm, ("weight", "bias"), {"eps": 1e-5}),
    "batch_norm": LayerType(
        _batch_norm, ("weight", "bias", "running_mean", "running_var"), {"eps": 1e-5}
    ),
    "normalize": LayerType(_normalize, (), {"norm": "l2"}),
    "leaky_relu": LayerType(_leaky_relu, (), {"negative_slope": 0.01}),
    "dropout": _activation(_identity),
    **{name: _activation(function) for name, function in ACTIVATIONS.items()},
}
"""Kinds of layers: torch's modules of these names in evaluation, where dropout does nothing, and
`normalize`, scikit-learn's Normalizer."""
OPTIONAL_ARRAYS: Final[dict[str, dict[str, float]]] = {
    "linear": {"bias": 0.0},
    "layer_norm": {"weight": 1.0, "bias": 0.0},
    "batch_norm": {"weight": 1.0, "bias": 0.0},
}
"""Arrays that may be left out when a head is declared, with the number that they then hold."""


def complete_layers(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Layers with the arrays that may be left out: biases of zeros, and factors of ones.

    Without a linear layer nothing is added: no layer then says how wide rows are.
    """
    linear = [layer for layer in layers if layer.kind == "linear" and "weight" in layer.arrays]
    if not linear or any(layer.arrays["weight"].ndim != 2 for layer in linear):
        return tuple(layers)
    width, completed = linear[0].inputs, []
    for layer in layers:
        arrays = dict(layer.arrays)
        if layer.kind in OPTIONAL_ARRAYS and (layer.kind != "linear" or "weight" in arrays):
            if layer.kind == "linear":
                width = layer.outputs
            like = linear[0].arrays["weight"]
            xp = array_namespace(like)
            for name, number in OPTIONAL_ARRAYS[layer.kind].items():
                if name not in arrays:
                    arrays[name] = xp.full((width,), number, dtype=like.dtype, device=device(like))
        completed.append(replace(layer, arrays=arrays))
    return tuple(completed)


def layer_mismatch(layer: Layer, width: int | None) -> str | None:
    """What was expected of a layer and what came, as error messages say it; None if it is valid.

    Args:
        layer: The layer.
        width: Width of its input; None if it is the first with a width.
    """
    if layer.kind not in LAYER_TYPES:
        return f"one of {', '.join(LAYER_TYPES)}, got {layer.kind[:40]!r}"
    names = LAYER_TYPES[layer.kind].arrays
    if set(layer.arrays) != set(names):
        got = ", ".join(sorted(layer.arrays)) or "none"
        return f"the arrays {', '.join(names) or 'none'} of {layer.kind}, got {got}"
    return _array_mismatch(layer, width) or _option_mismatch(layer)


def _array_mismatch(layer: Layer, width: int | None) -> str | None:
    if not layer.arrays:
        return None
    weight = layer.arrays["weight"]
    others = [array for name, array in layer.arrays.items() if name != "weight"]
    shapes = " and ".join(str(tuple(array.shape)) for array in layer.arrays.values())
    is_linear = layer.kind == "linear"
    wrong = weight.ndim != (2 if is_linear else 1) or 0 in weight.shape
    if wrong or any(tuple(array.shape) != tuple(weight.shape[:1]) for array in others):
        expected = (
            "weight (out, in) and bias (out,)" if is_linear else f"{', '.join(layer.arrays)} (d,)"
        )
        return f"{expected}, got {shapes}"
    if width not in (None, layer.inputs):
        return f"{width} inputs, the outputs of the layer before, got {layer.inputs}"
    xp = array_namespace(weight)
    if not all(bool(xp.all(xp.isfinite(array))) for array in (weight, *others)):
        return "finite weights, got NaN or infinity"
    variance = layer.arrays.get("running_var")
    if variance is not None and not bool(xp.all(variance + layer.option("eps") > 0)):
        return "running_var and eps with a positive sum, got a variance that is not"
    return None


def _option_mismatch(layer: Layer) -> str | None:
    names = LAYER_TYPES[layer.kind].options
    unknown = [name for name in layer.options if name not in names]
    if unknown:
        return f"the options {', '.join(names) or 'none'} of {layer.kind}, got {unknown[0][:40]!r}"
    for name in names:
        value = layer.option(name)
        if name == "norm":
            if value not in NORMS:
                return f"a norm of {', '.join(NORMS)}, got {str(value)[:40]!r}"
        elif (
            not isinstance(value, float | int)
            or not isfinite(value)
            or (name == "eps" and value < 0)
        ):
            return f"{name} as a finite number{' from 0' if name == 'eps' else ''}, got {value!r}"
    return None
