"""Probabilities → predictions that a person can read."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stitchwork.geometry.calibration import Calibration, log_odds
from stitchwork.geometry.diagnostics.space_metrics import head_confidence
from stitchwork.resources import Floats


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

    Not slots: orjson renders such dataclasses five times slower.

    Attributes:
        label: The label with the largest score.
        score: Its probability, in [0, 1].
        top: The largest scores in descending order; equal scores keep the labels' order.
        confidence: In [0, 1]; 0 where the input has no direction in its space.
        calibrated: Whether the confidence is calibrated on a labelled sample.
    """

    label: str
    score: float
    top: list[LabelScore]
    confidence: Annotated[float, Field(ge=0, le=1)]
    calibrated: bool


def predictions(
    probabilities: Floats,
    defined: NDArray[np.bool_],
    labels: tuple[str, ...],
    top: int,
    calibration: Calibration | None = None,
) -> list[Prediction]:
    """What each input is taken for.

    Args:
        probabilities: (n, c) softmax of the head's scores.
        defined: (n,) False where the input has no direction in its space.
        labels: c labels.
        top: How many classes to show.
        calibration: What a labelled sample taught about these scores, if one did.

    Returns:
        For each input the best label, its score, the best `top` of both, a confidence in [0, 1]
        that is 0 where the input has no direction, and whether it is calibrated. Equal scores
        keep the labels' order.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    scores = np.take_along_axis(probabilities, order, axis=1).tolist()
    trusted = confidence(probabilities, defined, calibration).tolist()
    found = []
    for row, (classes, values) in enumerate(zip(order.tolist(), scores, strict=True)):
        best = [LabelScore(labels[c], value) for c, value in zip(classes, values, strict=True)]
        first = best[0]
        calibrated = calibration is not None
        found.append(Prediction(first.label, first.score, best, trusted[row], calibrated))
    return found


def confidence(
    probabilities: Floats, defined: NDArray[np.bool_], calibration: Calibration | None
) -> NDArray[Any]:
    """How far each prediction can be trusted.

    Args:
        probabilities: (n, c) softmax of the head's scores.
        defined: (n,) False where the input has no direction in its space.
        calibration: Of these scores; None takes the head's own largest probability.

    Returns:
        (n,) in [0, 1], 0 where the input has no direction.
    """
    if calibration is None:
        return np.asarray(head_confidence(probabilities, defined))
    return np.where(defined, calibration(log_odds(probabilities)), 0.0)
