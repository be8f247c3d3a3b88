"""Factors of the `exp` bridge: kernel ridge regression on exp(γ (unit(x) Uᵀ − 1))."""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from array_api_compat import array_namespace, device

from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame, nonzero_anchors
from stitchwork.geometry.inverses import Inverse
from stitchwork.geometry.linalg import (
    cholesky,
    cholesky_solve,
    index_array,
    solve_triangular,
    to_numpy,
)

RIDGE: Final = 0.1
"""Added to the diagonal of the kernel, which is 1."""
FULL_SHARPNESS_ANCHORS: Final = 1000
"""Number of anchors from which the sharpness is 1; fewer support only a wider kernel."""
JITTER: Final = 1e-9
"""Keeps the kernel of coinciding landmarks positive definite in float64."""
BLOCK: Final = 2048
"""Anchors whose kernel rows are in memory at a time."""


def landmark_indices(frame: Frame, max_landmarks: int) -> Array:
    """Indices of the anchors that the kernel compares a row with.

    Args:
        frame: The frame of the source space.
        max_landmarks: Maximum number of landmarks.

    Returns:
        (m,) ascending indices of anchors that differ from their mean; a seeded random sample where
        there are more than `max_landmarks`, since anchors may be sorted.
    """
    candidates = np.flatnonzero(to_numpy(nonzero_anchors(frame)))
    if len(candidates) > max_landmarks:
        sample = np.random.default_rng(0).permutation(candidates)[:max_landmarks]
        candidates = np.sort(sample)
    return index_array(candidates, frame.unit_anchors)


def kernel_sharpness(frame: Frame) -> float:
    """γ of the kernel exp(γ (unit(x) Uᵀ − 1)): √(k/1000), at most 1.

    With γ near 0 the kernel is almost linear, which is all that few anchors can determine.
    """
    return min(1.0, math.sqrt(frame.count / FULL_SHARPNESS_ANCHORS))


def exp_inverse(frame: Frame, max_landmarks: int) -> Inverse:
    """L of A_X, so that exp(γ (unit(x) Uₘᵀ − 1)) A_X is a row in weights of all the anchors.

    Kernel ridge regression of the identity on the anchors. With all of them as landmarks A_X =
    (L Lᵀ)⁻¹ = (K + 0.1 I)⁻¹; in the span of m of them (Nyström) A_X = (L Lᵀ)⁻¹ Kₘᵀ, with Kₘ (k, m)
    the kernel of all anchors with the landmarks. The factor L is stored because, where landmarks
    almost coincide, the inverse itself would lose too many digits.

    Args:
        frame: The frame of the source space.
        max_landmarks: Maximum number of landmarks, m.

    Returns:
        L (m, m) and the landmarks. Rotating, scaling or moving the anchors leaves it unchanged.

    Source:
        The elementwise exponential of the relative representation of Moschella et al., arXiv
        2209.15430; Williams and Seeger, Using the Nyström Method to Speed Up Kernel Machines,
        2000. Writing the result through the anchors of any other space is ours.
    """
    xp = array_namespace(frame.unit_anchors)
    anchor_indices = landmark_indices(frame, max_landmarks)
    landmarks = frame.unit_anchors[anchor_indices, :]
    kernel = _kernel(landmarks, landmarks, kernel_sharpness(frame))
    m = kernel.shape[0]
    eye = xp.eye(m, dtype=kernel.dtype, device=device(kernel))
    if m == _nonzero_count(frame):
        kernel += RIDGE * eye
        return Inverse("exp", cholesky(kernel), anchor_indices)
    lower = cholesky(kernel + JITTER * eye)
    normal = RIDGE * eye
    for _, rows in _kernel_blocks(frame, landmarks):
        # Features whose products are the kernel in the landmarks' span: better conditioned than
        # the squared kernel.
        features = solve_triangular(lower, rows.T)
        normal += features @ features.T
    return Inverse("exp", lower @ cholesky(normal), anchor_indices)


def apply_exp_read(frame: Frame, inverse: Inverse, write: Array) -> Array:
    """The product A_X · write.

    Args:
        frame: The frame of the source space.
        inverse: Its `exp_inverse`.
        write: (k, e).

    Returns:
        (m, e), which does not depend on the rows of anchors at the mean.
    """
    if inverse.matrix.shape[0] == _nonzero_count(frame):
        return cholesky_solve(inverse.matrix, write[inverse.anchor_indices, :])
    xp = array_namespace(write)
    total = xp.zeros_like(write[: inverse.matrix.shape[0], :])
    for rows, kernel in _kernel_blocks(frame, frame.unit_anchors[inverse.anchor_indices, :]):
        total += kernel.T @ write[rows, :]
    return cholesky_solve(inverse.matrix, total)


def _nonzero_count(frame: Frame) -> int:
    xp = array_namespace(frame.unit_anchors)
    return int(xp.sum(xp.astype(nonzero_anchors(frame), xp.int64)))


def _kernel(rows: Array, landmarks: Array, gamma: float) -> Array:
    """exp(γ (rows landmarksᵀ − 1)) of unit rows, computed in place where possible."""
    xp = array_namespace(rows)
    exponents = rows @ landmarks.T
    exponents -= 1.0
    exponents *= gamma
    return xp.exp(exponents)


def _kernel_blocks(frame: Frame, landmarks: Array) -> Iterator[tuple[slice, Array]]:
    """The kernel of all anchors with the landmarks, in blocks; zero for zero anchors."""
    xp = array_namespace(landmarks)
    for start in range(0, frame.count, BLOCK):
        rows = slice(start, start + BLOCK)
        unit = frame.unit_anchors[rows, :]
        kernel = _kernel(unit, landmarks, kernel_sharpness(frame))
        kernel[~xp.any(unit != 0, axis=1), :] = 0.0
        yield rows, kernel
