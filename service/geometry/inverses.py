"""What a space brings to a bridge, computed from that space alone.

exp       A (m, k), the regularised inverse of the kernel between anchors, reads
ridge     P (d, k), the regularised pseudo-inverse of the unit anchors, reads
whitened  W (k, d), the unit anchors with the spread of their directions evened out, writes
irp       D (k, d), the mean of pseudo-inverses of pruned unit anchors, writes
"""

import math
from typing import Final

import numpy as np
from array_api_compat import array_namespace, device

from service.geometry import Array
from service.geometry.anchors import prunings
from service.geometry.arrays import RTOL, indices, solve_spd, solve_triangular
from service.geometry.relative import Frame

FLOOR: Final = 3 / 13
"""Least shrinkage of `ridge` unless the space says otherwise: λ = 0.3 · tr(C)/d."""

KERNEL_RIDGE: Final = 0.1
"""Ridge of `exp`, against a kernel of 1 on the diagonal."""
KERNEL_WIDE: Final = 1000
"""Anchors from which the kernel of `exp` has its full sharpness; fewer bear a wider one only."""
KERNEL_JITTER: Final = 1e-9
"""Keeps the kernel of landmarks that coincide positive definite in float64."""


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
    trace, rho = _shrunk(gram, k, d, shrinkage)
    if rho < RTOL:
        return _filtered(unit, rho, trace)
    eye = xp.eye(gram.shape[0], dtype=gram.dtype, device=device(gram))
    shrunk = (1 - rho) * gram + (rho * trace / d) * eye
    solved = solve_spd(shrunk, unit if dual else unit.T) / k
    return solved.T if dual else solved


def whitened_write(seen: Frame, shrinkage: float | None, power: float) -> Array:
    """W_Y = V G_Y^(−b), the unit anchors with the spread of their directions partly evened out.

    Args:
        seen: The frame of the space that is written into.
        shrinkage: ρ′ of G as in `ridge_read`; None takes max(OAS, 3/13).
        power: b, at least 0; 0 gives V itself.

    Returns:
        (k, d) float64, finite; rows of zero anchors are zero. Regression shrinks the weak
        directions of a space most, and this gives them some of their size back: more rows find
        their own neighbour, at some cost in mean cosine. Rotating the anchors rotates it.
    """
    unit = seen.unit
    if power == 0:
        return unit
    xp = array_namespace(unit)
    k, d = unit.shape
    # For k < d the span of the anchors is all that is written into: the smaller Gram matrix does.
    dual = k < d
    gram = (unit @ unit.T if dual else unit.T @ unit) / k
    trace, rho = _shrunk(gram, k, d, shrinkage)
    values, vectors = xp.linalg.eigh(gram)
    sizes = (1 - rho) * xp.clip(values, 0.0, None) + rho * trace / d
    # Without shrinkage, a direction that the anchors do not have must not become infinite.
    kept = sizes > RTOL**2 * xp.max(sizes)
    gains = xp.where(kept, xp.where(kept, sizes, 1.0) ** -power, 0.0)
    even = (vectors * gains) @ vectors.T
    if dual:
        return even @ unit
    # A dimension that the network leaves dead stays dead: heads may make much of what leaks in.
    sizes = xp.max(xp.abs(unit), axis=0)
    return xp.where(sizes > RTOL * xp.max(sizes), unit @ even, unit)


def landmarks(seen: Frame, most: int) -> Array:
    """Which anchors the kernel of `exp` compares a row with.

    Args:
        seen: The frame of the space that is read from.
        most: How many at most.

    Returns:
        (m,) indices in rising order, of anchors that have a direction; a seeded draw where there
        are more than `most`, since anchors may come sorted.
    """
    xp = array_namespace(seen.unit)
    alive = np.flatnonzero(np.asarray([bool(b) for b in xp.any(seen.unit != 0, axis=1)]))
    if len(alive) > most:
        alive = np.sort(np.random.default_rng(0).permutation(alive)[:most])
    return indices(alive, seen.unit)


def sharpness(seen: Frame) -> float:
    """γ of the kernel exp(γ (unit(x) Uᵀ − 1)): √(k/1000) and at most 1.

    With γ near 0 the kernel is as good as linear, which is what few anchors can tell.
    """
    return min(1.0, math.sqrt(seen.count / KERNEL_WIDE))


def exp_read(seen: Frame, most: int) -> Array:
    """A_X, so that exp(γ (unit(x) Uₘᵀ − 1)) A_X is a row in weights of all the anchors.

    Kernel ridge regression of the identity on the anchors, in the span of m of them (Nyström);
    with all of them it is (K + 0.1 I)⁻¹.

    Args:
        seen: The frame of the space that is read from.
        most: m, how many landmarks at most.

    Returns:
        (m, k) float64, finite; columns of zero anchors are zero. Rotating, scaling or moving the
        anchors leaves it unchanged.

    Source:
        The elementwise exponential of the relative representation of Moschella et al., arXiv
        2209.15430; Williams and Seeger, Using the Nyström Method to Speed Up Kernel Machines,
        2000. That it can be written through any other space's anchors is ours.
    """
    unit = seen.unit
    xp = array_namespace(unit)
    at = landmarks(seen, most)
    alive = xp.any(unit != 0, axis=1)
    # In place where it can be: with thousands of anchors these are the largest arrays of a process.
    kernel = unit @ unit[at, :].T
    kernel -= 1.0
    kernel *= sharpness(seen)
    kernel = xp.exp(kernel)
    kernel[~alive, :] = 0.0
    m = kernel.shape[1]
    eye = xp.eye(m, dtype=kernel.dtype, device=device(kernel))
    if m == int(xp.sum(xp.astype(alive, xp.int64))):
        weights = xp.zeros((m, seen.count), dtype=kernel.dtype, device=device(kernel))
        weights[:, at] = solve_spd(kernel[at, :] + KERNEL_RIDGE * eye, eye)
        return weights
    own = kernel[at, :]
    lower = xp.linalg.cholesky(own + KERNEL_JITTER * eye)
    # Features whose products are the kernel of the landmarks' span: well conditioned, unlike its
    # square.
    features = solve_triangular(lower, kernel.T)
    weights = solve_spd(features @ features.T + KERNEL_RIDGE * eye, features)
    return solve_triangular(lower, weights, transposed=True)


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


def _shrunk(gram: Array, k: int, d: int, shrinkage: float | None) -> tuple[float, float]:
    """The trace of C and ρ′: what is asked for, or the rule."""
    xp = array_namespace(gram)
    trace = float(xp.linalg.trace(gram))
    if shrinkage is not None:
        return trace, shrinkage
    return trace, max(_oas(trace, float(xp.sum(gram * gram)), k, d), FLOOR)


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
