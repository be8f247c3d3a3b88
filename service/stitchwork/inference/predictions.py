"""Predictions from the scores of a head: labels, scores and confidence, or values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from stitchwork.geometry.calibration import Calibration, joint_log_odds, log_odds
from stitchwork.geometry.classifier import MULTI_LABEL, REGRESSION
from stitchwork.geometry.diagnostics.space_metrics import head_confidence, joint_confidence
from stitchwork.inference.resolve import Resolution, head_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Floats, Head, Label

Confidence: TypeAlias = Annotated[float, Field(ge=0, le=1)]


# Dictionaries, of which a response may have millions: orjson serializes them ten times faster than
# dataclasses, and the garbage collector, which stops all threads, does not visit them.
class LabelScore(TypedDict):
    """A label and its probability.

    Attributes:
        label: The label, as it was sent.
        score: Its probability, in [0, 1].
    """

    label: Label
    score: float


# Without slots: orjson serializes dataclasses with slots five times more slowly.
@dataclass(frozen=True)
class Prediction:
    """The prediction of a head that chooses one label.

    Attributes:
        label: The label with the largest score; None if the head abstains.
        score: Its probability, in [0, 1].
        top: The labels with the largest scores, in descending order; equal scores are in the
            order of the head's labels.
        confidence: In [0, 1]; 0 where the input has no direction in its space.
        calibrated: Whether the confidence was calibrated: on a labelled sample or, for embeddings
            of the head's own space, by the temperature that came with the head.
        abstained: Whether the confidence is below the minimum of the request.
    """

    label: Label | None
    score: float
    top: list[LabelScore]
    confidence: Confidence
    calibrated: bool
    abstained: bool


@dataclass(frozen=True)
class MultiLabelPrediction:
    """The prediction of a head that chooses any number of labels.

    Attributes:
        labels: The labels whose scores reach their thresholds, in descending order of the scores;
            none if the head abstains.
        top: The labels with the largest scores, whether predicted or not, in descending order.
        confidence: The probability, in [0, 1], that each label is decided correctly, if labels are
            independent; 0 where the input has no direction in its space.
        calibrated: Whether the confidence was calibrated: on a labelled sample or, for embeddings
            of the head's own space, by the temperature that came with the head.
        abstained: Whether the confidence is below the minimum of the request.
    """

    labels: list[LabelScore]
    top: list[LabelScore]
    confidence: Confidence
    calibrated: bool
    abstained: bool


class LabelValue(TypedDict):
    """A value of a regression.

    Attributes:
        label: Its name.
        value: The value.
    """

    label: Label
    value: float


@dataclass(frozen=True)
class RegressionPrediction:
    """The prediction of a regression, which has no confidence.

    Attributes:
        values: The values, in the order of the head's labels.
    """

    values: list[LabelValue]


HeadPredictions: TypeAlias = (
    list[Prediction] | list[MultiLabelPrediction] | list[RegressionPrediction]
)
"""One prediction for each input, all of the kind of their head."""


def predict(result: InferenceResult, top: int, min_confidence: float = 0.0) -> HeadPredictions:
    """The predictions of a result.

    Args:
        result: Its resolution has a head, and its rows are (n, c) float32 scores of it.
        top: Number of labels in `top` of each prediction.
        min_confidence: Confidence below which a prediction is not made; not for a regression.

    Returns:
        One prediction for each input; confidence is calibrated if the resolution has a
        calibration.
    """
    head = head_of(result.resolution)
    if head.problem_type == REGRESSION:
        return [
            RegressionPrediction(
                [{"label": label, "value": v} for label, v in zip(head.labels, row, strict=True)]
            )
            for row in result.rows.tolist()
        ]
    order = np.argsort(-result.rows, axis=1, kind="stable")
    calibrated = is_calibrated(result.resolution)
    confidences = confidence(result).tolist()
    if head.problem_type == MULTI_LABEL:
        predicted = decisions(result.rows, head)
        return [
            MultiLabelPrediction(
                _label_scores(
                    head,
                    [i for i in row if predicted[n, i] and confidences[n] >= min_confidence],
                    result.rows[n],
                ),
                _label_scores(head, row[:top], result.rows[n]),
                confidences[n],
                calibrated,
                confidences[n] < min_confidence,
            )
            for n, row in enumerate(order.tolist())
        ]
    order = order[:, :top]
    scores = np.take_along_axis(result.rows, order, axis=1).tolist()
    predictions = []
    for row, (classes, values) in enumerate(zip(order.tolist(), scores, strict=True)):
        best: list[LabelScore] = [
            {"label": head.labels[c], "score": v} for c, v in zip(classes, values, strict=True)
        ]
        first, abstained = best[0], confidences[row] < min_confidence
        label = None if abstained else first["label"]
        predictions.append(
            Prediction(label, first["score"], best, confidences[row], calibrated, abstained)
        )
    return predictions


def decisions(scores: Floats, head: Head) -> NDArray[np.bool_]:
    """Which labels a multi-label head predicts: (n, c) bool for (n, c) float32 scores."""
    # In float32, so that a score which equals its threshold there reaches it.
    reached: NDArray[np.bool_] = scores >= np.asarray(head.thresholds, np.float32)
    return reached


def is_calibrated(resolution: Resolution) -> bool:
    """Whether confidences are calibrated, on a labelled sample or by the head's temperature.

    The temperature was measured on embeddings of the head's own space; through a bridge it still
    divides the logits, but what it promises is not known to hold.
    """
    head = head_of(resolution)
    has_temperature = head.temperature is not None and resolution.is_own_space
    return resolution.calibration is not None or has_temperature


def confidence(result: InferenceResult) -> NDArray[Any]:
    """The confidence of each prediction of a head that is no regression.

    Args:
        result: Its resolution has a head, whose scores its rows are.

    Returns:
        (n,) float, in [0, 1]; 0 where the input has no direction. Calibrated if the resolution
        has a calibration; else the largest probability or, of a multi-label head, the product of
        those of its decisions.
    """
    calibration: Calibration | None = result.resolution.calibration
    if calibration is not None:
        return np.where(result.defined, calibration(decision_log_odds(result)), 0.0)
    head = head_of(result.resolution)
    if head.problem_type == MULTI_LABEL:
        predicted = decisions(result.rows, head)
        return np.asarray(joint_confidence(result.rows, predicted, result.defined))
    return np.asarray(head_confidence(result.rows, result.defined))


def decision_log_odds(result: InferenceResult) -> NDArray[np.float64]:
    """(n,) log-odds that each prediction is correct, as the head's scores have them."""
    head = head_of(result.resolution)
    if head.problem_type == MULTI_LABEL:
        return joint_log_odds(result.rows, decisions(result.rows, head))
    return log_odds(result.rows)


def _label_scores(head: Head, order: Sequence[int], scores: Floats) -> list[LabelScore]:
    return [{"label": head.labels[i], "score": float(scores[i])} for i in order]
