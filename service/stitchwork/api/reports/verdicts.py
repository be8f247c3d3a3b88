"""Verdicts `good`, `fair` and `poor`, each with the reason in one sentence.

`docs/guides/confidence.md` describes the rules.
"""

from typing import Final, NamedTuple

from stitchwork.api.schemas.report_responses import VerdictLevel
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.calibration import wilson_interval
from stitchwork.geometry.diagnostics.cross_validation import MIN_ANCHORS, CrossValidationScore
from stitchwork.registry.declarations import SUSPICIOUS

GOOD_SIMILARITY: Final = 0.6
FAIR_SIMILARITY: Final = 0.3
"""Held-out similarity. On digits (EfficientNet-Lite 0/1/2 and two small networks) and banking77
(MiniLM, Universal Sentence Encoder), seed 0, `exp` and `ridge` on 300 and 1,000 anchors, `irp` on
300: every pair at 0.6 or more had at least 0.88 of the native accuracy, those between from 0.50 to
all of it, and `none`, at 0.02 or less, 0.20 or less."""
GOOD_RATIO: Final = 0.95
FAIR_RATIO: Final = 0.8
"""Of the native accuracy."""
GOOD_GAIN: Final = 0.9
FAIR_GAIN: Final = 0.5
"""Of the distance from chance to 1, where the native accuracy is unknown."""
MAX_INTERVAL: Final = 0.2
"""A wider interval, of about 80 inputs or fewer, does not support `good`."""


class Proportion(NamedTuple):
    """A number of successes among trials.

    Attributes:
        successes: Correct predictions.
        trials: Predictions, at least 1.
    """

    successes: int
    trials: int

    @property
    def value(self) -> float:
        """Successes divided by trials."""
        return self.successes / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% confidence interval."""
        return wilson_interval(self.successes, self.trials)


class VarianceExplained(NamedTuple):
    """How well values are predicted.

    Attributes:
        r2: Share of the variance that is explained, at most 1.
        interval: Its 95% confidence interval.
        mae: Mean absolute error.
        samples: Number of inputs.
    """

    r2: float
    interval: tuple[float, float]
    mae: float
    samples: int


class Verdict(NamedTuple):
    """A level and its reason.

    Attributes:
        level: The level.
        reason: The numbers that decided it, in one sentence.
    """

    level: VerdictLevel
    reason: str


def pair_verdict(
    quality: CrossValidationScore | None, agreement: float, anchors: int, bridge: BridgeName
) -> Verdict:
    """The verdict on a pair of spaces, from their anchors alone.

    Args:
        quality: Cross-validated quality; None if it cannot be computed.
        agreement: Correlation of the anchors' cosines.
        anchors: Number of anchors used.
        bridge: The bridge.
    """
    if quality is None and anchors < MIN_ANCHORS:
        return Verdict("poor", f"{anchors} anchors are too few to hold some out")
    if quality is None and bridge == "none":
        return Verdict("poor", "without a bridge only spaces of one width can be combined")
    if quality is None:
        return Verdict("poor", "the anchors are too similar to each other to hold some out")
    evidence = (
        f"held-out anchors are translated with a mean cosine of {quality.similarity:.2f}, and for "
        f"{quality.recall:.0%} the nearest row is their own (chance: {quality.chance:.1%})"
    )
    if abs(agreement) < SUSPICIOUS and quality.similarity < FAIR_SIMILARITY:
        return Verdict(
            "poor",
            f"{evidence}, and agreement is near zero ({agreement:.2f}): probably not the same "
            "anchors in the same order",
        )
    level = _level(quality.similarity, GOOD_SIMILARITY, FAIR_SIMILARITY)
    if level == "fair":
        evidence += "; evaluate a head on a labelled sample to be sure"
    return Verdict(level, evidence)


def sample_verdict(
    translated: Proportion, native: Proportion | None, chance: float, bridge: BridgeName
) -> Verdict:
    """The verdict on a head for another encoder, from a labelled sample.

    Args:
        translated: Correct predictions through the bridge.
        native: Correct predictions on embeddings of the head's own encoder; None if unknown.
        chance: Accuracy of always predicting one class.
        bridge: The bridge.
    """
    low, high = translated.interval
    evidence = (
        f"{translated.value:.3f} of {translated.trials} correct through {bridge} "
        f"(95%: {low:.3f} to {high:.3f})"
    )
    if low <= chance:
        return Verdict("poor", f"{evidence}: not significantly above chance ({chance:.3f})")
    if native is None:
        gain = (translated.value - chance) / (1 - chance)
        reason = (
            f"{evidence}, {gain:.0%} of the distance from chance ({chance:.3f}) to 1; the head's "
            "native accuracy is unknown"
        )
        return Verdict(_level(gain, GOOD_GAIN, FAIR_GAIN), reason)
    ratio = translated.value / native.value if native.value else 1.0
    reason = f"{evidence}, {ratio:.3f} of the head's native {native.value:.3f}"
    if native.interval[0] <= chance:
        return Verdict(
            "poor", f"{reason}, which is itself not significantly above chance ({chance:.3f})"
        )
    level = _level(ratio, GOOD_RATIO, FAIR_RATIO)
    if level == "good" and high - low > MAX_INTERVAL:
        return Verdict("fair", f"{reason}, but the sample is too small to be sure")
    return Verdict(level, reason)


def regression_verdict(
    translated: VarianceExplained, native: VarianceExplained | None, bridge: BridgeName
) -> Verdict:
    """The verdict on a regression for another encoder, from a labelled sample.

    Args:
        translated: Quality through the bridge.
        native: Quality on embeddings of the head's own encoder; None if unknown.
        bridge: The bridge.
    """
    low, high = translated.interval
    evidence = (
        f"r2 {translated.r2:.3f} on {translated.samples} inputs through {bridge} "
        f"(95%: {low:.3f} to {high:.3f})"
    )
    if low <= 0:
        return Verdict("poor", f"{evidence}: not significantly better than the mean")
    if native is None:
        reason = f"{evidence}; the head's native r2 is unknown"
        return Verdict(_level(translated.r2, GOOD_GAIN, FAIR_GAIN), reason)
    reason = f"{evidence}, the head's native r2 is {native.r2:.3f}"
    if native.interval[0] <= 0:
        return Verdict("poor", f"{reason}, which is itself not significantly above 0")
    level = _level(translated.r2 / native.r2, GOOD_RATIO, FAIR_RATIO)
    if level == "good" and high - low > MAX_INTERVAL:
        return Verdict("fair", f"{reason}, but the sample is too small to be sure")
    return Verdict(level, reason)


def _level(value: float, good: float, fair: float) -> VerdictLevel:
    return "good" if value >= good else "fair" if value >= fair else "poor"
