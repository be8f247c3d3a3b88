"""Bridges: ways from one space to another through their anchors.

A bridge is two matrices per space. `read` (d, k) writes a unit row in anchor coordinates, `write`
(k, d) turns anchor coordinates into a direction. One of the two is the unit anchors themselves, the
other holds a pseudo-inverse, computed from that space alone.

    ridge           read_X = P_X (regularised pseudo-inverse of X's anchors), write_Y = V
    irp             read_X = Uᵀ, write_Y = D_Y (mean of pseudo-inverses of pruned anchors)
    irp-completed   the nearest orthogonal map to that of one pruned subset; needs both spaces
    none            passes rows through
"""

from dataclasses import dataclass
from typing import Final, Literal

from array_api_compat import array_namespace, is_numpy_namespace, is_torch_namespace

from service.errors import InvalidInput
from service.geometry import Array
from service.geometry.anchors import prunings, rows_at
from service.geometry.maps import FusedMap, Map, PassThrough
from service.geometry.relative import Frame

BridgeName = Literal["ridge", "irp", "irp-completed", "none"]
InverseName = Literal["ridge", "irp"]
BRIDGES: Final[tuple[BridgeName, ...]] = ("ridge", "irp", "irp-completed", "none")

FLOOR: Final = 3 / 13
"""Least shrinkage of `ridge`: λ = 0.3 · tr(C)/d."""
RTOL: Final = 1e-6
"""Singular values below this, relative to the largest, are noise: encoders are often deficient."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """A space's own parameters of the bridges.

    Attributes:
        shrinkage: ρ′ of `ridge` in (0, 1]; None takes the rule max(OAS, 3/13).
        delta: Least distance in [0, 1] between the anchors that `irp` keeps.
        omega: Number of anchor subspaces of `irp`, 1 to 64.

    Raises:
        InvalidInput: If one is out of range; without shrinkage `ridge` would not stay finite.
    """

    shrinkage: float | None = None
    delta: float = 0.8
    omega: int = 8

    def __post_init__(self) -> None:
        if self.shrinkage is not None and not 1e-9 <= self.shrinkage <= 1:
            raise InvalidInput(
                f"shrinkage: expected null or a number from 1e-9 to 1, got {self.shrinkage}",
                pointer="/ridge/shrinkage",
            )
        if not 0 <= self.delta <= 1:
            raise InvalidInput(
                f"delta: expected a distance from 0 to 1, got {self.delta}", pointer="/irp/delta"
            )
        if not 1 <= self.omega <= 64:
            raise InvalidInput(
                f"omega: expected 1 to 64 subspaces, got {self.omega}", pointer="/irp/omega"
            )


@dataclass(frozen=True, slots=True)
class Side:
    """One space as a bridge sees it.

    Attributes:
        frame: The space's frame.
        parameters: Its parameters.
        inverse: The inverse that `needs` names for this side.
    """

    frame: Frame
    parameters: Parameters = Parameters()
    inverse: Array | None = None


def needs(bridge: BridgeName) -> tuple[InverseName | None, InverseName | None]:
    """Which inverse the source and the target must bring."""
    needed: dict[BridgeName, tuple[InverseName | None, InverseName | None]] = {
        "ridge": ("ridge", None),
        "irp": (None, "irp"),
    }
    return needed.get(bridge, (None, None))


def oas(gram: Array, k: int, d: int) -> float:
    """The shrinkage that Oracle Approximating Shrinkage estimates.

    Args:
        gram: UᵀU (d, d) or UUᵀ (k, k) of the unit anchors; both have the same traces.
        k: Number of anchors.
        d: Their width.

    Returns:
        ρ in [0, 1]; 1 where the anchors are isotropic and nothing is left to estimate.

    Source:
        Chen et al., Shrinkage Algorithms for MMSE Covariance Estimation, 2010, equation 23, in
        the form that scikit-learn uses.
    """
    xp = array_namespace(gram)
    trace = float(xp.linalg.trace(gram)) / k
    squares = float(xp.sum(gram * gram)) / k**2
    denominator = (k + 1) * (squares - trace**2 / d)
    return 1.0 if denominator <= 0 else min(1.0, (squares + trace**2) / denominator)


def ridge_read(seen: Frame, shrinkage: float | None) -> Array:
    """P_X = G⁻¹ Uᵀ / k with G = (1 − ρ′) C + ρ′ tr(C)/d · I and C = UᵀU / k.

    Args:
        seen: The frame of the space that is read from.
        shrinkage: ρ′ in (0, 1]; None takes max(OAS, 3/13).

    Returns:
        (d, k) float64, finite. `unit(x) · P_X · V` is the ridge regression from X to Y.

    Source:
        The regularised pseudo-inverse in place of that of Maiorca et al., arXiv 2406.15057;
        Chen et al., 2010 for ρ.
    """
    xp = array_namespace(seen.unit)
    unit = seen.unit
    k, d = unit.shape
    # Where k < d the dual form gives the same map from a smaller matrix.
    gram = unit @ unit.T if k < d else unit.T @ unit
    trace = float(xp.linalg.trace(gram)) / k
    rho = max(oas(gram, k, d), FLOOR) if shrinkage is None else shrinkage
    eye = xp.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    if k < d:
        return _solve((1 - rho) * gram + (rho * trace / d * k) * eye, unit).T
    return _solve((1 - rho) / k * gram + (rho * trace / d) * eye, unit.T / k)


def irp_write(seen: Frame, delta: float, omega: int) -> Array:
    """D_Y = (1/ω) Σᵢ scatter(pinv(V[Sᵢ]ᵀ)), over ω prunings of the anchors.

    Args:
        seen: The frame of the space that is written into.
        delta: Least distance between kept anchors.
        omega: Number of prunings.

    Returns:
        (k, d) float64. The sum is linear, so the ensemble is one matrix.

    Source:
        Maiorca et al., arXiv 2406.15057, inverse relative projection with anchor subspaces.
    """
    xp = array_namespace(seen.unit)
    total = xp.zeros_like(seen.unit)
    for picked in prunings(seen.unit, delta, omega):
        total[xp.asarray(picked, device=total.device), :] += _pinv_t(rows_at(seen.unit, picked))
    return total / omega


def inverse(name: InverseName, seen: Frame, parameters: Parameters) -> Array:
    """The pseudo-inverse of a space that is cached: `ridge_read` or `irp_write`, float64."""
    if name == "ridge":
        return ridge_read(seen, parameters.shrinkage)
    return irp_write(seen, parameters.delta, parameters.omega)


def fuse(bridge: BridgeName, source: Side, target: Side) -> Map:
    """The map from one space to another.

    Args:
        bridge: Which way through the anchors.
        source: The space that rows come from, with the inverse that `needs` names.
        target: The space that they go to, likewise; its parameters govern `irp-completed`.

    Returns:
        A map that takes (n, d_source) float32 to (n, d_target) float32.

    Raises:
        InvalidInput: If the bridge is `none` and the widths differ.
    """
    x, y = source.frame, target.frame
    if bridge == "none":
        if x.mean.shape != y.mean.shape:
            raise InvalidInput(
                f"bridge none needs equal widths, got {x.mean.shape[0]} and {y.mean.shape[0]}"
            )
        return identity(x)
    if bridge == "ridge":
        read = (
            ridge_read(x, source.parameters.shrinkage) if source.inverse is None else source.inverse
        )
        return FusedMap.of(read @ y.unit, x, y)
    if bridge == "irp":
        known = target.parameters
        write = irp_write(y, known.delta, known.omega) if target.inverse is None else target.inverse
        return FusedMap.of(x.unit.T @ write, x, y)
    return FusedMap.of(_completed(x, y, target.parameters.delta), x, y)


def identity(seen: Frame) -> Map:
    """The map that changes nothing: from a space to itself, or the `none` bridge."""
    return PassThrough.of(seen)


def _completed(x: Frame, y: Frame, delta: float) -> Array:
    """The orthogonal factor W Zᵀ of F = W S Zᵀ, F from one pruned subset of the anchors.

    The paper gives no formula for completion; this is our reading of it.
    """
    xp = array_namespace(x.unit, y.unit)
    (picked,) = prunings(y.unit, delta, 1)
    fused = rows_at(x.unit, picked).T @ _pinv_t(rows_at(y.unit, picked))
    w, s, zt = xp.linalg.svd(fused, full_matrices=False)
    kept = s > RTOL * xp.max(s)
    return w[:, kept] @ zt[kept, :]


def _pinv_t(unit: Array) -> Array:
    """pinv(Vᵀ) of (m, d) rows V, as (m, d)."""
    xp = array_namespace(unit)
    return xp.linalg.pinv(unit.T, rtol=RTOL)


def _solve(matrix: Array, right: Array) -> Array:
    """Solve a symmetric positive definite system by Cholesky, which the standard cannot do."""
    xp = array_namespace(matrix)
    if is_numpy_namespace(xp):
        from scipy.linalg import cho_factor, cho_solve

        return cho_solve(cho_factor(matrix, lower=True, check_finite=False), right)
    if is_torch_namespace(xp):
        return xp.cholesky_solve(right, xp.linalg.cholesky(matrix))
    return xp.linalg.solve(matrix, right)
