"""The pipeline of an API process: resolve, embed, translate, classify, predict.

All inference routes call it. Its core, `stitch.stitch`, also runs on workers, on arrays of their
device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import DeadlineExceededError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.inference import embed, predictions, resolve, stitch, tokens
from stitchwork.inference.embed import JobCache
from stitchwork.inference.length_report import LengthReport, row_lengths
from stitchwork.inference.predictions import HeadPredictions, RegressionPrediction
from stitchwork.inference.resolve import Resolution
from stitchwork.inference.stitch import InferenceResult
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.queue.messages import Task
from stitchwork.queue.producer import Producer
from stitchwork.registry.registry import Registry
from stitchwork.resources import Floats, Input
from stitchwork.telemetry import Telemetry

SLICE_ROWS: Final = 1024
"""Embeddings that are translated and classified at a time."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Inference in an API process.

    Attributes:
        registry: Records of spaces and heads.
        translator: Maps of pairs of spaces.
        classifiers: Classifiers of heads.
        producer: Sends jobs to workers.
        telemetry: Counts inputs and confidences, and times steps.
        items_per_job: Maximum number of raw inputs in one job.
        jobs: The jobs of resolutions.
    """

    registry: Registry
    translator: Translator
    classifiers: ClassifierCache
    producer: Producer
    telemetry: Telemetry
    items_per_job: int
    jobs: JobCache = field(default_factory=JobCache)

    def resolve(
        self,
        *,
        source: str | None = None,
        target: str | None = None,
        head: str | None = None,
        bridge: BridgeName = DEFAULT_BRIDGE,
    ) -> Resolution:
        """Resolve the versions that a request uses; see `resolve.resolve`.

        In memory if that is possible, else by a call to the registry, which blocks.
        """
        known = self.resolve_in_memory(source=source, target=target, head=head, bridge=bridge)
        if known is not None:
            return known
        self.telemetry.metrics.caches["record"].miss.inc()
        return resolve.resolve(
            self.registry, source=source, target=target, head=head, bridge=bridge
        )

    def resolve_in_memory(
        self,
        *,
        source: str | None = None,
        target: str | None = None,
        head: str | None = None,
        bridge: BridgeName = DEFAULT_BRIDGE,
    ) -> Resolution | None:
        """Like `resolve`, without a call to the registry; None if it takes one."""
        resolution = resolve.resolve_in_memory(
            self.registry, source=source, target=target, head=head, bridge=bridge
        )
        if resolution is not None:
            self.telemetry.metrics.caches["record"].hit.inc()
        return resolution

    def count_products(self, resolution: Resolution) -> int | None:
        """The multiplications that one embedding takes; None if something is not in memory yet."""
        source, target, head = resolution.source, resolution.destination, resolution.head
        products = self.translator.count_products(source, target, resolution.bridge)
        if products is None or head is None:
            return products
        classified = self.classifiers.count_products(head)
        return None if classified is None else products + classified

    def infer_rows(
        self,
        resolution: Resolution,
        rows: Floats,
        is_abandoned: Callable[[], bool] = lambda: False,
    ) -> InferenceResult:
        """Translate and classify embeddings in this process.

        Args:
            resolution: The versions to use; it has a target, and without a head rows are not
                classified.
            rows: (n, d_X) float32 embeddings of its source.
            is_abandoned: Whether nobody waits for the result any more.

        Returns:
            (n, d_Y) float32 embeddings of the target or, with a head, (n, c) float32 scores.

        Raises:
            DeadlineExceededError: If it was abandoned.
        """
        result = self.stitch_rows(resolution, rows, is_abandoned=is_abandoned)
        operation = "classify" if resolution.head else "translate"
        self.telemetry.metrics.record_inputs(operation, result.covered)
        return result

    def stitch_rows(
        self,
        resolution: Resolution,
        rows: Floats,
        *,
        by_encoder: bool = False,
        is_abandoned: Callable[[], bool] = lambda: False,
    ) -> InferenceResult:
        """Like `infer_rows`, but inputs are not counted: for reports.

        Args:
            resolution: The versions to use.
            rows: (n, d_X) float32 embeddings of its source.
            by_encoder: Whether the source's encoder computed the rows.
            is_abandoned: Whether nobody waits for the result any more.

        Raises:
            DeadlineExceededError: If it was abandoned.
        """
        if len(rows) <= SLICE_ROWS:
            result = self._stitch(resolution, rows)
        else:
            result = self._stitch_slices(resolution, rows, is_abandoned)
        lengths = LengthReport.of(row_lengths(rows), resolution.source, by_encoder=by_encoder)
        return replace(result, lengths=lengths)

    def _stitch(self, resolution: Resolution, rows: Floats) -> InferenceResult:
        return stitch.stitch(
            self.translator, self.classifiers, resolution, rows, telemetry=self.telemetry
        )

    def _stitch_slices(
        self, resolution: Resolution, rows: Floats, is_abandoned: Callable[[], bool]
    ) -> InferenceResult:
        """The result of many rows, with the intermediate arrays of a few of them at a time."""
        part = self._stitch(resolution, rows[:SLICE_ROWS])
        result = part.convert(partial(_allocate, len(rows)))
        for start in range(0, len(rows), SLICE_ROWS):
            stop = start + SLICE_ROWS
            if is_abandoned():
                raise DeadlineExceededError("nobody waits for the result")
            if start:
                part = self._stitch(resolution, rows[start:stop])
            result.rows[start:stop] = part.rows
            result.defined[start:stop] = part.defined
            result.covered[start:stop] = part.covered
        return result

    async def infer_items(
        self,
        resolution: Resolution,
        items: Sequence[Input],
        *,
        truncate: bool | None,
        input_type: str | None = None,
        seconds: float,
    ) -> InferenceResult:
        """Embed raw inputs on workers, which also translate and classify them.

        Args:
            resolution: The versions to use; its source has an encoder. Without a target the
                inputs are not translated, without a head not classified.
            items: Texts, or the bytes of image files.
            truncate: Cut texts that are too long; None takes the encoder's setting.
            input_type: Selects a prompt of the encoder's model; None takes the encoder's own.
            seconds: Deadline of the result, in seconds from now.
        """
        result = await embed.embed(
            self.producer,
            self.jobs,
            resolution,
            items,
            truncate=truncate,
            input_type=input_type,
            items_per_job=self.items_per_job,
            seconds=seconds,
        )
        operation = "stitch" if resolution.head else "embed"
        self.telemetry.metrics.record_inputs(operation, result.covered)
        return result

    async def run_tokenizer(
        self,
        resolution: Resolution,
        items: Sequence[Input],
        *,
        task: Task,
        special_tokens: bool,
        input_type: str | None = None,
        seconds: float,
    ) -> bytes:
        """Tokenise texts or decode token ids on workers; see `tokens.run_tokenizer`."""
        return await tokens.run_tokenizer(
            self.producer,
            resolution.source,
            items,
            task=task,
            special_tokens=special_tokens,
            input_type=input_type,
            items_per_job=self.items_per_job,
            seconds=seconds,
        )

    def predict(
        self, result: InferenceResult, top: int, min_confidence: float = 0.0
    ) -> HeadPredictions:
        """The predictions of a result.

        Args:
            result: Its resolution has a head, and its rows are scores of it.
            top: Number of labels in each prediction.
            min_confidence: Confidence below which a prediction is not made.
        """
        head = resolve.head_of(result.resolution)
        rows = predictions.predict(result, top, min_confidence)
        confidences = [row.confidence for row in rows if not isinstance(row, RegressionPrediction)]
        if confidences:
            self.telemetry.metrics.record_confidences(head.id, confidences)
        return rows


def _allocate(count: int, part: NDArray[Any]) -> NDArray[Any]:
    """An array of so many rows, for parts like this one."""
    return np.empty((count, *part.shape[1:]), part.dtype)
