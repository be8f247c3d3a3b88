"""Which inputs of a request lie outside what the anchors of their space cover."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stitchwork.resources import Space


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """Inputs that the anchors do not cover.

    Attributes:
        uncovered: Their indices.
        warnings: One sentence if there are any, otherwise none.
    """

    uncovered: list[int]
    warnings: list[str]

    @classmethod
    def of(cls, covered: Any, space: Space) -> "CoverageReport":
        """From (n,) bool, False where the anchors of this space do not cover an input."""
        rows = np.flatnonzero(~covered).tolist()
        if not rows:
            return cls([], [])
        warning = (
            f"{len(rows)} of {len(covered)} inputs lie outside what the anchors of space "
            f"{space.id} cover (of its own anchors, 1 in 100 does): translations of them are not "
            "to be trusted"
        )
        return cls(rows, [warning])
