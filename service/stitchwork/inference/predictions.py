"""Probabilities → predictions that a person can read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchwork.geometry.calibration import Calibration, log_odds
from stitchwork.geometry.diagnostics.space_metrics import head_confidence
from stitchwork.resources import Floats


def predictions(
    probabilities: Floats,
    defined: NDArray[np.bool_],
    labels: tuple[str, ...],
    top: int,
    calibration: Calibration | None = None,
) -> list[dict[str, Any]]:
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
        best = [
            {"label": labels[c], "score": value} for c, value in zip(classes, values, strict=True)
        ]
        told = {"confidence": trusted[row], "calibrated": calibration is not None}
        found.append({**best[0], "top": best, **told})
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
