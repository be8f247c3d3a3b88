"""Evidence → `good`, `fair` or `poor`, with the reason in one sentence."""

from typing import Final, Literal, NamedTuple

from service.geometry.held_out import FEWEST_ANCHORS, HeldOut

Level = Literal["good", "fair", "poor"]

SUSPICIOUS: Final = 0.1
"""An agreement below this means that anchors are shuffled or foreign."""


class Verdict(NamedTuple):
    """What the evidence says.

    Attributes:
        verdict: The level.
        reason: Why, with the numbers that decided.
    """

    verdict: Level
    reason: str


def of_pair(held: HeldOut | None, agreement: float, anchors: int) -> Verdict:
    """How well one space translates into another, told by their anchors alone.

    Args:
        held: Cross-validated quality; None where it cannot be told.
        agreement: Of their anchors' cosines.
        anchors: How many there are to tell it by.
    """
    if held is None:
        few = anchors < FEWEST_ANCHORS
        why = f"{anchors} anchors are too few" if few else "the anchors are too much alike"
        return Verdict("poor", f"{why} to hold some out and see how they translate")
    told = (
        f"held-out anchors come back at a cosine of {held.similarity:.2f}, and {held.recall:.0%} "
        f"find their own row first (chance: {held.chance:.1%})"
    )
    if abs(agreement) < SUSPICIOUS and held.similarity < FAIR:
        return Verdict(
            "poor",
            f"{told}, and agreement is near zero ({agreement:.2f}): probably not the same anchors "
            "in the same order",
        )
    if held.similarity >= GOOD:
        return Verdict("good", told)
    if held.similarity >= FAIR:
        return Verdict("fair", told)
    return Verdict("poor", told)


GOOD: Final = 0.6
FAIR: Final = 0.3
