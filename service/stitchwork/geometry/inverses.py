"""The cached factor of a space, computed from its anchors alone.

exp       A (m, k), the regularised inverse of the kernel between anchors, reads
ridge     P (d, k), the regularised pseudo-inverse of the unit anchors, reads
whitened  W (k, d), the unit anchors after a partial whitening, writes
irp       D (k, d), the mean of pseudo-inverses of pruned unit anchors, writes

Each factor is a small inverse times the anchors, and only the small inverse is stored: its size
does not grow with the number of anchors, and products with the factor are computed in blocks.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self, TypeAlias

from stitchwork.geometry import Array
from stitchwork.geometry.linalg import Convert

InverseName: TypeAlias = Literal["exp", "ridge", "whitened", "irp"]


@dataclass(frozen=True, slots=True, eq=False)
class Inverse:
    """The part of a bridge's factor that is worth caching for a space.

    Attributes:
        name: Which factor.
        matrix: float64. L (m, m), lower triangular, of `exp`; L of `ridge` and E of `whitened`,
            (d, d) or (k, k), whichever is smaller; the nonzero rows of D, (m, d), of `irp`.
        anchor_indices: (m,) indices of the anchors that the rows belong to, for `exp` and `irp`.
    """

    name: InverseName
    matrix: Array
    anchor_indices: Array | None = None

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with its matrix converted, such as to float32."""
        return replace(self, matrix=convert(self.matrix))
