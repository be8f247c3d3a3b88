"""Settings of an evaluation: everything besides the data that its numbers depend on."""

from dataclasses import dataclass
from typing import Final

from stitchwork.errors import InvalidInputError

COUNTS: Final = (300, 1000, 1500, 3000)
SMALL_COUNTS: Final = (25, 50, 100, 200, 500)
DELTAS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
OMEGAS: Final = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class ExperimentSettings:
    """Settings of an evaluation.

    Attributes:
        seed: Seed of draws, splits and networks.
        draws: Draws of anchors of each size.
        counts: Numbers of anchors; those that the data allows are used, and the largest it allows.
        small_counts: Smaller numbers of anchors, for the learning curve, in one draw.
        deltas: Pruning distances that `irp` is measured at.
        omegas: Numbers of subspaces that `irp` is measured at.
        max_head_rows: Maximum number of training rows that a head is fitted on.
        max_test_rows: Maximum number of test rows that accuracy is measured on.
        gallery_size: Maximum number of test rows that an item is searched among.
        validation_share: Share of the training rows on which δ and ω are chosen.

    Raises:
        InvalidInputError: If a number is out of its range.
    """

    seed: int = 0
    draws: int = 3
    counts: tuple[int, ...] = COUNTS
    small_counts: tuple[int, ...] = SMALL_COUNTS
    deltas: tuple[float, ...] = DELTAS
    omegas: tuple[int, ...] = OMEGAS
    max_head_rows: int = 5000
    max_test_rows: int = 2000
    gallery_size: int = 1000
    validation_share: float = 0.2

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InvalidInputError(f"expected at least 1 draw of anchors, got {self.draws}")
        if not self.counts or min(self.counts) < 2:
            raise InvalidInputError(f"expected numbers of anchors of 2 or more, got {self.counts}")
        if not 0 < self.validation_share < 1:
            raise InvalidInputError(
                f"expected a share of validation rows between 0 and 1, got {self.validation_share}"
            )

    def sizes(self, available: int) -> list[int]:
        """Numbers of anchors that this many training rows allow, with the largest possible one."""
        largest = min(available, max(self.counts))
        return sorted({k for k in self.counts if k <= available} | {largest})
