"""Translate and classify embeddings, in the API and on workers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from stitchwork.inference.classify import classify
from stitchwork.inference.coverage_report import CoverageReport
from stitchwork.inference.length_report import FITTING, LengthReport
from stitchwork.inference.resolve import Resolution
from stitchwork.inference.translate import translate
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.resources.anchor_count import anchor_count_warnings
from stitchwork.telemetry import Telemetry


@dataclass(frozen=True, eq=False)
class InferenceResult:
    """The result of one request.

    Without slots, since its reports are computed once, when they are first read.

    Attributes:
        resolution: The versions it was computed with.
        rows: (n, d) float32 embeddings or, with a head, (n, c) float32 scores of it.
        defined: (n,) bool; False for inputs without a direction in their space.
        covered: (n,) bool; False for inputs outside what the source's anchors cover.
        truncated: Indices of texts that were cut.
        tokens: Number of tokens that the model processed; 0 if the inputs are not texts.
        lengths: The embeddings whose lengths do not fit their space.
        prompt_name: Name of the model's prompt that an input type selected.
    """

    resolution: Resolution
    rows: Any
    defined: Any
    covered: Any
    truncated: tuple[int, ...] = ()
    tokens: int = 0
    lengths: LengthReport = FITTING
    prompt_name: str | None = None

    @cached_property
    def undefined(self) -> list[int]:
        """Indices of inputs without a direction, which are at the mean of their space."""
        if self.defined.all():
            return []
        indices: list[int] = np.flatnonzero(~self.defined).tolist()
        return indices

    @cached_property
    def coverage(self) -> CoverageReport:
        """The inputs that the anchors do not cover, with a warning if there are any."""
        return CoverageReport.of(self.covered, self.resolution.source)

    @property
    def warnings(self) -> list[str]:
        """What the caller should know of the inputs and the anchors, one sentence each."""
        few = self.resolution.few_anchors
        anchors = [] if few is None else anchor_count_warnings(few)
        return [*anchors, *self.coverage.warnings, *self.lengths.warnings]

    def rows_of(self, rows: slice | list[int]) -> "InferenceResult":
        """The result of some of the inputs; what is known of all of them is left out."""
        return InferenceResult(
            self.resolution, self.rows[rows], self.defined[rows], self.covered[rows]
        )

    def convert(self, function: Callable[[Any], Any]) -> "InferenceResult":
        """Apply a function to each array, such as a copy to another device."""
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
    """Translate embeddings into the target of a resolution and classify them with its head.

    Args:
        translator: Maps of pairs of spaces, on the device of the rows.
        classifiers: Classifiers of heads, on the device of the rows.
        resolution: The versions to use; without a target rows are returned unchanged, without a
            head they are not classified.
        rows: (n, d_X) float32; a numpy array, or a torch tensor on the device of the maps.
        telemetry: Times the steps.
        synchronize: Waits for the device to finish, so that times include its work; None on the
            CPU.

    Returns:
        Arrays in the library of the rows.
    """
    source, target, head = resolution.source, resolution.target, resolution.head
    if target is None:
        xp = array_namespace(rows)
        true = xp.ones_like(rows[:, 0], dtype=xp.bool)
        return InferenceResult(resolution, rows, defined=true, covered=true)
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
