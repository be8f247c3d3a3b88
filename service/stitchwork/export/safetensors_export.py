"""Maps as safetensors files, which any program can apply."""

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save

from stitchwork.export.map_parameters import map_parameters
from stitchwork.geometry.coverage import Coverage
from stitchwork.geometry.maps import Map


def map_to_safetensors(
    exported: Map, metadata: Mapping[str, str], coverage: Coverage | None = None
) -> bytes:
    """A file with the arrays of a map; its metadata has the map's kind and numbers as texts.

    Args:
        exported: The map.
        metadata: Further metadata, such as the versions of the spaces.
        coverage: Which inputs the anchors of the source cover: `coverage_mean` (d_X,),
            `coverage_axes` (d_X, p) and the number `coverage_threshold`.
    """
    parameters = map_parameters(exported)
    texts = {name: str(value) for name, value in parameters.numbers.items()}
    arrays = dict(parameters.arrays)
    if coverage:
        arrays |= {"coverage_mean": coverage.mean, "coverage_axes": coverage.axes}
        texts["coverage_threshold"] = str(coverage.threshold)
    return save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        {**parameters.metadata, **texts, **metadata},
    )
