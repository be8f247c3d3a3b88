"""Embeddings through the map and the head of a resolution: what the API and workers compute."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from stitchwork.inference.classify import classify
from stitchwork.inference.coverage_report import CoverageReport
from stitchwork.inference.resolve import Resolution
from stitchwork.inference.translate import translate
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.telemetry import Telemetry


@dataclass(frozen=True, slots=True, eq=False)
class InferenceResult:
    """The result of one request.

    Attributes:
        resolution: The versions it comes from.
        rows: (n, d) float32 embeddings or, where there is a head, (n, c) float32 probabilities.
        defined: (n,) bool; False for inputs without a direction in their space.
        covered: (n,) bool; False for inputs outside what the source's anchors cover.
        truncated: Indices of the inputs that were cut.
        tokens: Number of tokens that the model processed; 0 where inputs are not texts.
    """

    resolution: Resolution
    rows: Any
    defined: Any
    covered: Any
    truncated: tuple[int, ...] = ()
    tokens: int = 0

    @property
    def undefined(self) -> list[int]:
        """Indices of the rows that have no direction, and so equal the mean of their space."""
        indices: list[int] = np.flatnonzero(~self.defined).tolist()
        return indices

    @property
    def coverage(self) -> CoverageReport:
        """Which inputs the anchors do not cover, with a warning if there are any."""
        return CoverageReport.of(self.covered, self.resolution.source)

    def convert(self, function: Callable[[Any], Any]) -> "InferenceResult":
        """The same result with a function applied to each of its arrays."""
        return replace(
            self,
            rows=function(self.rows),
            defined=function(self.defined),
            covered=function(self.covered),
        )


def stitch(
    translator: Translator,
    classifiers: ClassifierCache,
    resolution: Resolution,
    rows: Any,
    *,
    telemetry: Telemetry,
    synchronize: Callable[[], None] | None = None,
) -> InferenceResult:
    """Translate embeddings into the resolution's target and classify them by its head.

    Args:
        translator: Gives maps on the device of the rows.
        classifiers: Gives classifiers on the device of the rows.
        resolution: What to do; without a target rows are returned as they are.
        rows: (n, d_X) float32; numpy, or torch on the device of maps and classifiers.
        telemetry: Where the steps are timed.
        synchronize: Waits for the device, so that its work is timed; None on the CPU.

    Returns:
        Arrays in the library of the rows.
    """
    source, target, head = resolution.source, resolution.target, resolution.head
    if target is None:
        xp = array_namespace(rows)
        marks = xp.ones_like(rows[:, 0], dtype=xp.bool)
        return InferenceResult(resolution, rows, marks, marks)
    result, defined, covered = translate(
        translator,
        source,
        target,
        resolution.bridge,
        rows,
        telemetry=telemetry,
        synchronize=synchronize,
    )
    if head is not None:
        result = classify(classifiers, head, result, telemetry=telemetry, synchronize=synchronize)
    return InferenceResult(resolution, result, defined, covered)
