"""Evidence → `good`, `fair` or `poor`, with the reason in one sentence."""

from typing import Final, Literal, NamedTuple

from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.calibration import wilson_interval
from stitchwork.geometry.diagnostics.cross_validation import MIN_ANCHORS, CrossValidationScore
from stitchwork.registry.declarations import SUSPICIOUS

Level = Literal["good", "fair", "poor"]

GOOD: Final = 0.6
FAIR: Final = 0.3
"""Held-out similarity. On digits (EfficientNet-Lite 0/1/2 and two small networks) and banking77
(MiniLM, Universal Sentence Encoder), seed 0, `exp` and `ridge` on 300 and 1,000 anchors, `irp` on
300: every pair at 0.6 or more kept 0.88 of the native accuracy or more, those between kept from
0.50 to all of it, and `none`, at 0.02 or less, kept 0.20 or less."""
GOOD_RATIO: Final = 0.95
FAIR_RATIO: Final = 0.8
NEAR_PERFECT: Final = 0.9
HALFWAY: Final = 0.5
WIDE: Final = 0.2
"""An interval wider than this, of 80 inputs or so, is no ground for `good`."""


class Share(NamedTuple):
    """How many predictions of a sample are correct.

    Attributes:
        correct: So many.
        size: Of so many, at least 1.
    """

    correct: int
    size: int

    @property
    def accuracy(self) -> float:
        """The share itself."""
        return self.correct / self.size

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% interval, Wilson's."""
        return wilson_interval(self.correct, self.size)


class Verdict(NamedTuple):
    """What the evidence says.

    Attributes:
        verdict: The level.
        reason: Why, with the numbers that decided.
    """

    verdict: Level
    reason: str


def of_pair(
    held: CrossValidationScore | None, agreement: float, anchors: int, bridge: BridgeName
) -> Verdict:
    """How well one space translates into another, told by their anchors alone.

    Args:
        held: Cross-validated quality; None where it cannot be told.
        agreement: Of their anchors' cosines.
        anchors: How many there are to tell it by.
        bridge: The bridge.
    """
    if held is None and anchors < MIN_ANCHORS:
        return Verdict("poor", f"{anchors} anchors are too few to hold some out and see them back")
    if held is None and bridge == "none":
        return Verdict("poor", "without a bridge only spaces of one width fit")
    if held is None:
        return Verdict("poor", "the anchors are too much alike to hold some out and see them back")
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
    level = _level(held.similarity, GOOD, FAIR)
    if level == "fair":
        told += "; a labelled sample would tell more"
    return Verdict(level, told)


def of_sample(
    translated: Share, native: Share | None, chance: float, bridge: BridgeName
) -> Verdict:
    """How well a head works for another encoder, told by a labelled sample.

    Args:
        translated: Correct predictions through the bridge.
        native: Of the head on its own encoder's embeddings of the same inputs, where it is known.
        chance: The share that always naming one class gets right.
        bridge: The bridge.
    """
    low, high = translated.interval
    told = f"{translated.accuracy:.3f} of {translated.size} correct through {bridge}"
    bounds = f"(95%: {low:.3f} to {high:.3f})"
    if low <= chance:
        return Verdict("poor", f"{told} {bounds} is not shown to be above chance ({chance:.3f})")
    if native is None:
        part = (translated.accuracy - chance) / (1 - chance)
        reason = (
            f"{told} {bounds}, {part:.0%} of the way from chance ({chance:.3f}) to 1; the head's "
            "native accuracy is not known"
        )
        return Verdict(_level(part, NEAR_PERFECT, HALFWAY), reason)
    ratio = translated.accuracy / native.accuracy if native.accuracy else 1.0
    reason = f"{told} {bounds} is {ratio:.3f} of the head's native {native.accuracy:.3f}"
    if native.interval[0] <= chance:
        return Verdict("poor", f"{reason}, which itself is not above chance ({chance:.3f})")
    level = _level(ratio, GOOD_RATIO, FAIR_RATIO)
    if level == "good" and high - low > WIDE:
        return Verdict("fair", f"{reason}, but the sample is too small to be sure")
    return Verdict(level, reason)


def _level(value: float, good: float, fair: float) -> Level:
    return "good" if value >= good else "fair" if value >= fair else "poor"
