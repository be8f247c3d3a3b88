"""Factors of the `ridge` bridge, and the whitened write of `exp` and `ridge-whitened`."""

from typing import Final

from array_api_compat import array_namespace, device

from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.inverses import Inverse
from stitchwork.geometry.linalg import RTOL, cholesky, cholesky_solve

MIN_SHRINKAGE: Final = 3 / 13
"""Minimum shrinkage unless the space sets it: λ = 0.3 · tr(C)/d."""


def oas_shrinkage(covariance: Array, samples: int) -> float:
    """The shrinkage estimated by Oracle Approximating Shrinkage (OAS).

    Args:
        covariance: (d, d) C = UᵀU / k, about zero.
        samples: Number of rows of U, k.

    Returns:
        ρ in [0, 1]; 1 where the covariance is isotropic. Scaling the covariance leaves it
        unchanged.

    Source:
        Chen et al., Shrinkage Algorithms for MMSE Covariance Estimation, 2010, equation 23,
        without its terms in 2/d, as in scikit-learn.
    """
    xp = array_namespace(covariance)
    trace = float(xp.linalg.trace(covariance))
    squares = float(xp.sum(covariance * covariance))
    return _oas_from_traces(trace, squares, samples, covariance.shape[0])


def ridge_inverse(frame: Frame, shrinkage: float | None) -> Inverse:
    """L with P_X = (L Lᵀ)⁻¹ Uᵀ or, for k < d, P_X = Uᵀ (L Lᵀ)⁻¹.

    P_X = G⁻¹ Uᵀ / k with G = (1 − ρ′) C + ρ′ tr(C)/d · I and C = UᵀU / k. (1 − ρ′) P_X V is the
    ridge regression, with λ = ρ′ k tr(C) / (d (1 − ρ′)), from the unit anchors of X to those of
    any Y; translation does not depend on the factor 1 − ρ′. At ρ′ = 0 it is the pseudo-inverse
    of U.

    Args:
        frame: The frame of the source space.
        shrinkage: ρ′ in [0, 1]; None uses max(OAS, 3/13).

    Returns:
        Finite; scaling or moving the anchors leaves it unchanged.

    Source:
        Replaces the pseudo-inverse of Maiorca et al., arXiv 2406.15057, on the other side; ours.
        Chen et al., 2010, for ρ.
    """
    xp = array_namespace(frame.unit_anchors)
    k, d = frame.unit_anchors.shape
    gram = _gram(frame)
    trace, rho = _trace_and_shrinkage(gram, k, d, shrinkage)
    if rho < RTOL:
        return Inverse("ridge", _truncated_factor(frame, rho, trace))
    gram *= (1 - rho) * k
    gram += (rho * trace / d * k) * xp.eye(gram.shape[0], dtype=gram.dtype, device=device(gram))
    return Inverse("ridge", cholesky(gram))


def apply_ridge_read(
    frame: Frame, inverse: Inverse, write: Array, shrinkage: float | None
) -> Array:
    """The product P_X · write.

    Args:
        frame: The frame of the source space.
        inverse: Its `ridge_inverse`.
        write: (k, e).
        shrinkage: The ρ′ that the inverse was computed with.

    Returns:
        (d, e), which does not depend on the rows of anchors at the mean.
    """
    if frame.count < frame.width:
        return frame.unit_anchors.T @ cholesky_solve(inverse.matrix, write)
    if shrinkage is not None:
        return cholesky_solve(inverse.matrix, frame.unit_anchors.T @ write)
    # With the default rule, whose shrinkage is large, float32 changes translated rows by no more
    # than their own rounding does. These are by far the slowest steps, and take half of the time.
    xp = array_namespace(write)
    unit, write32, lower = (
        xp.astype(rows, xp.float32, copy=False)
        for rows in (frame.unit_anchors, write, inverse.matrix)
    )
    # Transposed into the column order that the solver expects.
    return xp.astype(cholesky_solve(lower, (write32.T @ unit).T), write.dtype)


def whitened_inverse(frame: Frame, shrinkage: float | None, power: float) -> Inverse:
    """E with W_Y = V E or, for k < d, W_Y = E V.

    W_Y = V G_Y^(−b) is a partial whitening of the unit anchors. Regression shrinks the weak
    directions of a space most, and whitening restores part of their size: more rows find their
    own nearest neighbour, at some cost in mean cosine. Rotating the anchors rotates W.

    Args:
        frame: The frame of the target space.
        shrinkage: ρ′ of G as in `ridge_inverse`; None uses max(OAS, 3/13).
        power: b, at least 0; 0 gives V itself.

    Returns:
        Finite.
    """
    unit = frame.unit_anchors
    xp = array_namespace(unit)
    k, d = unit.shape
    gram = _gram(frame)
    eye = xp.eye(gram.shape[0], dtype=gram.dtype, device=device(gram))
    if power == 0:
        return Inverse("whitened", eye)
    trace, rho = _trace_and_shrinkage(gram, k, d, shrinkage)
    values, vectors = xp.linalg.eigh(gram)
    sizes = (1 - rho) * xp.clip(values, 0.0, None) + rho * trace / d
    # Without shrinkage, a direction that the anchors lack must not become infinite.
    significant = sizes > RTOL**2 * xp.max(sizes)
    # A product of a matrix with its own transpose takes half of the time of another.
    roots = xp.where(significant, xp.where(significant, sizes, 1.0) ** (-power / 2), 0.0)
    scaled = vectors * roots
    whitening = scaled @ scaled.T
    if k < d:
        return Inverse("whitened", whitening)
    # A dimension that is constant in the network stays so: heads may be sensitive to it.
    peaks = _peak_per_dimension(unit)
    return Inverse("whitened", xp.where(peaks > RTOL * xp.max(peaks), whitening, eye))


def whitened_write(frame: Frame, inverse: Inverse) -> Array:
    """W_Y (k, d) from a space's `whitened_inverse`; rows of zero anchors are zero."""
    if frame.count < frame.width:
        return inverse.matrix @ frame.unit_anchors
    return frame.unit_anchors @ inverse.matrix


def _gram(frame: Frame) -> Array:
    """UᵀU / k, or for k < d the smaller UUᵀ / k, which has the same traces."""
    unit = frame.unit_anchors
    return (unit @ unit.T if frame.count < frame.width else unit.T @ unit) / frame.count


def _peak_per_dimension(unit: Array) -> Array:
    """(d,) the largest absolute value of each dimension."""
    xp = array_namespace(unit)
    return xp.maximum(xp.max(unit, axis=0), -xp.min(unit, axis=0))


def _trace_and_shrinkage(
    gram: Array, k: int, d: int, shrinkage: float | None
) -> tuple[float, float]:
    """The trace of C and ρ′, by the default rule unless it is set."""
    xp = array_namespace(gram)
    trace = float(xp.linalg.trace(gram))
    if shrinkage is not None:
        return trace, shrinkage
    return trace, max(_oas_from_traces(trace, float(xp.sum(gram * gram)), k, d), MIN_SHRINKAGE)


def _oas_from_traces(trace: float, squares: float, k: int, d: int) -> float:
    """ρ from tr C and tr C², which UUᵀ/k shares."""
    denominator = (k + 1) * (squares - trace**2 / d)
    return 1.0 if denominator <= 0 else min(1.0, (squares + trace**2) / denominator)


def _truncated_factor(frame: Frame, rho: float, trace: float) -> Array:
    """L of `ridge` by singular values, for a ρ′ too small to make a singular C invertible."""
    xp = array_namespace(frame.unit_anchors)
    k, d = frame.unit_anchors.shape
    w, s, zt = xp.linalg.svd(frame.unit_anchors, full_matrices=False)
    vectors = w if k < d else zt.T
    # A negligible direction counts as the largest, so that its noise is not amplified.
    sizes = xp.where(s > RTOL * s[0], (1 - rho) * s**2 + rho * trace / d * k, s[0] ** 2)
    # By QR: a Cholesky factor of the product would lose half of the digits.
    return xp.linalg.qr(xp.sqrt(sizes)[:, None] * vectors.T).R.T
