"""What rows lose if a model is computed with less precision."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_COSINE: Final = 0.9999
"""Rows at a smaller cosine to those of float32 are not as good as those."""
TIE: Final = 1e-3
"""Rows whose cosines to a row differ by less are equally near to it."""


class RowPrecision(NamedTuple):
    """Comparison of rows with precise rows of the same inputs.

    Attributes:
        min_cosine: Smallest cosine of a row to the precise one.
        same_nearest: Share of the rows whose nearest other row is the nearest by the precise rows.
    """

    min_cosine: float
    same_nearest: float

    @property
    def is_equivalent(self) -> bool:
        """Whether the rows can stand for the precise ones."""
        return self.min_cosine >= MIN_COSINE and self.same_nearest == 1


def row_precision(x: NDArray[np.float32], precise: NDArray[np.float32]) -> RowPrecision:
    """Compare rows with precise rows of the same inputs.

    Args:
        x: (n, d) rows; n is 2 or more.
        precise: (n, d) what they would be with more precision.

    Returns:
        (1, 1) if both have the same directions; (-1, 0) if one has rows that are not finite.
    """
    if not (np.isfinite(x).all() and np.isfinite(precise).all()):
        return RowPrecision(-1.0, 0.0)
    rows, expected = _unit(x), _unit(precise)
    cosines = (rows * expected).sum(axis=1)
    nearest, others = _cosines(rows).argmax(axis=1), _cosines(expected)
    losses = others.max(axis=1) - others[np.arange(len(others)), nearest]
    return RowPrecision(float(cosines.min()), float((losses < TIE).mean()))


def _unit(x: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = x.astype(np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, np.finfo(np.float64).tiny)


def _cosines(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines (n, n) between different rows; those of a row to itself do not count."""
    cosines: NDArray[np.float64] = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines
