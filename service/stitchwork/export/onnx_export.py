"""Maps, and heads after them, as ONNX models, which any runtime can apply."""

from collections.abc import Mapping

from stitchwork.errors import UnsupportedFormatError
from stitchwork.export.map_parameters import map_parameters
from stitchwork.geometry.classifier import Classifier
from stitchwork.geometry.maps import Map


def map_to_onnx(
    exported: Map, metadata: Mapping[str, str], classifier: Classifier | None = None
) -> bytes:
    """A model of `embeddings` (n, d_X) to `translated` (n, d_Y) and `defined` (n,).

    Args:
        exported: The map.
        metadata: Further properties of the model, such as the versions of the spaces.
        classifier: A head of the target space, which adds outputs `logits` and `probabilities`
            (n, c) or, of a regression, `values` (n, c).

    Raises:
        UnsupportedFormatError: If the package onnx is not installed.
    """
    try:
        from stitchwork.export import onnx_graph
    except ModuleNotFoundError as error:
        raise UnsupportedFormatError(
            "ONNX files need stitchwork[onnx], which is not installed; safetensors is supported"
        ) from error
    return onnx_graph.build(
        map_parameters(exported),
        metadata,
        exported.source_width,
        exported.target_width,
        classifier,
    )
