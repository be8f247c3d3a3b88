"""Baselines that need both spaces at once, on unit rows in the frames of the bridges."""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import RTOL
from stitchwork.geometry.maps import LinearMap

LAMBDAS: Final = np.logspace(-6, 2, 65)
"""Penalties tried, relative to tr(UᵀU)/d."""


class Eigen(NamedTuple):
    """Unit anchors by their singular vectors: U = left · diag(values) · rightᵀ."""

    values: NDArray[np.float64]
    right: NDArray[np.float64]


def eigen(seen: Frame) -> Eigen:
    """Singular values of the unit anchors above 1e-6 of the largest, and their directions."""
    unit: NDArray[np.float64] = np.asarray(seen.unit_anchors)
    dual = len(unit) < unit.shape[1]
    squares, vectors = np.linalg.eigh(unit @ unit.T if dual else unit.T @ unit)
    kept = squares > RTOL**2 * squares[-1]
    values, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    return Eigen(values, unit.T @ (vectors / values) if dual else vectors)


def ridge_gcv(x: Frame, y: Frame, of_x: Eigen) -> LinearMap:
    """Ridge regression from X's unit anchors to Y's, the penalty by generalised cross-validation.

    Args:
        x: The source.
        y: The target, on the same anchors.
        of_x: The source's singular values and directions.

    Returns:
        The map, with the penalty of least error over `LAMBDAS`.

    Source:
        Golub, Heath and Wahba, Generalized Cross-Validation, 1979.
    """
    u: NDArray[np.float64] = np.asarray(x.unit_anchors)
    v: NDArray[np.float64] = np.asarray(y.unit_anchors)
    k, d = u.shape
    values, right = of_x
    # leftᵀ V, by which the error of every penalty is known.
    along = (right.T @ (u.T @ v)) / values[:, None]
    power = np.sum(along**2, axis=1)
    total = float(np.sum(v**2))
    best, chosen = np.inf, LAMBDAS[0]
    for penalty in LAMBDAS * float(np.sum(values**2)) / d:
        gain = values**2 / (values**2 + penalty)
        error = total - float(np.sum((2 * gain - gain**2) * power))
        # The mean that centred the anchors is one more degree of freedom.
        left = 1 - (float(np.sum(gain)) + 1) / k
        if left <= 0:
            continue
        score = (error / k) / left**2
        if score < best:
            best, chosen = score, penalty
    shrunk = values / (values**2 + chosen)
    return LinearMap.from_product((right * shrunk) @ along, x, y)


def procrustes(x: Frame, y: Frame) -> LinearMap:
    """The orthogonal map nearest to taking X's unit anchors to Y's.

    Source:
        Schönemann, A generalized solution of the orthogonal Procrustes problem, 1966; as used by
        Maiorca et al., arXiv 2311.00664.
    """
    return LinearMap.from_product(
        polar(np.asarray(x.unit_anchors).T @ np.asarray(y.unit_anchors)), x, y
    )


def polar(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """W Zᵀ of M = W S Zᵀ, the nearest orthogonal map; what M takes to nothing has no image.

    By the smaller of the two Gram matrices, which is faster than by singular values.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return polar(matrix.T).T
    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    kept = squares > RTOL**2 * squares[-1]
    vectors = vectors[:, kept]
    nearest: NDArray[np.float64] = ((matrix @ vectors) / np.sqrt(squares[kept])) @ vectors.T
    return nearest
