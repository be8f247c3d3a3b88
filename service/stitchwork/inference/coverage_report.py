"""Inputs of a request that lie outside what the anchors of their space cover."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stitchwork.resources import Space


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """Inputs that the anchors do not cover.

    Attributes:
        uncovered: Indices of these inputs.
        warnings: One sentence if there are any, otherwise empty.
    """

    uncovered: list[int]
    warnings: list[str]

    @classmethod
    def of(cls, covered: Any, space: Space) -> "CoverageReport":
        """Make a report.

        Args:
            covered: (n,) bool; False where the anchors do not cover an input.
            space: The space of the inputs.
        """
        if covered.all():
            return cls([], [])
        uncovered: list[int] = np.flatnonzero(~covered).tolist()
        warning = (
            f"{len(uncovered)} of {len(covered)} inputs lie outside what the anchors of space "
            f"{space.id} cover (as does 1 in 100 of the anchors themselves): their translations "
            "are unreliable"
        )
        return cls(uncovered, [warning])
