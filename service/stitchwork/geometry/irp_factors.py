"""Factors of the `irp` bridge: the paper's inverse relative projection."""

from typing import Final

import numpy as np
from array_api_compat import array_namespace

from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.inverses import Inverse
from stitchwork.geometry.linalg import RTOL, index_array
from stitchwork.geometry.sampling import prunings

MIN_EIGENVALUE: Final = 1e-8
"""Smallest eigenvalue of V Vᵀ, relative to the largest, that is accurate to eight digits."""


def irp_inverse(frame: Frame, delta: float, omega: int) -> Inverse:
    """D_Y = (1/ω) Σᵢ scatter(pinv(V[Sᵢ]ᵀ)), over ω prunings Sᵢ of the anchors.

    Args:
        frame: The frame of the target space.
        delta: Minimum distance in [0, 1] between the anchors of a pruning.
        omega: Number of prunings, ω.

    Returns:
        The rows of D_Y (k, d) of anchors that are in some pruning; the other rows are zero.
        Translation is linear in it, so this is the mean of ω translations. Without pruning, Uᵀ D_Y
        is the transpose of the least-squares regression from Y back to X.

    Source:
        Maiorca et al., arXiv 2406.15057: inverse relative projection, anchor pruning and
        subspaces.
    """
    subspaces = prunings(frame.unit_anchors, delta, omega)
    used = np.unique(np.concatenate(subspaces))
    anchor_indices = index_array(used, frame.unit_anchors)
    xp = array_namespace(frame.unit_anchors)
    total = xp.zeros_like(frame.unit_anchors[anchor_indices, :])
    for subspace in subspaces:
        rows = index_array(np.searchsorted(used, subspace), total)
        total[rows, :] += _pseudo_inverse(frame.unit_anchors[index_array(subspace, total), :])
    return Inverse("irp", total / omega, anchor_indices)


def _pseudo_inverse(rows: Array) -> Array:
    """pinv(Vᵀ) of (m, d) rows V, as (m, d)."""
    xp = array_namespace(rows)
    m, d = rows.shape
    if m <= d:
        # Through V Vᵀ, which is much faster, where its smallest eigenvalue is accurate.
        gram = rows @ rows.T
        values, vectors = xp.linalg.eigh(gram)
        if float(values[0]) > MIN_EIGENVALUE * float(values[-1]):
            return (vectors / values) @ (vectors.T @ rows)
    return xp.linalg.pinv(rows.T, rtol=RTOL)
