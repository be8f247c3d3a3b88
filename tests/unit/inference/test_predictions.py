"""Predictions from probabilities."""

import numpy as np
import pytest

from stitchwork.geometry.calibration import Calibration
from stitchwork.inference.predictions import Prediction, predict
from stitchwork.inference.resolve import Resolution
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Head, LinearLayer, Space

SPACE = Space(
    id="x",
    version="v",
    anchor_set="set",
    anchor_set_version="v",
    dim=3,
    size=4,
    rank=3,
    condition_number=1.0,
    norm_mean=1.0,
    norm_std=0.0,
)


HEAD = Head(
    id="h",
    version="w",
    space="x",
    dim=3,
    labels=("cat", "dog", "owl"),
    layers=(LinearLayer(inputs=3, outputs=3),),
    source="weights",
)


def inference_result(
    rows: list[list[float]],
    defined: list[bool],
    calibration: Calibration | None = None,
    head: Head = HEAD,
) -> InferenceResult:
    resolution = Resolution(SPACE, SPACE, head, calibration=calibration)
    mask = np.array(defined)
    return InferenceResult(resolution, np.array(rows, np.float32), mask, np.ones_like(mask))


def predictions_of(result: InferenceResult, top: int) -> list[Prediction]:
    predictions = predict(result, top)
    assert all(isinstance(prediction, Prediction) for prediction in predictions)
    return predictions  # type: ignore[return-value]


def test_predict_of_equal_scores_keeps_the_order_of_the_labels() -> None:
    (prediction,) = predictions_of(inference_result([[0.25, 0.5, 0.25]], [True]), 3)
    assert [best["label"] for best in prediction.top] == ["dog", "cat", "owl"]
    assert (prediction.label, prediction.score) == ("dog", 0.5)


def test_predict_with_fewer_classes_than_top_returns_all_classes() -> None:
    (prediction,) = predictions_of(inference_result([[0.2, 0.3, 0.5]], [True]), 10)
    assert len(prediction.top) == 3


def test_predict_of_an_input_without_direction_has_no_confidence() -> None:
    rows = [[0.1, 0.1, 0.8], [0.1, 0.1, 0.8]]
    known, unknown = predictions_of(inference_result(rows, [True, False]), 1)
    assert known.confidence == pytest.approx(0.8)
    assert unknown.confidence == 0.0
    assert not known.calibrated


def test_predict_with_a_calibration_follows_it() -> None:
    calibration = Calibration(slope=0.5, offset=-1.0)
    (prediction,) = predictions_of(inference_result([[0.1, 0.1, 0.8]], [True], calibration), 1)
    # The logistic function of half the log-odds of 0.8, minus one.
    odds = np.log(0.8 / 0.2)
    assert prediction.confidence == pytest.approx(1 / (1 + np.exp(-(0.5 * odds - 1.0))), rel=1e-5)
    assert prediction.calibrated


def test_coverage_of_two_uncovered_inputs_names_them_in_one_warning() -> None:
    rows = np.zeros((3, 3), np.float32)
    covered = np.array([True, False, False])
    result = InferenceResult(Resolution(SPACE), rows, ~covered, covered)
    assert result.coverage.uncovered == [1, 2]
    (warning,) = result.coverage.warnings
    assert warning.startswith("2 of 3 inputs lie outside what the anchors of space x cover")
    assert result.undefined == [0]


def test_coverage_of_covered_inputs_has_no_warning() -> None:
    true = np.ones(2, np.bool_)
    result = InferenceResult(Resolution(SPACE), np.zeros((2, 3), np.float32), true, true)
    assert (result.coverage.uncovered, result.coverage.warnings) == ([], [])
