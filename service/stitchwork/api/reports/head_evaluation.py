"""Evaluation of a head on a labelled sample: accuracies, a verdict, and quality of confidence."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.api.reports.verdicts import Proportion, Verdict, sample_verdict
from stitchwork.api.schemas.report_responses import (
    Accuracy,
    ConfidenceQuality,
    ReliabilityBinResponse,
)
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.calibration import (
    Calibration,
    ReliabilityBin,
    auroc,
    expected_calibration_error,
    fit_calibration,
    log_odds,
    reliability_bins,
)
from stitchwork.inference.predictions import confidence
from stitchwork.resources import Floats, Head

FOLDS: Final = 5
MIN_LABELS: Final = 20
"""Labelled inputs that a calibration needs."""
MAX_NAMED_LABELS: Final = 10
"""Unknown labels that an error names."""


class HeadScores(NamedTuple):
    """The probabilities of a head for a sample.

    Attributes:
        probabilities: (n, c) float32; rows sum to one.
        defined: (n,) bool; False where an input has no direction in its space.
        covered: (n,) bool; False where the source's anchors do not cover an input.
    """

    probabilities: Floats
    defined: NDArray[np.bool_]
    covered: NDArray[np.bool_]

    def correct(self, classes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which predictions are correct; of equal scores the first class is the prediction."""
        return np.asarray(self.probabilities.argmax(axis=1) == classes)


class SampleEvaluation(NamedTuple):
    """Accuracies of a head on a sample.

    Attributes:
        samples: Number of inputs.
        chance: Accuracy of always predicting one class.
        absolute: Without a bridge.
        translated: Through the bridge.
        native: On embeddings of the head's own encoder.
        verdict: What they amount to.
    """

    samples: int
    chance: float
    absolute: Accuracy
    translated: Accuracy
    native: Accuracy
    verdict: Verdict


def class_indices(labels: Sequence[str], head: Head) -> NDArray[np.int64]:
    """(n,) indices of labels among the head's classes.

    Raises:
        InvalidInputError: If the head lacks some; the message names them.
    """
    indices = {label: i for i, label in enumerate(head.labels)}
    unknown = [label for label in dict.fromkeys(labels) if label not in indices]
    if unknown:
        names = ", ".join(repr(label[:80]) for label in unknown[:MAX_NAMED_LABELS])
        others = len(unknown) - MAX_NAMED_LABELS
        raise InvalidInputError(
            f"head {head.id} has no class {names}" + (f" and {others} more" if others > 0 else ""),
            pointer=f"/labels/{list(labels).index(unknown[0])}",
            code=ErrorCode.UNKNOWN_LABEL,
        )
    return np.array([indices[label] for label in labels], np.int64)


def evaluate(
    classes: NDArray[np.int64],
    translated: HeadScores,
    absolute: HeadScores | str,
    native: HeadScores | str,
    head: Head,
    bridge: BridgeName,
) -> SampleEvaluation:
    """Accuracies and the verdict.

    Args:
        classes: (n,) true classes.
        translated: Scores of the sample through the bridge.
        absolute: Scores without a bridge, or the reason why there are none.
        native: Scores of the same inputs embedded in the head's own space, or the reason why
            there are none.
        head: The head.
        bridge: The bridge.
    """
    mode_count = Counter(classes.tolist()).most_common(1)[0][1]
    chance = max(mode_count / len(classes), 1 / len(head.labels))
    native_correct = None if isinstance(native, str) else _proportion(native, classes)
    return SampleEvaluation(
        samples=len(classes),
        chance=chance,
        absolute=_accuracy(absolute, classes),
        translated=_accuracy(translated, classes),
        native=_accuracy(native, classes),
        verdict=sample_verdict(_proportion(translated, classes), native_correct, chance, bridge),
    )


def calibrate(
    scores: HeadScores, classes: NDArray[np.int64]
) -> tuple[Calibration, ConfidenceQuality]:
    """Fit a calibration, and cross-validate it.

    Returns:
        The calibration of the whole sample, and the quality of confidences of which each is
        calibrated on the other four fifths of the sample.

    Raises:
        InvalidInputError: If there are fewer than `MIN_LABELS` labels.
    """
    if len(classes) < MIN_LABELS:
        raise InvalidInputError(
            f"expected at least {MIN_LABELS} labelled inputs to calibrate on, got {len(classes)}",
            pointer="/labels",
            code=ErrorCode.TOO_FEW_LABELS,
        )
    odds, correct = log_odds(scores.probabilities), scores.correct(classes)
    # In the order of their scores every fifth one is left out: each fifth is like the whole.
    folds = np.empty(len(odds), np.int64)
    folds[np.argsort(odds, kind="stable")] = np.arange(len(odds)) % FOLDS
    out_of_fold = np.empty(len(odds))
    for fold in range(FOLDS):
        fitted = fit_calibration(odds[folds != fold], correct[folds != fold])
        out_of_fold[folds == fold] = fitted(odds[folds == fold])
    confidences = np.where(scores.defined, out_of_fold, 0.0)
    return fit_calibration(odds, correct), _quality(confidences, correct, calibrated=True)


def confidence_quality(
    scores: HeadScores, classes: NDArray[np.int64], calibration: Calibration | None
) -> ConfidenceQuality:
    """How well confidence separates correct from wrong (AUROC), and how calibrated it is (ECE)."""
    confidences = confidence(scores.probabilities, scores.defined, calibration)
    return _quality(confidences, scores.correct(classes), calibrated=calibration is not None)


def _quality(
    confidences: NDArray[Any], correct: NDArray[np.bool_], *, calibrated: bool
) -> ConfidenceQuality:
    return ConfidenceQuality(
        calibrated=calibrated,
        auroc=auroc(confidences, correct),
        ece=expected_calibration_error(confidences, correct),
        reliability=[_bin(bar) for bar in reliability_bins(confidences, correct)],
    )


def _bin(bar: ReliabilityBin) -> ReliabilityBinResponse:
    return ReliabilityBinResponse(
        low=bar.low,
        high=bar.high,
        size=bar.size,
        confidence=bar.confidence,
        accuracy=bar.accuracy,
    )


def _proportion(scores: HeadScores, classes: NDArray[np.int64]) -> Proportion:
    return Proportion(int(scores.correct(classes).sum()), len(classes))


def _accuracy(scores: HeadScores | str, classes: NDArray[np.int64]) -> Accuracy:
    if isinstance(scores, str):
        return Accuracy(accuracy=None, interval=None, reason=scores)
    proportion = _proportion(scores, classes)
    return Accuracy(accuracy=proportion.value, interval=proportion.interval)
