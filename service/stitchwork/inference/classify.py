"""Scores of a head for embeddings of its space."""

from collections.abc import Callable
from typing import Any

from stitchwork.inference.translator import ClassifierCache
from stitchwork.resources import Head
from stitchwork.telemetry import Telemetry


def classify(
    classifiers: ClassifierCache,
    head: Head,
    rows: Any,
    *,
    telemetry: Telemetry,
    synchronize: Callable[[], None] | None = None,
) -> Any:
    """Classify embeddings of the head's space.

    Args:
        classifiers: Classifiers of heads, on the device of the rows.
        head: The head.
        rows: (n, d) float32; a numpy array, or a torch tensor on the device of the classifiers.
        telemetry: Times the step.
        synchronize: Waits for the device to finish, so that the time includes its work; None on
            the CPU.

    Returns:
        (n, c) float32 in the array library of the rows: probabilities or, of a regression, values.
    """
    classifier = classifiers.get(head)
    with telemetry.step("classify"):
        result = classifier.scores(rows)
        if synchronize:
            synchronize()
    return result
