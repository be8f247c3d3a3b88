"""Maps as safetensors files, which any program can apply."""

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save

from stitchwork.export.map_parameters import map_parameters
from stitchwork.geometry.maps import Map


def map_to_safetensors(exported: Map, metadata: Mapping[str, str]) -> bytes:
    """A file with the arrays of a map; its metadata has the map's kind and numbers as texts.

    Args:
        exported: The map.
        metadata: Further metadata, such as the versions of the spaces.
    """
    parameters = map_parameters(exported)
    texts = {name: str(value) for name, value in parameters.numbers.items()}
    return save(
        {name: np.ascontiguousarray(array) for name, array in parameters.arrays.items()},
        {**parameters.metadata, **texts, **metadata},
    )
