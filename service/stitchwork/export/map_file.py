"""Reads the safetensors file of a map, as `map_to_safetensors` writes it."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from stitchwork.errors import InvalidInputError
from stitchwork.export.map_parameters import FORMAT, UNIT_FORMAT
from stitchwork.geometry.coverage import Coverage
from stitchwork.geometry.kernel_map import KernelMap
from stitchwork.geometry.linalg import RTOL
from stitchwork.geometry.maps import MIN_RELATIVE_DISTANCE, IdentityMap, LinearMap, Map, Origin
from stitchwork.geometry.unit_map import UnitMap

HEADER_BYTES: Final = 8
"""Bytes of the length of a safetensors file's header."""


class MapFile(NamedTuple):
    """The content of a file.

    Attributes:
        map: The map.
        coverage: Decides which rows the anchors of the source cover; None where the map uses no
            anchors.
        metadata: `bridge`, the ids of both spaces as `source` and `target`, and their versions as
            `source_version` and `target_version`.
    """

    map: Map
    coverage: Coverage | None
    metadata: Mapping[str, str]


def read_map(data: bytes) -> MapFile:
    """Read the bytes of a file.

    Raises:
        InvalidInputError: If it is not the file of a map.
    """
    try:
        arrays = load(data)
        length = int.from_bytes(data[:HEADER_BYTES], "little")
        header = orjson.loads(data[HEADER_BYTES : HEADER_BYTES + length])
        metadata: dict[str, str] = header.get("__metadata__", {})
        if metadata.get("format") not in (FORMAT, UNIT_FORMAT):
            raise InvalidInputError(
                f"expected a map of format {FORMAT} or {UNIT_FORMAT}, got "
                f"{metadata.get('format', 'none')}"
            )
        return MapFile(_map(arrays, metadata), _coverage(arrays, metadata), metadata)
    except (SafetensorError, orjson.JSONDecodeError, KeyError) as error:
        raise InvalidInputError(f"expected the safetensors file of a map: {error}") from error


def _map(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> Map:
    parts = np.stack([arrays["source_mean"], arrays["source_mean_rest"]])
    origin = Origin(parts, float(metadata["min_distance"]) / MIN_RELATIVE_DISTANCE)
    if metadata["kind"] == "identity":
        return IdentityMap(origin)
    scale, gain = float(metadata["scale"]), float(metadata["min_gain"]) / RTOL
    mean = arrays["target_mean"]
    inner: Map
    if metadata["kind"] == "linear":
        matrix = arrays["matrix"]
        offset = (parts.astype(np.float64).sum(axis=0) @ matrix).astype(np.float32)
        inner = LinearMap(
            origin=origin, mean=mean, scale=scale, gain=gain, matrix=matrix, offset=offset
        )
    else:
        inner = KernelMap(
            origin=origin,
            mean=mean,
            scale=scale,
            gain=gain,
            landmarks=arrays["landmarks"],
            weights=arrays["weights"],
            sharpness=float(metadata["sharpness"]),
        )
    return UnitMap(inner) if "unit" in metadata else inner


def _coverage(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> Coverage | None:
    if "coverage_axes" not in arrays:
        return None
    threshold = float(metadata["coverage_threshold"])
    return Coverage(arrays["coverage_mean"], arrays["coverage_axes"], threshold)
