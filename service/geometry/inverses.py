"""The inverse of a space for each bridge, computed from that space alone.

ridge   P (d, k), the regularised pseudo-inverse of the unit anchors, reads
irp     D (k, d), the mean of pseudo-inverses of pruned unit anchors, writes
"""

from typing import Final

from array_api_compat import array_namespace, device

from service.geometry import Array
from service.geometry.anchors import prunings
from service.geometry.arrays import RTOL, indices, solve_spd
from service.geometry.relative import Frame

FLOOR: Final = 3 / 13
"""Least shrinkage of `ridge` unless the space says otherwise: λ = 0.3 · tr(C)/d."""


def oas(covariance: Array, samples: int) -> float:
    """The shrinkage that Oracle Approximating Shrinkage estimates.

    Args:
        covariance: (d, d) C = UᵀU / k, about zero.
        samples: Number of rows it was taken from, k.

    Returns:
        ρ in [0, 1]; 1 where the covariance is isotropic and leaves nothing to estimate. Scaling
        the covariance leaves it unchanged.

    Source:
        Chen et al., Shrinkage Algorithms for MMSE Covariance Estimation, 2010, equation 23,
        without its terms in 2/d, as scikit-learn has it.
    """
    xp = array_namespace(covariance)
    trace = float(xp.linalg.trace(covariance))
    return _oas(trace, float(xp.sum(covariance * covariance)), samples, covariance.shape[0])


def ridge_read(seen: Frame, shrinkage: float | None) -> Array:
    """P_X = G⁻¹ Uᵀ / k with G = (1 − ρ′) C + ρ′ tr(C)/d · I and C = UᵀU / k.

    Args:
        seen: The frame of the space that is read from.
        shrinkage: ρ′ in [0, 1]; None takes max(OAS, 3/13).

    Returns:
        (d, k) float64, finite; columns of zero anchors are zero. (1 − ρ′) P_X V is the ridge
        regression, with λ = ρ′ k tr(C) / (d (1 − ρ′)), from the unit anchors of X to those of any
        Y; translation does not see the factor. At ρ′ = 0 it is the pseudo-inverse of U.

    Source:
        Takes the place of the pseudo-inverse of Maiorca et al., arXiv 2406.15057, on the other
        side; ours. Chen et al., 2010, for ρ.
    """
    unit = seen.unit
    xp = array_namespace(unit)
    k, d = unit.shape
    # For k < d the dual gives the same map from a smaller matrix, which has the same traces.
    dual = k < d
    gram = (unit @ unit.T if dual else unit.T @ unit) / k
    trace = float(xp.linalg.trace(gram))
    rho = shrinkage
    if rho is None:
        rho = max(_oas(trace, float(xp.sum(gram * gram)), k, d), FLOOR)
    if rho < RTOL:
        return _filtered(unit, rho, trace)
    eye = xp.eye(gram.shape[0], dtype=gram.dtype, device=device(gram))
    shrunk = (1 - rho) * gram + (rho * trace / d) * eye
    solved = solve_spd(shrunk, unit if dual else unit.T) / k
    return solved.T if dual else solved


def irp_write(seen: Frame, delta: float, omega: int) -> Array:
    """D_Y = (1/ω) Σᵢ scatter(pinv(V[Sᵢ]ᵀ)), over ω prunings Sᵢ of the anchors.

    Args:
        seen: The frame of the space that is written into.
        delta: Least distance in [0, 1] between kept anchors.
        omega: Number of prunings.

    Returns:
        (k, d) float64; rows of anchors that no pruning keeps are zero. Translation is linear in
        it, so this is the mean of ω translations. Unpruned, Uᵀ D_Y is the transpose of the
        least-squares regression from Y back to X.

    Source:
        Maiorca et al., arXiv 2406.15057: inverse relative projection, anchor pruning and
        subspaces.
    """
    total = array_namespace(seen.unit).zeros_like(seen.unit)
    for picked in prunings(seen.unit, delta, omega):
        at = indices(picked, total)
        total[at, :] += _inverted(seen.unit[at, :])
    return total / omega


def _oas(trace: float, squares: float, k: int, d: int) -> float:
    """ρ from tr C and tr C², which UUᵀ/k has as well."""
    denominator = (k + 1) * (squares - trace**2 / d)
    return 1.0 if denominator <= 0 else min(1.0, (squares + trace**2) / denominator)


def _filtered(unit: Array, rho: float, trace: float) -> Array:
    """`ridge_read` by singular values, for a ρ′ that cannot make a singular C invertible."""
    xp = array_namespace(unit)
    k, d = unit.shape
    w, s, zt = xp.linalg.svd(unit, full_matrices=False)
    kept = s > RTOL * s[0]
    # Where a value is left out, zero takes the place of its reciprocal.
    gain = xp.where(kept, s / xp.where(kept, (1 - rho) * s**2 + rho * trace / d * k, 1.0), 0.0)
    return (zt.T * gain) @ w.T


def _inverted(rows: Array) -> Array:
    """pinv(Vᵀ) of (m, d) rows V, as (m, d)."""
    return array_namespace(rows).linalg.pinv(rows.T, rtol=RTOL)
