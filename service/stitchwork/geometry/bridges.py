"""Bridges: ways from one space to another through their anchors.

A space brings a way to read a row as weights of its anchors, and a way to write weights of its
anchors as a direction; each is computed from that space alone, and any two can be joined.

    exp             reads by kernel regression on exp(γ (unit(x) Uᵀ − 1)), writes W_Y = V G_Y^(−b)
    ridge           read_X = P_X (regularised pseudo-inverse of X's anchors), write_Y = V
    ridge-whitened  read_X = P_X, write_Y = W_Y: one product, for retrieval
    irp             read_X = Uᵀ, write_Y = D_Y (mean of pseudo-inverses of pruned anchors)
    irp-completed   the nearest orthogonal map to that of one pruned subset; needs both spaces
    none            passes rows through

Which side must bring an inverse is `needs`; what comes of two sides is a `Map`, and nobody may
assume that it is a single matrix.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from array_api_compat import array_namespace

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.inverses import (
    Inverse,
    exp_inverse,
    exp_read,
    irp_inverse,
    ridge_inverse,
    ridge_read,
    sharpness,
    whitened_inverse,
    whitened_write,
)
from stitchwork.geometry.linalg import RTOL
from stitchwork.geometry.maps import FusedMap, KernelMap, Map, Origin, PassThrough, Translation

__all__ = [
    "BRIDGES",
    "DEFAULT",
    "BridgeName",
    "Inverse",
    "InverseName",
    "Map",
    "Parameters",
    "Side",
    "Translation",
    "fuse",
    "identity",
    "inverse",
    "needs",
]

BridgeName: TypeAlias = Literal["exp", "ridge", "ridge-whitened", "irp", "irp-completed", "none"]
InverseName: TypeAlias = Literal["exp", "ridge", "whitened", "irp"]
BRIDGES: Final[tuple[BridgeName, ...]] = get_args(BridgeName)
DEFAULT: Final[BridgeName] = "exp"

NEEDS: Final[dict[BridgeName, tuple[InverseName | None, InverseName | None]]] = {
    "exp": ("exp", "whitened"),
    "ridge": ("ridge", None),
    "ridge-whitened": ("ridge", "whitened"),
    "irp": (None, "irp"),
    "irp-completed": (None, None),
    "none": (None, None),
}
MOST_SUBSPACES: Final = 64
WHITENING: Final = 0.2
"""b unless the space says otherwise; chosen on data that no published figure uses."""
LANDMARKS: Final = 2048
"""m unless the space says otherwise: next to no loss against all of 3,000 anchors."""
LANDMARKS_RANGE: Final = (16, 8192)


@dataclass(frozen=True, slots=True)
class Parameters:
    """A space's own parameters of the bridges.

    Attributes:
        shrinkage: ρ′ of `ridge` in [0, 1]; None takes the rule max(OAS, 3/13). Below 1e-6, and
            at 0 where rank-deficient anchors have no inverse, directions of negligible singular
            value are left out, so that `ridge` stays finite.
        delta: Least distance in [0, 1] between the anchors that `irp` keeps.
        omega: Number of anchor subspaces of `irp`, 1 to 64.
        whitening: b, the power to which `exp` and `ridge-whitened` write whitened, in [0, 1]: 0
            keeps the best cosine, 0.5 whitens in full.
        landmarks: Anchors that `exp` compares a row with, 16 to 8,192; all, if there are no more.

    Raises:
        InvalidInputError: If one is out of its range or not a number.
    """

    shrinkage: float | None = None
    delta: float = 0.8
    omega: int = 8
    whitening: float = WHITENING
    landmarks: int = LANDMARKS

    def __post_init__(self) -> None:
        # Written so that NaN, which compares false with everything, is refused too.
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise InvalidInputError(
                f"shrinkage: expected null or a number from 0 to 1, got {self.shrinkage}",
                pointer="/ridge/shrinkage",
            )
        if not 0 <= self.delta <= 1:
            raise InvalidInputError(
                f"delta: expected a distance from 0 to 1, got {self.delta}", pointer="/irp/delta"
            )
        if not (isinstance(self.omega, int) and 1 <= self.omega <= MOST_SUBSPACES):
            raise InvalidInputError(
                f"omega: expected a whole number from 1 to {MOST_SUBSPACES}, got {self.omega}",
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
class Side:
    """One space as a bridge sees it.

    Attributes:
        frame: The space's frame.
        parameters: Its parameters.
        inverse: The inverse that `needs` names for this side; None has it computed.
    """

    frame: Frame
    parameters: Parameters = Parameters()
    inverse: Inverse | None = None


def needs(bridge: BridgeName) -> tuple[InverseName | None, InverseName | None]:
    """Which inverse the source and the target bring, None for none.

    Raises:
        InvalidInputError: If there is no such bridge.
    """
    if bridge not in BRIDGES:
        raise InvalidInputError(
            f"expected a bridge of {', '.join(BRIDGES)}, got {bridge!r}", pointer="/bridge"
        )
    return NEEDS[bridge]


def inverse(name: InverseName, seen: Frame, parameters: Parameters) -> Inverse:
    """The inverse of a space, which is worth caching.

    Args:
        name: Which bridge it is for.
        seen: The space's frame.
        parameters: The space's parameters.
    """
    if name == "exp":
        return exp_inverse(seen, parameters.landmarks)
    if name == "ridge":
        return ridge_inverse(seen, parameters.shrinkage)
    if name == "whitened":
        return whitened_inverse(seen, parameters.shrinkage, parameters.whitening)
    return irp_inverse(seen, parameters.delta, parameters.omega)


def fuse(bridge: BridgeName, source: Side, target: Side) -> Map:
    """The map from one space to another.

    Args:
        bridge: Which way through the anchors.
        source: The space that rows come from.
        target: The space that they go to; its parameters govern how rows are written.

    Returns:
        A map of (n, d_X) rows to (n, d_Y) rows. From a space to itself it need not be the
        identity: use `identity` there.

    Raises:
        InvalidInputError: If there is no such bridge, if the spaces have different numbers of
            anchors, or if the bridge is `none` and their widths differ.
    """
    x, y = source.frame, target.frame
    needs(bridge)
    if bridge == "none":
        if x.width != y.width:
            raise InvalidInputError(
                f"bridge none passes rows through, but the source is {x.width} wide and the "
                f"target {y.width}",
                pointer="/bridge",
                code=ErrorCode.WRONG_WIDTH,
            )
        return identity(x)
    if x.count != y.count:
        raise InvalidInputError(
            f"expected spaces on one anchor set, got {x.count} anchors in the source and "
            f"{y.count} in the target"
        )
    if bridge == "irp-completed":
        return FusedMap.of(_completed(x, y, target.parameters.delta), x, y)
    if bridge == "irp":
        kept = _brought(target, "irp")
        return FusedMap.of(x.unit[kept.at, :].T @ kept.matrix, x, y)
    reads = _brought(source, "exp" if bridge == "exp" else "ridge")

    def through(write: Array) -> Array:
        if bridge == "exp":
            return exp_read(x, reads, write)
        return ridge_read(x, reads, write, source.parameters.shrinkage)

    if bridge == "ridge":
        fused = through(y.unit)
    elif y.count < y.width:
        fused = through(whitened_write(y, _brought(target, "whitened")))
    else:
        # Evened out last, no array is as large as the anchors.
        fused = through(y.unit) @ _brought(target, "whitened").matrix
    if bridge == "exp":
        return KernelMap.of(x.unit[reads.at, :], sharpness(x), fused, x, y)
    return FusedMap.of(fused, x, y)


def identity(seen: Frame) -> Map:
    """The map that changes nothing: from a space to itself, or the `none` bridge."""
    return PassThrough(Origin.of(seen.mean))


def _brought(side: Side, name: InverseName) -> Inverse:
    return inverse(name, side.frame, side.parameters) if side.inverse is None else side.inverse


def _completed(x: Frame, y: Frame, delta: float) -> Array:
    """W Zᵀ of F = W S Zᵀ, the orthogonal map nearest to F of one pruned subset of the target.

    Directions that F takes to nothing have no image, rather than one made of rounding. The paper
    gives no formula for completion; this is our reading of it.
    """
    xp = array_namespace(x.unit, y.unit)
    kept = irp_inverse(y, delta, 1)
    w, s, zt = xp.linalg.svd(x.unit[kept.at, :].T @ kept.matrix, full_matrices=False)
    return (w * xp.astype(s > RTOL * s[0], w.dtype)) @ zt
