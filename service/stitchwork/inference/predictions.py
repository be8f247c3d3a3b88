"""Predictions from probabilities: labels, scores and confidence."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stitchwork.geometry.calibration import Calibration, log_odds
from stitchwork.geometry.diagnostics.space_metrics import head_confidence
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Floats


# Without slots: orjson serializes dataclasses with slots five times more slowly.
@dataclass(frozen=True)
class LabelScore:
    """A class and its probability.

    Attributes:
        label: The label.
        score: Its probability, in [0, 1].
    """

    label: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for one input.

    Attributes:
        label: The label with the largest score.
        score: Its probability, in [0, 1].
        top: The classes with the largest scores, in descending order; equal scores are in the
            order of the head's labels.
        confidence: In [0, 1]; 0 where the input has no direction in its space.
        calibrated: Whether the confidence was calibrated on a labelled sample.
    """

    label: str
    score: float
    top: list[LabelScore]
    confidence: Annotated[float, Field(ge=0, le=1)]
    calibrated: bool


def predict(result: InferenceResult, labels: tuple[str, ...], top: int) -> list[Prediction]:
    """The predictions of a result.

    Args:
        result: Its rows are (n, c) float32 probabilities.
        labels: The c labels of the classes.
        top: Number of classes in each prediction.

    Returns:
        One prediction for each input; confidence is calibrated if the resolution has a
        calibration.
    """
    calibration = result.resolution.calibration
    order = np.argsort(-result.rows, axis=1, kind="stable")[:, :top]
    scores = np.take_along_axis(result.rows, order, axis=1).tolist()
    confidences = confidence(result.rows, result.defined, calibration).tolist()
    calibrated = calibration is not None
    predictions = []
    for row, (classes, values) in enumerate(zip(order.tolist(), scores, strict=True)):
        best = [LabelScore(labels[c], score) for c, score in zip(classes, values, strict=True)]
        first = best[0]
        predictions.append(Prediction(first.label, first.score, best, confidences[row], calibrated))
    return predictions


def confidence(
    probabilities: Floats, defined: NDArray[np.bool_], calibration: Calibration | None
) -> NDArray[Any]:
    """The confidence of each prediction.

    Args:
        probabilities: (n, c) float32; rows sum to one.
        defined: (n,) bool; False where the input has no direction in its space.
        calibration: The calibration of these probabilities; None takes the largest of each row.

    Returns:
        (n,) float, in [0, 1]; 0 where the input has no direction.
    """
    if calibration is None:
        return np.asarray(head_confidence(probabilities, defined))
    return np.where(defined, calibration(log_odds(probabilities)), 0.0)
