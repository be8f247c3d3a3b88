"""Verdicts: the level that follows from the numbers, and the numbers in the reason."""

import pytest

from stitchwork.api.reports.verdicts import Proportion, pair_verdict, sample_verdict
from stitchwork.geometry.diagnostics.cross_validation import CrossValidationScore


def quality(similarity: float) -> CrossValidationScore:
    return CrossValidationScore(similarity=similarity, recall=0.9, chance=0.02, anchors=300)


@pytest.mark.parametrize(
    ("similarity", "level"), [(0.95, "good"), (0.6, "good"), (0.59, "fair"), (0.29, "poor")]
)
def test_pair_verdict_follows_from_cross_validated_similarity(
    similarity: float, level: str
) -> None:
    verdict = pair_verdict(quality(similarity), 0.5, 300, "exp")
    assert verdict.level == level
    assert f"{similarity:.2f}" in verdict.reason


def test_pair_verdict_of_unrelated_anchors_names_the_agreement() -> None:
    verdict = pair_verdict(quality(0.01), 0.001, 300, "exp")
    assert verdict.level == "poor"
    assert "probably not the same anchors" in verdict.reason


@pytest.mark.parametrize(
    ("anchors", "bridge", "reason"),
    [(8, "exp", "8 anchors are too few"), (300, "none", "one width"), (300, "exp", "too similar")],
)
def test_pair_verdict_without_numbers_has_the_cause(anchors: int, bridge: str, reason: str) -> None:
    verdict = pair_verdict(None, 0.5, anchors, bridge)  # type: ignore[arg-type]
    assert verdict.level == "poor"
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("correct", "native", "level"),
    [(960, 1000, "good"), (850, 1000, "fair"), (700, 1000, "poor")],
)
def test_sample_verdict_follows_from_the_ratio_to_native_accuracy(
    correct: int, native: int, level: str
) -> None:
    verdict = sample_verdict(Proportion(correct, 1000), Proportion(native, 1000), 0.1, "exp")
    assert verdict.level == level
    assert f"{correct / 1000:.3f}" in verdict.reason


@pytest.mark.parametrize(("correct", "level"), [(950, "good"), (600, "fair"), (300, "poor")])
def test_sample_verdict_without_native_accuracy_follows_from_the_gain_over_chance(
    correct: int, level: str
) -> None:
    verdict = sample_verdict(Proportion(correct, 1000), None, 0.1, "exp")
    assert verdict.level == level
    assert "native accuracy is unknown" in verdict.reason


def test_sample_verdict_near_chance_is_poor() -> None:
    verdict = sample_verdict(Proportion(52, 100), Proportion(52, 100), 0.5, "exp")
    assert verdict.level == "poor"
    assert "not significantly above chance (0.500)" in verdict.reason


def test_sample_verdict_of_a_small_sample_is_not_good() -> None:
    verdict = sample_verdict(Proportion(16, 20), Proportion(16, 20), 0.1, "exp")
    assert verdict.level == "fair"
    assert "too small" in verdict.reason
