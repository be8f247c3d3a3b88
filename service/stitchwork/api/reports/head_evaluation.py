"""Evaluation of a head on a labelled sample: accuracies, a verdict, and quality of confidence."""

from collections import Counter
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.api.reports.labelled_sample import LabelledSample, Targets
from stitchwork.api.reports.regression_evaluation import (
    check_variance,
    regression_quality,
    variance_explained,
)
from stitchwork.api.reports.verdicts import (
    Proportion,
    Verdict,
    regression_verdict,
    sample_verdict,
)
from stitchwork.api.schemas.report_responses import (
    Accuracy,
    CalibrationResponse,
    ConfidenceQuality,
    HeadEvaluationResponse,
    ReliabilityBinResponse,
    ThresholdResponse,
)
from stitchwork.api.schemas.responses import ResourceRef
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry.abstention import confidence_threshold, correct_labels_needed
from stitchwork.geometry.calibration import (
    Calibration,
    ReliabilityBin,
    auroc,
    expected_calibration_error,
    fit_calibration,
    reliability_bins,
)
from stitchwork.geometry.classifier import MULTI_LABEL, REGRESSION
from stitchwork.inference.pipeline import Pipeline
from stitchwork.inference.predictions import (
    confidence,
    decision_log_odds,
    decisions,
    is_calibrated,
)
from stitchwork.inference.resolve import Resolution, head_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Floats, Head, Space
from stitchwork.resources.training_inputs import Digests

FOLDS: Final = 5
MIN_LABELS: Final = 20
"""Labelled inputs that a calibration needs."""


def evaluate(
    pipeline: Pipeline,
    sample: LabelledSample,
    translated: InferenceResult,
    *,
    with_calibration: bool,
    min_accuracy: float | None = None,
) -> HeadEvaluationResponse:
    """Evaluate a head on a sample.

    Args:
        pipeline: Computes the scores to compare with, and stores the calibration.
        sample: The sample.
        translated: Scores of its rows through the bridge.
        with_calibration: Fit and store a calibration on the sample, for the confidence of
            further predictions.
        min_accuracy: Find the confidence from which on predictions have this accuracy.

    Raises:
        InvalidInputError: If there are fewer than `MIN_LABELS` labels to calibrate on, or the head
            is a regression, whose values have no confidence to calibrate or to find, or all true
            values are equal.
    """
    resolution, targets, rows, native_rows, _ = sample
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
    results = {"absolute": absolute, "native": native}
    if head.problem_type == REGRESSION:
        unused = {"calibrate": with_calibration, "min_accuracy": min_accuracy is not None}
        for name in (name for name, is_sent in unused.items() if is_sent):
            raise InvalidInputError(
                f"expected no {name} for a regression, whose values have no confidence",
                pointer=f"/{name}",
            )
        fields, verdict = _evaluate_regression(translated, results, targets)
    else:
        fields, verdict = _evaluate_classes(translated, results, targets)
        calibrated = translated
        if with_calibration:
            calibration, fields["confidence"] = calibrate(translated, targets)
            pipeline.registry.calibrations.put(
                source, target, head, resolution.bridge, calibration, len(targets)
            )
            calibrated = replace(
                translated, resolution=replace(resolution, calibration=calibration)
            )
            fields["calibration"] = CalibrationResponse(
                slope=calibration.slope, offset=calibration.offset
            )
        else:
            fields["confidence"] = confidence_quality(translated, targets)
        if min_accuracy is not None:
            correct = _correct(translated, targets)
            fields["threshold"] = _threshold(confidence(calibrated), correct, min_accuracy)
    return HeadEvaluationResponse(
        encoder=ResourceRef.of(source),
        head=ResourceRef.of(head),
        bridge=resolution.bridge,
        samples=len(targets),
        verdict=verdict.level,
        reason=verdict.reason,
        undefined=translated.undefined,
        uncovered=translated.coverage.uncovered,
        warnings=[
            *translated.warnings,
            *native_warnings,
            *_training_warnings(head, sample, pipeline.registry.training_inputs(head)),
        ],
        **fields,
    )


def _training_warnings(head: Head, sample: LabelledSample, training: Digests) -> list[str]:
    """Whether the head was fitted on some of the sample."""
    # Most heads have none: digests of a large sample take long.
    shared = int(np.isin(sample.digests(), training).any(axis=1).sum()) if len(training) else 0
    if not shared:
        return []
    return [
        f"{shared} of the {len(sample.targets)} inputs are among those that head {head.id} was "
        "fitted on: its accuracy on them is higher than on others, and a threshold or a "
        "calibration from them does not hold for others"
    ]


def _evaluate_classes(
    translated: InferenceResult, others: dict[str, InferenceResult | str], targets: Targets
) -> tuple[dict[str, Any], Verdict]:
    """Accuracies through the bridge and of `absolute` and `native` scores, and a verdict."""
    rows = targets.reshape(len(targets), -1).tolist()
    chance = Counter(map(tuple, rows)).most_common(1)[0][1] / len(targets)
    head, native = head_of(translated.resolution), others["native"]
    if head.problem_type != MULTI_LABEL:
        chance = max(chance, 1 / len(head.labels))
    verdict = sample_verdict(
        _proportion(translated, targets),
        None if isinstance(native, str) else _proportion(native, targets),
        chance,
        translated.resolution.bridge,
    )
    results = {"translated": translated, **others}
    accuracies = {name: _accuracy(result, targets) for name, result in results.items()}
    return {"chance": chance, **accuracies}, verdict


def _evaluate_regression(
    translated: InferenceResult, others: dict[str, InferenceResult | str], targets: Targets
) -> tuple[dict[str, Any], Verdict]:
    """Explained variances through the bridge and of `absolute` and `native`, and a verdict."""
    check_variance(targets)
    quality = variance_explained(translated.rows, targets)
    qualities = {
        name: result if isinstance(result, str) else variance_explained(result.rows, targets)
        for name, result in others.items()
    }
    native = qualities["native"]
    verdict = regression_verdict(
        quality, None if isinstance(native, str) else native, translated.resolution.bridge
    )
    all_qualities = {"translated": quality, **qualities}
    responses = {name: regression_quality(result) for name, result in all_qualities.items()}
    return {"chance": 0.0, **responses}, verdict


def calibrate(scores: InferenceResult, targets: Targets) -> tuple[Calibration, ConfidenceQuality]:
    """Fit a calibration, and cross-validate it.

    Returns:
        The calibration of the whole sample, and the quality of confidences of which each is
        calibrated on the other four fifths of the sample.

    Raises:
        InvalidInputError: If there are fewer than `MIN_LABELS` labels.
    """
    if len(targets) < MIN_LABELS:
        raise InvalidInputError(
            f"expected at least {MIN_LABELS} labelled inputs to calibrate on, got {len(targets)}",
            pointer="/labels",
            code=ErrorCode.TOO_FEW_LABELS,
        )
    odds, correct = decision_log_odds(scores), _correct(scores, targets)
    # Each fold has every fifth input in the order of the scores, so that all folds are alike.
    folds = np.empty(len(odds), np.int64)
    folds[np.argsort(odds, kind="stable")] = np.arange(len(odds)) % FOLDS
    out_of_fold = np.empty(len(odds))
    for fold in range(FOLDS):
        fitted = fit_calibration(odds[folds != fold], correct[folds != fold])
        out_of_fold[folds == fold] = fitted(odds[folds == fold])
    confidences = np.where(scores.defined, out_of_fold, 0.0)
    return fit_calibration(odds, correct), _quality(confidences, correct, calibrated=True)


def confidence_quality(scores: InferenceResult, targets: Targets) -> ConfidenceQuality:
    """How well confidence separates correct from wrong (AUROC), and how calibrated it is (ECE)."""
    correct, calibrated = _correct(scores, targets), is_calibrated(scores.resolution)
    return _quality(confidence(scores), correct, calibrated=calibrated)


def _threshold(
    confidences: NDArray[Any], correct: NDArray[np.bool_], min_accuracy: float
) -> ThresholdResponse:
    """The confidence that assures an accuracy, or what is missing."""
    threshold = confidence_threshold(confidences, correct, min_accuracy)
    if threshold is not None:
        return ThresholdResponse(min_accuracy=min_accuracy, **threshold._asdict())
    needed = correct_labels_needed(min_accuracy)
    reason = f"no confidence assures an accuracy of {min_accuracy:g} on this sample of " + (
        f"{len(correct)}; even if all accepted predictions were correct, {needed} would be needed"
        if len(correct) < needed
        else f"{len(correct)}: the most confident predictions are wrong too often"
    )
    return ThresholdResponse(
        min_accuracy=min_accuracy,
        confidence=None,
        accuracy=None,
        interval=None,
        coverage=None,
        reason=reason,
    )


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


def _correct(scores: InferenceResult, targets: Targets) -> NDArray[np.bool_]:
    """Which predictions are correct; of equal scores the first class is the prediction."""
    head = head_of(scores.resolution)
    if head.problem_type == MULTI_LABEL:
        return np.asarray((decisions(scores.rows, head) == targets).all(axis=1))
    return np.asarray(scores.rows.argmax(axis=1) == targets)


def _proportion(scores: InferenceResult, targets: Targets) -> Proportion:
    return Proportion(int(_correct(scores, targets).sum()), len(targets))


def _accuracy(scores: InferenceResult | str, targets: Targets) -> Accuracy:
    if isinstance(scores, str):
        return Accuracy(accuracy=None, interval=None, reason=scores)
    proportion, head = _proportion(scores, targets), head_of(scores.resolution)
    f1: dict[str, float] = {}
    if head.problem_type == MULTI_LABEL:
        predicted = decisions(scores.rows, head)
        total = int(predicted.sum() + targets.sum())
        f1["f1"] = 2 * int((predicted & targets).sum()) / total if total else 1.0
    return Accuracy(accuracy=proportion.value, interval=proportion.interval, **f1)
