"""Rows of a head's space as probabilities of its classes."""

from collections.abc import Callable
from typing import Any

from stitchwork.geometry.classifier import probabilities
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
    """Classify embeddings of a head's own space.

    Args:
        classifiers: Gives the head's layers, on the device of the rows.
        head: The head.
        rows: (n, d) float32; numpy, or torch on the device of the classifiers.
        telemetry: Where the step is timed.
        synchronize: Waits for the device, so that its work is timed; None on the CPU.

    Returns:
        (n, c) float32 probabilities in the array library of the input; rows sum to one.
    """
    classifier = classifiers.get(head)
    with telemetry.step("classify"):
        result = probabilities(classifier.logits(rows))
        if synchronize:
            synchronize()
    return result
