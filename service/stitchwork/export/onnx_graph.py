"""The ONNX graph of a map and a head. The only file that imports onnx."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from onnx import helper, numpy_helper, parser

from stitchwork.export.map_parameters import MapParameters
from stitchwork.export.onnx_head import HEAD_CONSTANTS, head_graph
from stitchwork.geometry.classifier import Classifier
from stitchwork.resources import Arrays

HEADER: Final = '<ir_version: 8, opset_import: ["" : 17], producer_name: "stitchwork">'
"""Versions that runtimes of 2022 read."""
UNIT_ROWS: Final = """
    {x}_magnitude = Abs ({x})
    {x}_peak = ReduceMax <axes = [1], keepdims = 1> ({x}_magnitude)
    {x}_nonzero = Greater ({x}_peak, zero)
    {x}_finite = LessOrEqual ({x}_peak, largest)
    {x}_valid = And ({x}_nonzero, {x}_finite)
    {x}_divisor = Where ({x}_valid, {x}_peak, one)
    {x}_scaled = Div ({x}, {x}_divisor)
    {x}_scaled_norm = ReduceL2 <axes = [1], keepdims = 1> ({x}_scaled)
    {x}_norm = Mul ({x}_peak, {x}_scaled_norm)
    {x}_long = Greater ({x}_norm, {min_norm})
    {x}_defined = And ({x}_valid, {x}_long)
    {x}_direction = Div ({x}_scaled, {x}_scaled_norm)
    {x}_unit = Where ({x}_defined, {x}_direction, zero)
"""
"""Rows as unit rows; zero rows where the norm is at most `min_norm`, or not finite. Rows are
divided by their largest number first, so that no square overflows or underflows."""
CENTRED: Final = """
    nearly_centred = Sub (embeddings, source_mean)
    x = Sub (nearly_centred, source_mean_rest)
"""
READ: Final = {
    "linear": "    y = MatMul (x_unit, matrix)\n",
    "kernel": """
    cosines = MatMul (x_unit, landmarks)
    differences = Sub (cosines, one)
    exponents = Mul (differences, sharpness)
    kernel = Exp (exponents)
    y = MatMul (kernel, weights)
""",
}
WRITE: Final = """
    row_defined = And (x_defined, y_defined)
    offset = Mul (y_unit, scale)
    defined_offset = Where (row_defined, offset, zero)
    {y} = Add (defined_offset, target_mean)
    defined = Squeeze (row_defined, second)
"""
UNIT: Final = "    translated = Identity (placed_unit)\n"
IDENTITY: Final = """
    translated = Identity (embeddings)
    defined = Squeeze (x_defined, second)
"""
CONSTANTS: Final = {"zero": 0.0, "one": 1.0, "largest": float(np.finfo(np.float32).max)}


def build(
    parameters: MapParameters,
    properties: Mapping[str, str],
    source_width: int,
    target_width: int,
    classifier: Classifier | None,
) -> bytes:
    """The bytes of a model.

    Args:
        parameters: What the map consists of.
        properties: The model's properties beside those of the map.
        source_width: d_X.
        target_width: d_Y.
        classifier: A head to append.
    """
    outputs = f"float[n, {target_width}] translated, bool[n] defined"
    steps = CENTRED + UNIT_ROWS.format(x="x", min_norm="min_distance")
    if parameters.kind in READ:
        steps += READ[parameters.kind] + UNIT_ROWS.format(x="y", min_norm="min_gain")
        if parameters.unit:
            steps += WRITE.format(y="placed") + UNIT_ROWS.format(x="placed", min_norm="zero") + UNIT
        else:
            steps += WRITE.format(y="translated")
    else:
        steps += IDENTITY
    arrays = parameters.arrays
    if classifier:
        head = head_graph(classifier)
        outputs += "".join(f", float[n, {classifier.n_outputs}] {name}" for name in head.outputs)
        steps += head.steps
        arrays = {**arrays, **head.arrays}
    signature = f"stitch (float[n, {source_width}] embeddings) => ({outputs})"
    model = parser.parse_model(f"{HEADER}\n{signature} {{{steps}}}")
    numbers = CONSTANTS | HEAD_CONSTANTS | parameters.numbers
    tensors: Arrays = {name: np.full((), value, np.float32) for name, value in numbers.items()}
    tensors |= {"second": np.ones(1, np.int64), **arrays}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        # `ascontiguousarray` would make a one-element array of a number.
        numpy_helper.from_array(np.asarray(array, order="C"), name)
        for name, array in tensors.items()
        if name in used
    )
    helper.set_model_props(model, {**parameters.metadata, **properties})
    data: bytes = model.SerializeToString()
    return data
