"""The part of an ONNX graph that computes a head."""

from typing import Any, Final, NamedTuple

import numpy as np

from stitchwork.geometry.classifier import MULTI_LABEL, REGRESSION, Classifier
from stitchwork.geometry.head_layers import LAYER_TYPES, Layer
from stitchwork.resources import Arrays

LAYERS: Final = {
    "linear": "    {y} = Gemm <transB = 1> ({x}, {x}_weight, {x}_bias)\n",
    "layer_norm": """
    {y} = LayerNormalization <axis = -1, epsilon = {eps}> ({x}, {x}_weight, {x}_bias)
""",
    "batch_norm": """
    {x}_p = Sub ({x}, {x}_running_mean)
    {x}_q = Mul ({x}_p, {x}_factor)
    {y} = Add ({x}_q, {x}_bias)
""",
    "normalize": """
    {x}_magnitude = Abs ({x})
    {x}_peak = ReduceMax <axes = [1], keepdims = 1> ({x}_magnitude)
    {x}_nonzero = Greater ({x}_peak, zero)
    {x}_divisor = Where ({x}_nonzero, {x}_peak, one)
    {x}_scaled = Div ({x}, {x}_divisor)
    {x}_sizes = Abs ({x}_scaled)
    {x}_norm = {norm} <axes = [1], keepdims = 1> ({x}_sizes)
    {x}_length = Where ({x}_nonzero, {x}_norm, one)
    {y} = Div ({x}_scaled, {x}_length)
""",
    "leaky_relu": "    {y} = LeakyRelu <alpha = {negative_slope}> ({x})\n",
    "dropout": "    {y} = Identity ({x})\n",
    "identity": "    {y} = Identity ({x})\n",
    "relu": "    {y} = Relu ({x})\n",
    "tanh": "    {y} = Tanh ({x})\n",
    "sigmoid": "    {y} = Sigmoid ({x})\n",
    "log_sigmoid": """
    {x}_m = Neg ({x})
    {x}_s = Softplus ({x}_m)
    {y} = Neg ({x}_s)
""",
    "silu": "    {x}_s = Sigmoid ({x})\n    {y} = Mul ({x}, {x}_s)\n",
    "gelu": """
    {x}_z = Mul ({x}, root_half)
    {x}_e = Erf ({x}_z)
    {x}_f = Add ({x}_e, one)
    {x}_g = Mul ({x}_f, half)
    {y} = Mul ({x}, {x}_g)
""",
    "gelu_tanh": """
    {x}_n = Clip ({x}, minus_ten, ten)
    {x}_q = Mul ({x}_n, {x}_n)
    {x}_k = Mul ({x}_q, {x}_n)
    {x}_c = Mul ({x}_k, cubic)
    {x}_a = Add ({x}_n, {x}_c)
    {x}_r = Mul ({x}_a, root_two_pi)
    {x}_t = Tanh ({x}_r)
    {x}_f = Add ({x}_t, one)
    {x}_g = Mul ({x}_f, half)
    {y} = Mul ({x}, {x}_g)
""",
}
"""The steps of each kind of layer, from `x` to `y`."""
NORMS: Final = {"l1": "ReduceL1", "l2": "ReduceL2", "max": "ReduceMax"}
HEAD_CONSTANTS: Final = {
    "half": 0.5,
    "ten": 10.0,
    "minus_ten": -10.0,
    "root_half": 0.5**0.5,
    "root_two_pi": (2 / np.pi) ** 0.5,
    "cubic": 0.044715,
}


class HeadGraph(NamedTuple):
    """The part of a graph that computes a head.

    Attributes:
        steps: Its text, from `translated`.
        outputs: Names of its outputs, each (n, c).
        arrays: Its arrays by name.
    """

    steps: str
    outputs: tuple[str, ...]
    arrays: Arrays


def head_graph(classifier: Classifier) -> HeadGraph:
    """The graph of a head: `values` of a regression, else `logits` and `probabilities`."""
    is_regression = classifier.problem_type == REGRESSION
    name = "values" if is_regression else "logits"
    steps, arrays, count = "", Arrays(), len(classifier.layers)
    x = "layer0"
    steps += f"    {x} = Identity (translated)\n"
    for i, layer in enumerate(classifier.layers):
        y = name if i == count - 1 else f"layer{i + 1}"
        steps += LAYERS[layer.kind].format(x=x, y=y, **_options(layer))
        arrays |= {f"{x}_{key}": np.asarray(array) for key, array in _arrays(layer).items()}
        x = y
    if is_regression:
        return HeadGraph(steps, (name,), arrays)
    function = "Sigmoid" if classifier.problem_type == MULTI_LABEL else "Softmax <axis = 1>"
    arrays["temperature"] = np.full((), classifier.temperature, np.float32)
    steps += "    scaled_logits = Div (logits, temperature)\n"
    steps += f"    probabilities = {function} (scaled_logits)\n"
    return HeadGraph(steps, (name, "probabilities"), arrays)


def _options(layer: Layer) -> dict[str, Any]:
    """The options of a layer as attributes of ONNX."""
    options = {name: layer.option(name) for name in LAYER_TYPES[layer.kind].options}
    if "norm" in options:
        return {"norm": NORMS[options["norm"]]}
    # Without an exponent, which the parser of graphs refuses.
    return {name: np.format_float_positional(value, trim="0") for name, value in options.items()}


def _arrays(layer: Layer) -> Arrays:
    """The arrays of a layer as its steps name them."""
    arrays = dict(layer.arrays)
    if layer.kind == "batch_norm":
        variance = arrays.pop("running_var") + np.float32(layer.option("eps"))
        arrays["factor"] = arrays.pop("weight") / np.sqrt(variance)
    return arrays
