"""Baselines that need both spaces at once, on unit rows in the frames of the bridges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.geometry.frame import Frame
from stitchwork.geometry.kernel_map import KernelMap
from stitchwork.geometry.linalg import RTOL
from stitchwork.geometry.maps import LinearMap

PENALTIES: Final = np.logspace(-6, 2, 65)
"""Ridge penalties to choose from, relative to tr(UᵀU)/d."""


SHARPNESSES: Final = (0.25, 0.5, 1.0, 2.0)
"""Values of the kernel's sharpness that kernel ridge regression chooses from."""
KERNEL_PENALTIES: Final = np.logspace(-4, 1, 26)
"""Its penalties, where the kernel's diagonal is 1."""


class AnchorSvd(NamedTuple):
    """The singular value decomposition of unit anchors: U = left · diag(values) · rightᵀ."""

    values: NDArray[np.float64]
    right: NDArray[np.float64]


def anchor_svd(frame: Frame) -> AnchorSvd:
    """Singular values of the unit anchors above 1e-6 of the largest, and their directions."""
    unit: NDArray[np.float64] = np.asarray(frame.unit_anchors)
    dual = len(unit) < unit.shape[1]
    squares, vectors = np.linalg.eigh(unit @ unit.T if dual else unit.T @ unit)
    significant = squares > RTOL**2 * squares[-1]
    values, vectors = np.sqrt(squares[significant]), vectors[:, significant]
    return AnchorSvd(values, unit.T @ (vectors / values) if dual else vectors)


def ridge_gcv(x: Frame, y: Frame, svd: AnchorSvd) -> LinearMap:
    """Ridge regression from X's unit anchors to Y's, the penalty by generalised cross-validation.

    Args:
        x: The source.
        y: The target, on the same anchors.
        svd: The source's singular values and directions.

    Returns:
        The map with the penalty of minimum error over `PENALTIES`.

    Source:
        Golub, Heath and Wahba, Generalized Cross-Validation, 1979.
    """
    u: NDArray[np.float64] = np.asarray(x.unit_anchors)
    v: NDArray[np.float64] = np.asarray(y.unit_anchors)
    k, d = u.shape
    values, right = svd
    # leftᵀ V, which determines the error of every penalty.
    projections = (right.T @ (u.T @ v)) / values[:, None]
    power = np.sum(projections**2, axis=1)
    total = float(np.sum(v**2))
    best_score, best_penalty = np.inf, PENALTIES[0]
    for penalty in PENALTIES * float(np.sum(values**2)) / d:
        gain = values**2 / (values**2 + penalty)
        error = total - float(np.sum((2 * gain - gain**2) * power))
        # The mean by which the anchors were centred is one more degree of freedom.
        freedom = 1 - (float(np.sum(gain)) + 1) / k
        if freedom <= 0:
            continue
        score = (error / k) / freedom**2
        if score < best_score:
            best_score, best_penalty = score, penalty
    shrunk = values / (values**2 + best_penalty)
    return LinearMap.from_product((right * shrunk) @ projections, x, y)


@dataclass(frozen=True, slots=True, eq=False)
class KernelSpectrum:
    """The kernel exp(γ (U Uᵀ − 1)) of unit anchors: vectors · diag(values) · vectorsᵀ.

    Attributes:
        sharpness: γ.
        values: (k,) eigenvalues, ascending.
        vectors: (k, k) eigenvectors, in columns.
    """

    sharpness: float
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]


def kernel_spectra(frame: Frame) -> list[KernelSpectrum]:
    """The kernel of a source at each of `SHARPNESSES`."""
    unit: NDArray[np.float64] = np.asarray(frame.unit_anchors)
    cosines = unit @ unit.T
    return [
        KernelSpectrum(sharpness, *np.linalg.eigh(np.exp(sharpness * (cosines - 1))))
        for sharpness in SHARPNESSES
    ]


@dataclass(frozen=True, slots=True, eq=False)
class KernelRidge:
    """Kernel ridge regression from one space's unit anchors to another's, tuned on the pair.

    Attributes:
        spectrum: The kernel with the chosen sharpness.
        penalty: The chosen penalty.
    """

    spectrum: KernelSpectrum
    penalty: float

    def to_map(self, x: Frame, y: Frame, write: NDArray[np.float64]) -> KernelMap:
        """The map that writes through the rows (k, d_Y) of `write`, such as Y's unit anchors."""
        vectors, values = self.spectrum.vectors, self.spectrum.values
        weights = vectors @ ((vectors.T @ write) / (values + self.penalty)[:, None])
        return KernelMap.from_weights(x.unit_anchors, self.spectrum.sharpness, weights, x, y)


def kernel_ridge_gcv(spectra: Sequence[KernelSpectrum], y: Frame) -> KernelRidge:
    """The γ and penalty of minimum error by generalised cross-validation.

    Args:
        spectra: The source's `kernel_spectra`.
        y: The target, on the same anchors.
    """
    v: NDArray[np.float64] = np.asarray(y.unit_anchors)
    best_score, best = np.inf, KernelRidge(spectra[0], float(KERNEL_PENALTIES[-1]))
    for spectrum in spectra:
        power = np.sum((spectrum.vectors.T @ v) ** 2, axis=1)
        for penalty in KERNEL_PENALTIES:
            loss = penalty / (spectrum.values + penalty)
            freedom = float(np.mean(loss)) - 1 / len(v)
            if freedom <= 0:
                continue
            score = float(np.sum(loss**2 * power)) / freedom**2
            if score < best_score:
                best_score, best = score, KernelRidge(spectrum, float(penalty))
    return best


def procrustes(x: Frame, y: Frame) -> LinearMap:
    """The orthogonal map that takes X's unit anchors closest to Y's.

    Source:
        Schönemann, A generalized solution of the orthogonal Procrustes problem, 1966; as used by
        Maiorca et al., arXiv 2311.00664.
    """
    product = np.asarray(x.unit_anchors).T @ np.asarray(y.unit_anchors)
    return LinearMap.from_product(polar(product), x, y)


def polar(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """W Zᵀ of M = W S Zᵀ, the nearest orthogonal map; what M maps to zero has no image.

    From the smaller of the two Gram matrices, which is faster than a singular value decomposition.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return polar(matrix.T).T
    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    significant = squares > RTOL**2 * squares[-1]
    vectors = vectors[:, significant]
    nearest: NDArray[np.float64] = ((matrix @ vectors) / np.sqrt(squares[significant])) @ vectors.T
    return nearest
