"""What a space brings to a bridge, computed from that space alone.

exp       A (m, k), the regularised inverse of the kernel between anchors, reads
ridge     P (d, k), the regularised pseudo-inverse of the unit anchors, reads
whitened  W (k, d), the unit anchors with the spread of their directions evened out, writes
irp       D (k, d), the mean of pseudo-inverses of pruned unit anchors, writes

Each is a small inverse times the anchors, and only the small one is kept: its size does not grow
with the number of anchors, and products with them are taken a block at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from array_api_compat import array_namespace, device

from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import (
    RTOL,
    Convert,
    cholesky,
    indices,
    solve_factored,
    solve_triangular,
)
from stitchwork.geometry.sampling import prunings

FLOOR: Final = 3 / 13
"""Least shrinkage of `ridge` unless the space says otherwise: λ = 0.3 · tr(C)/d."""

KERNEL_RIDGE: Final = 0.1
"""Ridge of `exp`, against a kernel of 1 on the diagonal."""
KERNEL_WIDE: Final = 1000
"""Anchors from which the kernel of `exp` has its full sharpness; fewer bear a wider one only."""
KERNEL_JITTER: Final = 1e-9
"""Keeps the kernel of landmarks that coincide positive definite in float64."""
FINE: Final = 1e-8
"""Smallest eigenvalue of V Vᵀ, relative to the largest, that is still known to eight digits."""
BLOCK: Final = 2048
"""Anchors whose kernel is held at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Inverse:
    """What of a space is worth keeping for a bridge.

    Attributes:
        matrix: float64. L (m, m), lower triangular, of `exp`; L of `ridge` and E of `whitened`,
            (d, d) or (k, k), whichever is smaller; the rows of D that are not zero, (m, d), of
            `irp`.
        at: (m,) indices of the anchors that stand behind the rows, for `exp` and `irp`.
    """

    matrix: Array
    at: Array | None = None

    def on(self, convert: Convert) -> "Inverse":
        """The same with its matrix converted, such as to float32."""
        return replace(self, matrix=convert(self.matrix))


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


def ridge_inverse(seen: Frame, shrinkage: float | None) -> Inverse:
    """L with P_X = (L Lᵀ)⁻¹ Uᵀ or, for k < d, P_X = Uᵀ (L Lᵀ)⁻¹.

    P_X = G⁻¹ Uᵀ / k with G = (1 − ρ′) S + ρ′ tr(S)/d · I and S = UᵀU / k. (1 − ρ′) P_X V is the
    ridge regression, with λ = ρ′ k tr(S) / (d (1 − ρ′)), from the unit anchors of X to those of
    any Y; translation does not see the factor. At ρ′ = 0 it is the pseudo-inverse of U.

    Args:
        seen: The frame of the space that is read from.
        shrinkage: ρ′ in [0, 1]; None takes max(OAS, 3/13).

    Returns:
        Finite; scaling or moving the anchors leaves it unchanged.

    Source:
        Takes the place of the pseudo-inverse of Maiorca et al., arXiv 2406.15057, on the other
        side; ours. Chen et al., 2010, for ρ.
    """
    xp = array_namespace(seen.unit)
    k, d = seen.unit.shape
    gram = _gram(seen)
    trace, rho = _shrunk(gram, k, d, shrinkage)
    if rho < RTOL:
        return Inverse(_filtered(seen, rho, trace))
    gram *= (1 - rho) * k
    gram += (rho * trace / d * k) * xp.eye(gram.shape[0], dtype=gram.dtype, device=device(gram))
    return Inverse(cholesky(gram))


def ridge_read(seen: Frame, found: Inverse, write: Array, shrinkage: float | None) -> Array:
    """P_X write.

    Args:
        seen: The frame of the space that is read from.
        found: Its `ridge_inverse`.
        write: (k, e).
        shrinkage: ρ′ that it was computed with.

    Returns:
        (d, e); anchors at the mean, whose rows are zero, have no part in it.
    """
    if seen.count < seen.width:
        return seen.unit.T @ solve_factored(found.matrix, write)
    if shrinkage is not None:
        return solve_factored(found.matrix, seen.unit.T @ write)
    # The rule shrinks so much that float32 moves translated rows by no more than their own
    # rounding does, and these are by far the longest steps: they take half of the time.
    xp = array_namespace(write)
    unit, narrow, lower = (
        xp.astype(rows, xp.float32, copy=False) for rows in (seen.unit, write, found.matrix)
    )
    # Laid out by columns, as the solver wants it.
    return xp.astype(solve_factored(lower, (narrow.T @ unit).T), write.dtype)


def whitened_inverse(seen: Frame, shrinkage: float | None, power: float) -> Inverse:
    """E with W_Y = V E or, for k < d, W_Y = E V.

    W_Y = V G_Y^(−b), the unit anchors with the spread of their directions partly evened out.
    Regression shrinks the weak directions of a space most, and this gives them some of their size
    back: more rows find their own neighbour, at some cost in mean cosine. Rotating the anchors
    rotates W.

    Args:
        seen: The frame of the space that is written into.
        shrinkage: ρ′ of G as in `ridge_inverse`; None takes max(OAS, 3/13).
        power: b, at least 0; 0 gives V itself.

    Returns:
        Finite.
    """
    unit = seen.unit
    xp = array_namespace(unit)
    k, d = unit.shape
    gram = _gram(seen)
    eye = xp.eye(gram.shape[0], dtype=gram.dtype, device=device(gram))
    if power == 0:
        return Inverse(eye)
    trace, rho = _shrunk(gram, k, d, shrinkage)
    values, vectors = xp.linalg.eigh(gram)
    sizes = (1 - rho) * xp.clip(values, 0.0, None) + rho * trace / d
    # Without shrinkage, a direction that the anchors do not have must not become infinite.
    kept = sizes > RTOL**2 * xp.max(sizes)
    gains = xp.where(kept, xp.where(kept, sizes, 1.0) ** -power, 0.0)
    even = (vectors * gains) @ vectors.T
    if k < d:
        return Inverse(even)
    # A dimension that the network leaves dead stays dead: heads may make much of what leaks in.
    sizes = _largest(unit)
    return Inverse(xp.where(sizes > RTOL * xp.max(sizes), even, eye))


def whitened_write(seen: Frame, found: Inverse) -> Array:
    """W_Y (k, d) of a space and its `whitened_inverse`; rows of zero anchors are zero."""
    if seen.count < seen.width:
        return found.matrix @ seen.unit
    return seen.unit @ found.matrix


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
    alive = np.flatnonzero(np.asarray(xp.any(seen.unit != 0, axis=1).tolist()))
    if len(alive) > most:
        alive = np.sort(np.random.default_rng(0).permutation(alive)[:most])
    return indices(alive, seen.unit)


def sharpness(seen: Frame) -> float:
    """γ of the kernel exp(γ (unit(x) Uᵀ − 1)): √(k/1000) and at most 1.

    With γ near 0 the kernel is as good as linear, which is what few anchors can tell.
    """
    return min(1.0, math.sqrt(seen.count / KERNEL_WIDE))


def exp_inverse(seen: Frame, most: int) -> Inverse:
    """L of A_X, so that exp(γ (unit(x) Uₘᵀ − 1)) A_X is a row in weights of all the anchors.

    Kernel ridge regression of the identity on the anchors. With all of them as landmarks A_X =
    (L Lᵀ)⁻¹ = (K + 0.1 I)⁻¹; in the span of m of them (Nyström) A_X = (L Lᵀ)⁻¹ Kₘᵀ, with Kₘ (k, m)
    the kernel of all anchors with the landmarks. Where landmarks all but coincide the inverse
    itself could not be held to enough digits; its factor can.

    Args:
        seen: The frame of the space that is read from.
        most: m, how many landmarks at most.

    Returns:
        L (m, m) and the landmarks. Rotating, scaling or moving the anchors leaves it unchanged.

    Source:
        The elementwise exponential of the relative representation of Moschella et al., arXiv
        2209.15430; Williams and Seeger, Using the Nyström Method to Speed Up Kernel Machines,
        2000. That it can be written through any other space's anchors is ours.
    """
    xp = array_namespace(seen.unit)
    at = landmarks(seen, most)
    some = seen.unit[at, :]
    own = _kernel(some, some, sharpness(seen))
    m = own.shape[0]
    eye = xp.eye(m, dtype=own.dtype, device=device(own))
    if m == _alive(seen):
        own += KERNEL_RIDGE * eye
        return Inverse(cholesky(own), at)
    lower = cholesky(own + KERNEL_JITTER * eye)
    normal = KERNEL_RIDGE * eye
    for _, kernel in _kernels(seen, some):
        # Features whose products are the kernel of the landmarks' span: well conditioned, unlike
        # its square.
        features = solve_triangular(lower, kernel.T)
        normal += features @ features.T
    return Inverse(lower @ cholesky(normal), at)


def exp_read(seen: Frame, found: Inverse, write: Array) -> Array:
    """A_X write.

    Args:
        seen: The frame of the space that is read from.
        found: Its `exp_inverse`.
        write: (k, e).

    Returns:
        (m, e); anchors at the mean have no part in it.
    """
    if found.matrix.shape[0] == _alive(seen):
        return solve_factored(found.matrix, write[found.at, :])
    xp = array_namespace(write)
    total = xp.zeros_like(write[: found.matrix.shape[0], :])
    for rows, kernel in _kernels(seen, seen.unit[found.at, :]):
        total += kernel.T @ write[rows, :]
    return solve_factored(found.matrix, total)


def irp_inverse(seen: Frame, delta: float, omega: int) -> Inverse:
    """D_Y = (1/ω) Σᵢ scatter(pinv(V[Sᵢ]ᵀ)), over ω prunings Sᵢ of the anchors.

    Args:
        seen: The frame of the space that is written into.
        delta: Least distance in [0, 1] between kept anchors.
        omega: Number of prunings.

    Returns:
        The rows of D_Y (k, d) of anchors that some pruning keeps; the others are zero. Translation
        is linear in it, so this is the mean of ω translations. Unpruned, Uᵀ D_Y is the transpose
        of the least-squares regression from Y back to X.

    Source:
        Maiorca et al., arXiv 2406.15057: inverse relative projection, anchor pruning and
        subspaces.
    """
    picks = prunings(seen.unit, delta, omega)
    kept = np.unique(np.concatenate(picks))
    at = indices(kept, seen.unit)
    total = array_namespace(seen.unit).zeros_like(seen.unit[at, :])
    for picked in picks:
        place = indices(np.searchsorted(kept, picked), total)
        total[place, :] += _inverted(seen.unit[indices(picked, total), :])
    return Inverse(total / omega, at)


def _gram(seen: Frame) -> Array:
    """UᵀU / k, or UUᵀ / k for k < d, which is smaller, gives the same map, and has its traces."""
    unit = seen.unit
    return (unit @ unit.T if seen.count < seen.width else unit.T @ unit) / seen.count


def _alive(seen: Frame) -> int:
    """How many anchors have a direction."""
    xp = array_namespace(seen.unit)
    return int(xp.sum(xp.astype(xp.any(seen.unit != 0, axis=1), xp.int64)))


def _largest(unit: Array) -> Array:
    """(d,) the largest size of each dimension."""
    xp = array_namespace(unit)
    return xp.maximum(xp.max(unit, axis=0), -xp.min(unit, axis=0))


def _kernel(rows: Array, some: Array, gamma: float) -> Array:
    """exp(γ (rows someᵀ − 1)) of unit rows, in the memory of the product where that can be."""
    xp = array_namespace(rows)
    found = rows @ some.T
    found -= 1.0
    found *= gamma
    return xp.exp(found)


def _kernels(seen: Frame, some: Array) -> Iterator[tuple[slice, Array]]:
    """The kernel of all anchors with some of them, a block at a time; zero for zero anchors."""
    xp = array_namespace(some)
    for start in range(0, seen.count, BLOCK):
        rows = slice(start, start + BLOCK)
        unit = seen.unit[rows, :]
        kernel = _kernel(unit, some, sharpness(seen))
        kernel[~xp.any(unit != 0, axis=1), :] = 0.0
        yield rows, kernel


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


def _filtered(seen: Frame, rho: float, trace: float) -> Array:
    """L of `ridge` by singular values, for a ρ′ that cannot make a singular S invertible."""
    xp = array_namespace(seen.unit)
    k, d = seen.unit.shape
    w, s, zt = xp.linalg.svd(seen.unit, full_matrices=False)
    vectors = w if k < d else zt.T
    # A direction that is left out counts as the largest: what noise is in it, it makes none of.
    sizes = xp.where(s > RTOL * s[0], (1 - rho) * s**2 + rho * trace / d * k, s[0] ** 2)
    # By its triangle, and not by a Cholesky factor, which would take half of the digits.
    return xp.linalg.qr(xp.sqrt(sizes)[:, None] * vectors.T).R.T


def _inverted(rows: Array) -> Array:
    """pinv(Vᵀ) of (m, d) rows V, as (m, d)."""
    xp = array_namespace(rows)
    m, d = rows.shape
    if m <= d:
        # From V Vᵀ, in a fraction of the time, where its smallest eigenvalue is no rounding.
        gram = rows @ rows.T
        values, vectors = xp.linalg.eigh(gram)
        if float(values[0]) > FINE * float(values[-1]):
            return (vectors / values) @ (vectors.T @ rows)
    return xp.linalg.pinv(rows.T, rtol=RTOL)
