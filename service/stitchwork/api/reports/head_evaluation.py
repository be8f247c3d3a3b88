"""Evaluation of a head on a labelled sample: accuracies, a verdict, and quality of confidence."""

from collections import Counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.api.reports.labelled_sample import LabelledSample
from stitchwork.api.reports.verdicts import Proportion, sample_verdict
from stitchwork.api.schemas.report_responses import (
    Accuracy,
    CalibrationResponse,
    ConfidenceQuality,
    HeadEvaluationResponse,
    ReliabilityBinResponse,
)
from stitchwork.api.schemas.responses import ResourceRef
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry.calibration import (
    Calibration,
    ReliabilityBin,
    auroc,
    expected_calibration_error,
    fit_calibration,
    log_odds,
    reliability_bins,
)
from stitchwork.inference.pipeline import Pipeline
from stitchwork.inference.predictions import confidence
from stitchwork.inference.resolve import Resolution, head_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Floats, Space

FOLDS: Final = 5
MIN_LABELS: Final = 20
"""Labelled inputs that a calibration needs."""


def evaluate(
    pipeline: Pipeline,
    sample: LabelledSample,
    translated: InferenceResult,
    *,
    with_calibration: bool,
) -> HeadEvaluationResponse:
    """Evaluate a head on a sample.

    Args:
        pipeline: Computes the scores to compare with, and stores the calibration.
        sample: The sample.
        translated: Probabilities of its rows through the bridge.
        with_calibration: Fit and store a calibration on the sample, for the confidence of
            further predictions.

    Raises:
        InvalidInputError: If there are fewer than `MIN_LABELS` labels to calibrate on.
    """
    resolution, classes, rows, native_rows = sample
    source, target, head = resolution.source, resolution.destination, head_of(resolution)

    def scores(rows: Floats, space: Space) -> InferenceResult:
        return pipeline.stitch_rows(Resolution(space, target, head, "none"), rows)

    absolute = (
        scores(rows, source)
        if source.dim == target.dim
        else f"space {source.id} is {source.dim} wide, the head takes {target.dim}"
    )
    native = native_rows if isinstance(native_rows, str) else scores(native_rows, target)
    native_warnings = () if isinstance(native, str) else native.lengths.warnings
    if target.version == source.version:
        native_warnings = ()
    native_correct = None if isinstance(native, str) else _proportion(native, classes)
    mode_count = Counter(classes.tolist()).most_common(1)[0][1]
    chance = max(mode_count / len(classes), 1 / len(head.labels))
    verdict = sample_verdict(
        _proportion(translated, classes), native_correct, chance, resolution.bridge
    )
    fields: dict[str, Any] = {}
    if with_calibration:
        calibration, quality = calibrate(translated, classes)
        pipeline.registry.calibrations.put(
            source, target, head, resolution.bridge, calibration, len(classes)
        )
        fields["calibration"] = CalibrationResponse(
            slope=calibration.slope, offset=calibration.offset
        )
    else:
        quality = confidence_quality(translated, classes, resolution.calibration)
    return HeadEvaluationResponse(
        encoder=ResourceRef.of(source),
        head=ResourceRef.of(head),
        bridge=resolution.bridge,
        samples=len(classes),
        chance=chance,
        absolute=_accuracy(absolute, classes),
        translated=_accuracy(translated, classes),
        native=_accuracy(native, classes),
        verdict=verdict.level,
        reason=verdict.reason,
        undefined=translated.undefined,
        uncovered=translated.coverage.uncovered,
        warnings=[*translated.warnings, *native_warnings],
        confidence=quality,
        **fields,
    )


def calibrate(
    scores: InferenceResult, classes: NDArray[np.int64]
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
    odds, correct = log_odds(scores.rows), _correct(scores, classes)
    # Each fold has every fifth input in the order of the scores, so that all folds are alike.
    folds = np.empty(len(odds), np.int64)
    folds[np.argsort(odds, kind="stable")] = np.arange(len(odds)) % FOLDS
    out_of_fold = np.empty(len(odds))
    for fold in range(FOLDS):
        fitted = fit_calibration(odds[folds != fold], correct[folds != fold])
        out_of_fold[folds == fold] = fitted(odds[folds == fold])
    confidences = np.where(scores.defined, out_of_fold, 0.0)
    return fit_calibration(odds, correct), _quality(confidences, correct, calibrated=True)


def confidence_quality(
    scores: InferenceResult, classes: NDArray[np.int64], calibration: Calibration | None
) -> ConfidenceQuality:
    """How well confidence separates correct from wrong (AUROC), and how calibrated it is (ECE)."""
    confidences = confidence(scores.rows, scores.defined, calibration)
    return _quality(confidences, _correct(scores, classes), calibrated=calibration is not None)


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


def _correct(scores: InferenceResult, classes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which predictions are correct; of equal scores the first class is the prediction."""
    return np.asarray(scores.rows.argmax(axis=1) == classes)


def _proportion(scores: InferenceResult, classes: NDArray[np.int64]) -> Proportion:
    return Proportion(int(_correct(scores, classes).sum()), len(classes))


def _accuracy(scores: InferenceResult | str, classes: NDArray[np.int64]) -> Accuracy:
    if isinstance(scores, str):
        return Accuracy(accuracy=None, interval=None, reason=scores)
    proportion = _proportion(scores, classes)
    return Accuracy(accuracy=proportion.value, interval=proportion.interval)
