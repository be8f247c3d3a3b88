"""What an evaluation is asked to do: everything that its numbers depend on, besides the data."""

from dataclasses import dataclass
from typing import Final

from stitchwork.errors import InvalidInputError

COUNTS: Final = (300, 1000, 1500, 3000)
FEW: Final = (25, 50, 100, 200, 500)
DELTAS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
OMEGAS: Final = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Settings:
    """What an evaluation is asked to do.

    Attributes:
        seed: Of draws, splits and nets.
        draws: Draws of anchors of each size.
        counts: Numbers of anchors; those that the data allows are taken, and the largest it does.
        few: Fewer anchors, for the learning curve, in one draw.
        deltas: Pruning distances that `irp` is tried at.
        omegas: Numbers of subspaces that it is tried at.
        head_rows: Most training rows that a head is fitted on.
        test_rows: Most held-out rows that accuracy is measured on.
        gallery: Most held-out rows that an item is searched among.
        validation: Share of the training rows on which δ and ω are chosen.

    Raises:
        InvalidInputError: If a number is out of its range.
    """

    seed: int = 0
    draws: int = 3
    counts: tuple[int, ...] = COUNTS
    few: tuple[int, ...] = FEW
    deltas: tuple[float, ...] = DELTAS
    omegas: tuple[int, ...] = OMEGAS
    head_rows: int = 5000
    test_rows: int = 2000
    gallery: int = 1000
    validation: float = 0.2

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InvalidInputError(f"expected at least 1 draw of anchors, got {self.draws}")
        if not self.counts or min(self.counts) < 2:
            raise InvalidInputError(f"expected numbers of anchors of 2 or more, got {self.counts}")
        if not 0 < self.validation < 1:
            raise InvalidInputError(
                f"expected a share of rows between 0 and 1 to choose on, got {self.validation}"
            )

    def sizes(self, available: int) -> list[int]:
        """Numbers of anchors that so many training rows allow, the largest among them."""
        largest = min(available, max(self.counts))
        return sorted({k for k in self.counts if k <= available} | {largest})
