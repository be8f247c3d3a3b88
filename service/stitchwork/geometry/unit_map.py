"""Maps into spaces of unit rows."""

from dataclasses import dataclass, replace
from typing import Self

from stitchwork.geometry import Array
from stitchwork.geometry.frame import normalise
from stitchwork.geometry.linalg import Convert
from stitchwork.geometry.maps import Map, Translation


@dataclass(frozen=True, slots=True, eq=False)
class UnitMap:
    """y = normalise(z) of another map's rows z, which lie near the unit sphere but not on it.

    An inner product ranks neighbours as their cosine does only among rows of one length.

    Attributes:
        inner: The map whose rows are scaled.
    """

    inner: Map

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, in bytes."""
        return self.inner.nbytes

    @property
    def source_width(self) -> int:
        """Width of its input rows, d_X."""
        return self.inner.source_width

    @property
    def target_width(self) -> int:
        """Width of its output rows, d_Y."""
        return self.inner.target_width

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with every array converted."""
        return replace(self, inner=self.inner.convert_arrays(convert))

    def apply(self, x: Array) -> Translation:
        """Rows of the source as unit rows of the target.

        Args:
            x: (n, d_X) float32, need not be unit; other dtypes are converted to float32.

        Returns:
            The inner map's rows, each divided by its norm. A row that is not defined becomes the
            direction of mu_Y, and a zero row where mu_Y is zero.

        Raises:
            InvalidInputError: If the rows do not have the source's width.
        """
        rows, defined = self.inner.apply(x)
        unit, norms = normalise(rows)
        return Translation(unit, defined & (norms > 0))
