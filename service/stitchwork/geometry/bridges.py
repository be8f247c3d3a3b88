"""Bridges: methods of translating between two spaces through their anchors.

A bridge has two factors, each computed from one space alone. The source's `read` factor turns a
row into weights of the anchors, the target's `write` factor turns such weights into a direction;
any two spaces on one anchor set can be composed into a `Map`.

    exp             read by kernel regression on exp(γ (unit(x) Uᵀ − 1)), write W_Y = V G_Y^(−b)
    ridge           read P_X (regularised pseudo-inverse of X's anchors), write V
    ridge-whitened  read P_X, write W_Y: one matrix product, for retrieval
    irp             read Uᵀ, write D_Y (mean of pseudo-inverses of pruned anchors)
    irp-completed   the nearest orthogonal map to that of one pruned subset; needs both spaces
    none            returns rows unchanged

`required_inverses` names the inverse that each space needs. A `Map` need not be a single matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias, assert_never, get_args

from array_api_compat import array_namespace

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.exp_factors import apply_exp_read, exp_inverse, kernel_sharpness
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.inverses import Inverse, InverseName
from stitchwork.geometry.irp_factors import irp_inverse
from stitchwork.geometry.kernel_map import KernelMap
from stitchwork.geometry.linalg import RTOL
from stitchwork.geometry.maps import IdentityMap, LinearMap, Map, Origin, Translation
from stitchwork.geometry.ridge_factors import (
    apply_ridge_read,
    ridge_inverse,
    whitened_inverse,
    whitened_write,
)
from stitchwork.geometry.unit_map import UnitMap

__all__ = [
    "BRIDGES",
    "DEFAULT_BRIDGE",
    "USED_PARAMETERS",
    "BridgeName",
    "FactorParameters",
    "FittedSpace",
    "Inverse",
    "InverseName",
    "Map",
    "Translation",
    "compose",
    "compute_inverse",
    "identity_map",
    "required_inverses",
]

BridgeName: TypeAlias = Literal["exp", "ridge", "ridge-whitened", "irp", "irp-completed", "none"]
BRIDGES: Final[tuple[BridgeName, ...]] = get_args(BridgeName)
DEFAULT_BRIDGE: Final[BridgeName] = "exp"

REQUIRED_INVERSES: Final[dict[BridgeName, tuple[InverseName | None, InverseName | None]]] = {
    "exp": ("exp", "whitened"),
    "ridge": ("ridge", None),
    "ridge-whitened": ("ridge", "whitened"),
    "irp": (None, "irp"),
    "irp-completed": (None, None),
    "none": (None, None),
}
"""For each bridge, the inverse of the source and of the target."""
USED_PARAMETERS: Final[dict[BridgeName, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "exp": (("landmarks",), ("shrinkage", "whitening")),
    "ridge": (("shrinkage",), ()),
    "ridge-whitened": (("shrinkage",), ("shrinkage", "whitening")),
    "irp": ((), ("delta", "omega")),
    "irp-completed": ((), ("delta",)),
    "none": ((), ()),
}
"""For each bridge, the parameters of the source and of the target that it uses."""
MAX_SUBSPACES: Final = 64
DEFAULT_WHITENING: Final = 0.2
"""b unless the space sets it; chosen on data that no published figure uses."""
DEFAULT_LANDMARKS: Final = 2048
"""m unless the space sets it: almost no loss against all of 3,000 anchors."""
LANDMARKS_RANGE: Final = (16, 8192)


@dataclass(frozen=True, slots=True)
class FactorParameters:
    """A space's parameters of the bridges.

    Attributes:
        shrinkage: ρ′ of `ridge` in [0, 1]; None uses the rule max(OAS, 3/13). Below 1e-6, where
            rank-deficient anchors may have no inverse, directions of negligible singular value are
            left out, so that `ridge` stays finite.
        delta: Minimum distance in [0, 1] between the anchors of an `irp` pruning.
        omega: Number of anchor subspaces of `irp`, 1 to 64.
        whitening: b, the power of the whitened write of `exp` and `ridge-whitened`, in [0, 1]: 0
            gives the best cosine, 0.5 whitens fully.
        landmarks: Maximum number of anchors that `exp` compares a row with, 16 to 8,192.

    Raises:
        InvalidInputError: If one is out of its range or not a number.
    """

    shrinkage: float | None = None
    delta: float = 0.8
    omega: int = 8
    whitening: float = DEFAULT_WHITENING
    landmarks: int = DEFAULT_LANDMARKS

    def __post_init__(self) -> None:
        # Written so that NaN, for which every comparison is false, is rejected too.
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise InvalidInputError(
                f"shrinkage: expected null or a number from 0 to 1, got {self.shrinkage}",
                pointer="/ridge/shrinkage",
            )
        if not 0 <= self.delta <= 1:
            raise InvalidInputError(
                f"delta: expected a distance from 0 to 1, got {self.delta}", pointer="/irp/delta"
            )
        if not (isinstance(self.omega, int) and 1 <= self.omega <= MAX_SUBSPACES):
            raise InvalidInputError(
                f"omega: expected a whole number from 1 to {MAX_SUBSPACES}, got {self.omega}",
                pointer="/irp/omega",
            )
        if not 0 <= self.whitening <= 1:
            raise InvalidInputError(
                f"whitening: expected a power from 0 to 1, got {self.whitening}",
                pointer="/exp/whitening",
            )
        low, high = LANDMARKS_RANGE
        if not (isinstance(self.landmarks, int) and low <= self.landmarks <= high):
            raise InvalidInputError(
                f"landmarks: expected a whole number from {low} to {high}, got {self.landmarks}",
                pointer="/exp/landmarks",
            )


@dataclass(frozen=True, slots=True, eq=False)
class FittedSpace:
    """A space ready to be composed with another.

    Attributes:
        frame: The space's frame.
        parameters: Its parameters.
        inverse: The inverse that `required_inverses` names for its side; None computes it.
        unit: Whether rows that are translated into the space are scaled to unit length.
    """

    frame: Frame
    parameters: FactorParameters = FactorParameters()
    inverse: Inverse | None = None
    unit: bool = False


def required_inverses(bridge: BridgeName) -> tuple[InverseName | None, InverseName | None]:
    """The inverses that the source and the target need, None for none.

    Raises:
        InvalidInputError: If there is no such bridge.
    """
    if bridge not in BRIDGES:
        raise InvalidInputError(
            f"expected a bridge of {', '.join(BRIDGES)}, got {bridge!r}", pointer="/bridge"
        )
    return REQUIRED_INVERSES[bridge]


def compute_inverse(name: InverseName, frame: Frame, parameters: FactorParameters) -> Inverse:
    """An inverse of a space, which is worth caching.

    Args:
        name: Which inverse.
        frame: The space's frame.
        parameters: The space's parameters.
    """
    match name:
        case "exp":
            return exp_inverse(frame, parameters.landmarks)
        case "ridge":
            return ridge_inverse(frame, parameters.shrinkage)
        case "whitened":
            return whitened_inverse(frame, parameters.shrinkage, parameters.whitening)
        case "irp":
            return irp_inverse(frame, parameters.delta, parameters.omega)
        case _:
            assert_never(name)


def compose(bridge: BridgeName, source: FittedSpace, target: FittedSpace) -> Map:
    """The map from one space to another.

    Args:
        bridge: The method.
        source: The space of the input rows.
        target: The space of the output rows; its parameters govern how rows are written.

    Returns:
        A map of (n, d_X) rows to (n, d_Y) rows, which are unit rows if the target is unit, except
        for `none`. From a space to itself it need not be the identity: use `identity_map` there.

    Raises:
        InvalidInputError: If there is no such bridge, if the spaces have different numbers of
            anchors, or if the bridge is `none` and their widths differ.
        ValueError: If a space has another inverse than the one that its side needs.
    """
    composed = _compose(bridge, source, target)
    return UnitMap(composed) if target.unit and bridge != "none" else composed


def _compose(bridge: BridgeName, source: FittedSpace, target: FittedSpace) -> Map:
    x, y = source.frame, target.frame
    required_inverses(bridge)
    if bridge == "none":
        if x.width != y.width:
            raise InvalidInputError(
                f"bridge none returns rows unchanged, but the source is {x.width} wide and the "
                f"target {y.width}",
                pointer="/bridge",
                code=ErrorCode.WRONG_WIDTH,
            )
        return identity_map(x)
    if x.count != y.count:
        raise InvalidInputError(
            f"expected spaces on one anchor set, got {x.count} anchors in the source and "
            f"{y.count} in the target"
        )
    match bridge:
        case "exp":
            inverse = _inverse(source, "exp")
            landmarks = x.unit_anchors[inverse.anchor_indices, :]
            weights = _whitened_product(target, partial(apply_exp_read, x, inverse))
            return KernelMap.from_weights(landmarks, kernel_sharpness(x), weights, x, y)
        case "ridge":
            return LinearMap.from_product(_ridge_read(source)(y.unit_anchors), x, y)
        case "ridge-whitened":
            return LinearMap.from_product(_whitened_product(target, _ridge_read(source)), x, y)
        case "irp":
            write = _inverse(target, "irp")
            read = x.unit_anchors[write.anchor_indices, :].T
            return LinearMap.from_product(read @ write.matrix, x, y)
        case "irp-completed":
            return LinearMap.from_product(_completed(x, y, target.parameters.delta), x, y)
        case _:
            assert_never(bridge)


def identity_map(frame: Frame) -> Map:
    """The map that returns rows unchanged: from a space to itself, or the `none` bridge."""
    return IdentityMap(Origin.from_mean(frame.mean))


def _inverse(space: FittedSpace, name: InverseName) -> Inverse:
    if space.inverse is None:
        return compute_inverse(name, space.frame, space.parameters)
    if space.inverse.name != name:
        raise ValueError(f"expected the inverse {name} of a space, got {space.inverse.name}")
    return space.inverse


def _ridge_read(source: FittedSpace) -> Callable[[Array], Array]:
    """P_X as a function of what it is multiplied by."""
    x, inverse = source.frame, _inverse(source, "ridge")
    return lambda write: apply_ridge_read(x, inverse, write, source.parameters.shrinkage)


def _whitened_product(target: FittedSpace, apply_read: Callable[[Array], Array]) -> Array:
    """The read factor times W_Y."""
    y, inverse = target.frame, _inverse(target, "whitened")
    if y.count < y.width:
        return apply_read(whitened_write(y, inverse))
    # Whitened last, so that no further array is as large as the anchors.
    return apply_read(y.unit_anchors) @ inverse.matrix


def _completed(x: Frame, y: Frame, delta: float) -> Array:
    """W Zᵀ of F = W S Zᵀ, the orthogonal map nearest to F of one pruned subset of the target.

    Directions that F maps to zero are left without an image, which would be rounding noise. The
    paper gives no formula for completion; this is our interpretation.
    """
    xp = array_namespace(x.unit_anchors, y.unit_anchors)
    write = irp_inverse(y, delta, 1)
    product = x.unit_anchors[write.anchor_indices, :].T @ write.matrix
    w, s, zt = xp.linalg.svd(product, full_matrices=False)
    return (w * xp.astype(s > RTOL * s[0], w.dtype)) @ zt
