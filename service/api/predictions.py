"""Probabilities → predictions that a person can read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.quality import head_confidence
from service.records import Floats


def predictions(
    probabilities: Floats, defined: NDArray[np.bool_], labels: tuple[str, ...], top: int
) -> list[dict[str, Any]]:
    """What each input is taken for.

    Args:
        probabilities: (n, c) softmax of the head's scores.
        defined: (n,) False where the input has no direction in its space.
        labels: c labels.
        top: How many classes to show.

    Returns:
        For each input the best label, its score, the best `top` of both, and a confidence in
        [0, 1] that is 0 where the input has no direction. Equal scores keep the labels' order.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    scores = np.take_along_axis(probabilities, order, axis=1).tolist()
    confidence = np.asarray(head_confidence(probabilities, defined)).tolist()
    found = []
    for row, (classes, values) in enumerate(zip(order.tolist(), scores, strict=True)):
        best = [
            {"label": labels[c], "score": value} for c, value in zip(classes, values, strict=True)
        ]
        found.append({**best[0], "top": best, "confidence": confidence[row]})
    return found
