"""A map, and a head behind it, as an ONNX model. The only file that imports onnx."""

from typing import Any, Final

import numpy as np
from onnx import helper, numpy_helper, parser

from stitchwork.geometry.classifier import Classifier
from stitchwork.resources import Arrays

HEADER: Final = '<ir_version: 8, opset_import: ["" : 17], producer_name: "stitchwork">'
"""Versions that runtimes of 2022 read."""
DIRECTION: Final = """
    {x}_size = Abs ({x})
    {x}_peak = ReduceMax <axes = [1], keepdims = 1> ({x}_size)
    {x}_some = Greater ({x}_peak, zero)
    {x}_held = LessOrEqual ({x}_peak, largest)
    {x}_sound = And ({x}_some, {x}_held)
    {x}_divisor = Where ({x}_sound, {x}_peak, one)
    {x}_scaled = Div ({x}, {x}_divisor)
    {x}_norm = ReduceL2 <axes = [1], keepdims = 1> ({x}_scaled)
    {x}_length = Mul ({x}_peak, {x}_norm)
    {x}_far = Greater ({x}_length, {least})
    {x}_known = And ({x}_sound, {x}_far)
    {x}_turned = Div ({x}_scaled, {x}_norm)
    {x}_unit = Where ({x}_known, {x}_turned, zero)
"""
"""Rows as unit rows; zeros where they are no longer than `least`, or not finite. Divided by their
largest number first, so that no square overflows or vanishes."""
CENTRED: Final = """
    near = Sub (embeddings, source_mean)
    x = Sub (near, source_mean_rest)
"""
READ: Final = {
    "linear": "    y = MatMul (x_unit, matrix)\n",
    "kernel": """
    cosines = MatMul (x_unit, landmarks)
    further = Sub (cosines, one)
    exponents = Mul (further, sharpness)
    kernel = Exp (exponents)
    y = MatMul (kernel, weights)
""",
}
WRITTEN: Final = """
    known = And (x_known, y_known)
    away = Mul (y_unit, scale)
    gone = Where (known, away, zero)
    translated = Add (gone, target_mean)
    defined = Squeeze (known, second)
"""
UNTOUCHED: Final = """
    translated = Identity (embeddings)
    defined = Squeeze (x_known, second)
"""
ACTIVATIONS: Final = {
    "identity": "    {y} = Identity ({x})\n",
    "relu": "    {y} = Relu ({x})\n",
    "tanh": "    {y} = Tanh ({x})\n",
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
NUMBERS: Final = {
    "zero": 0.0,
    "one": 1.0,
    "half": 0.5,
    "ten": 10.0,
    "minus_ten": -10.0,
    "largest": float(np.finfo(np.float32).max),
    "root_half": 0.5**0.5,
    "root_two_pi": (2 / np.pi) ** 0.5,
    "cubic": 0.044715,
}


def build(
    arrays: Arrays,
    told: dict[str, Any],
    meta: dict[str, str],
    width_in: int,
    width_out: int,
    classifier: Classifier | None,
) -> bytes:
    """The bytes of the model.

    Args:
        arrays: What the map is made of.
        told: Its kind and numbers.
        meta: The model's properties.
        width_in: d_X.
        width_out: d_Y.
        classifier: A head to append.
    """
    outputs = f"float[n, {width_out}] translated, bool[n] defined"
    steps = CENTRED + DIRECTION.format(x="x", least="closest")
    if told["kind"] in READ:
        steps += READ[told["kind"]] + DIRECTION.format(x="y", least="least") + WRITTEN
    else:
        steps += UNTOUCHED
    if classifier:
        outputs += "".join(f", float[n, {classifier.n_classes}] {x}" for x in SCORES)
        steps += _scored(classifier)
        arrays = {**arrays, **_weights(classifier)}
    named = f"stitch (float[n, {width_in}] embeddings) => ({outputs})"
    model = parser.parse_model(f"{HEADER}\n{named} {{{steps}}}")
    numbers = NUMBERS | {key: value for key, value in told.items() if key != "kind"}
    tensors: Arrays = {key: np.full((), value, np.float32) for key, value in numbers.items()}
    tensors |= {"second": np.ones(1, np.int64), **arrays}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        # Made contiguous by `asarray`, which leaves a number one, as `ascontiguousarray` does not.
        numpy_helper.from_array(np.asarray(array, order="C"), name)
        for name, array in tensors.items()
        if name in used
    )
    helper.set_model_props(model, meta)
    data: bytes = model.SerializeToString()
    return data


SCORES: Final = ("logits", "probabilities")


def _scored(classifier: Classifier) -> str:
    steps, x, last = "", "translated", len(classifier.layers) - 1
    for i in range(last + 1):
        y = "logits" if i == last else f"h{i}"
        steps += f"    {y} = Gemm <transB = 1> ({x}, weight{i}, bias{i})\n"
        if i < last:
            x = f"{y}_active"
            steps += ACTIVATIONS[classifier.activation].format(x=y, y=x)
    return steps + "    probabilities = Softmax <axis = 1> (logits)\n"


def _weights(classifier: Classifier) -> Arrays:
    found: Arrays = {}
    for i, (weight, bias) in enumerate(classifier.layers):
        found |= {f"weight{i}": weight, f"bias{i}": bias}
    return found
