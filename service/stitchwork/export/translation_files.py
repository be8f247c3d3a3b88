"""Maps as files that need no service: safetensors for any program, ONNX for any runtime."""

from typing import Any, Final

import numpy as np
from safetensors.numpy import save

from stitchwork.errors import UnsupportedFormatError
from stitchwork.geometry.classifier import Classifier
from stitchwork.geometry.kernel_map import KernelMap
from stitchwork.geometry.linalg import RTOL
from stitchwork.geometry.maps import MIN_RELATIVE_DISTANCE, IdentityMap, LinearMap, Map, Origin
from stitchwork.resources import Arrays

FORMAT: Final = "stitchwork-translation/1"


def app_state(found: Map) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and numbers that a map is made of.

    Args:
        found: A map whose arrays are numpy's.

    Returns:
        Arrays, float32: `source_mean` and `source_mean_rest` (d_X,), which a row is centred with
        one after the other, and but for `identity` `target_mean` (d_Y,), and `matrix` (d_X, d_Y)
        or `landmarks` (d_X, m) and `weights` (m, d_Y). Numbers: `kind`, `closest`, the distance
        from the mean that is too small for a direction, and but for `identity` `scale`, `least`,
        the gain that is too small, and for `kernel` its `sharpness`.
    """
    match found:
        case LinearMap():
            arrays = {"matrix": found.matrix, "target_mean": found.mean}
            told = {"kind": "linear", "scale": found.scale, "least": RTOL * found.gain}
        case KernelMap():
            arrays = {
                "landmarks": found.landmarks,
                "weights": found.weights,
                "target_mean": found.mean,
            }
            told = {
                "kind": "kernel",
                "scale": found.scale,
                "least": RTOL * found.gain,
                "sharpness": found.sharpness,
            }
        case IdentityMap():
            arrays, told = {}, {"kind": "identity"}
        case _:
            raise UnsupportedFormatError(f"a map of kind {type(found).__name__} cannot be exported")
    origin: Origin = found.origin
    arrays |= {"source_mean": origin.parts[0], "source_mean_rest": origin.parts[1]}
    return arrays, {**told, "closest": MIN_RELATIVE_DISTANCE * origin.norm}


def as_safetensors(found: Map, facts: dict[str, str]) -> bytes:
    """The arrays under their names, numbers and facts as texts of the metadata."""
    arrays, told = app_state(found)
    meta = {"format": FORMAT, **{key: str(value) for key, value in told.items()}, **facts}
    return save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, meta)


def as_onnx(found: Map, facts: dict[str, str], classifier: Classifier | None = None) -> bytes:
    """A model of `embeddings` (n, d_X) to `translated` (n, d_Y) and `defined` (n,).

    Args:
        found: The map.
        facts: What the model's properties say beside what it is made of.
        classifier: A head of the target space: adds `logits` and `probabilities` (n, c).

    Raises:
        UnsupportedFormatError: If this process has not what writes it.
    """
    try:
        from stitchwork.export import onnx_files
    except ModuleNotFoundError as error:
        raise UnsupportedFormatError(
            "this service cannot write ONNX, for which it needs stitchwork[onnx]; it has "
            "safetensors"
        ) from error
    arrays, told = app_state(found)
    meta = {"format": FORMAT, "kind": str(told["kind"]), **facts}
    return onnx_files.build(arrays, told, meta, found.source_width, found.target_width, classifier)
