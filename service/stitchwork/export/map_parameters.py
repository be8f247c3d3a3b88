"""The arrays and numbers that a map consists of, under the names that files give them."""

from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from stitchwork.errors import UnsupportedFormatError
from stitchwork.geometry.kernel_map import KernelMap
from stitchwork.geometry.linalg import RTOL
from stitchwork.geometry.maps import MIN_RELATIVE_DISTANCE, IdentityMap, LinearMap, Map, Origin
from stitchwork.geometry.unit_map import UnitMap

FORMAT: Final = "stitchwork-translation/2"
"""Name and version of what files hold."""
UNIT_FORMAT: Final = "stitchwork-translation/3"
"""The same for maps to unit rows, which a program that reads version 2 would not scale."""


class MapParameters(NamedTuple):
    """What a map consists of.

    Attributes:
        kind: `linear`, `kernel` or `identity`.
        arrays: float32: `source_mean` and `source_mean_rest` (d_X,), both to be subtracted from a
            row, one after the other. Except for `identity` also `target_mean` (d_Y,), and `matrix`
            (d_X, d_Y) or `landmarks` (d_X, m) and `weights` (m, d_Y).
        numbers: `min_distance`: a row closer to the mean has no direction. Except for `identity`
            also `scale` and `min_gain`: a row with a smaller norm after the map has no direction.
            For `kernel` also `sharpness`.
        unit: Whether rows are divided by their norms at the end.
    """

    kind: str
    arrays: dict[str, NDArray[Any]]
    numbers: dict[str, float]
    unit: bool = False

    @property
    def metadata(self) -> dict[str, str]:
        """What files say of them."""
        if self.unit:
            return {"format": UNIT_FORMAT, "kind": self.kind, "unit": "true"}
        return {"format": FORMAT, "kind": self.kind}


def map_parameters(exported: Map) -> MapParameters:
    """The parameters of a map whose arrays are numpy's.

    Raises:
        UnsupportedFormatError: If files cannot hold a map of this kind.
    """
    if isinstance(exported, UnitMap):
        return map_parameters(exported.inner)._replace(unit=True)
    arrays: dict[str, NDArray[Any]]
    match exported:
        case LinearMap():
            kind, arrays = "linear", {"matrix": exported.matrix}
        case KernelMap():
            kind, arrays = "kernel", {"landmarks": exported.landmarks, "weights": exported.weights}
        case IdentityMap():
            kind, arrays = "identity", {}
        case _:
            raise UnsupportedFormatError(
                f"a map of kind {type(exported).__name__} cannot be exported"
            )
    origin: Origin = exported.origin
    arrays |= {"source_mean": origin.parts[0], "source_mean_rest": origin.parts[1]}
    numbers = {"min_distance": MIN_RELATIVE_DISTANCE * origin.norm}
    if isinstance(exported, LinearMap | KernelMap):
        arrays["target_mean"] = exported.mean
        numbers |= {"scale": exported.scale, "min_gain": RTOL * exported.gain}
    if isinstance(exported, KernelMap):
        numbers["sharpness"] = exported.sharpness
    return MapParameters(kind, arrays, numbers)
