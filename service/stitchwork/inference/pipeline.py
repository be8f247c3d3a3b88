"""The pipeline of one API process: resolve, embed, translate, classify, predict, each in one place.

Every face of the API calls these; none has a copy. Workers call `stitch` on their device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.inference import embed, predictions, resolve, stitch
from stitchwork.inference.predictions import Prediction
from stitchwork.inference.resolve import Resolution
from stitchwork.inference.stitch import InferenceResult
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.queue.producer import Producer
from stitchwork.registry.registry import Registry
from stitchwork.resources import Floats, Item
from stitchwork.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What inference needs in one API process.

    Attributes:
        registry: Where records are.
        translator: Maps of pairs of spaces.
        classifiers: Classifiers of heads.
        producer: Sends jobs to workers.
        telemetry: Where inputs, steps and confidence are counted.
        items_per_job: Raw inputs in one job.
    """

    registry: Registry
    translator: Translator
    classifiers: ClassifierCache
    producer: Producer
    telemetry: Telemetry
    items_per_job: int

    def resolve(
        self,
        *,
        source: str | None = None,
        target: str | None = None,
        head: str | None = None,
        bridge: BridgeName = DEFAULT_BRIDGE,
    ) -> Resolution:
        """The versions that a request uses; see `resolve.resolve`."""
        return resolve.resolve(
            self.registry, source=source, target=target, head=head, bridge=bridge
        )

    def infer_rows(self, resolution: Resolution, rows: Floats) -> InferenceResult:
        """Translate and classify embeddings in this process.

        Args:
            resolution: What to do; it has a target.
            rows: (n, d) float32 embeddings of its source.

        Returns:
            (n, d_Y) embeddings of the target, or (n, c) probabilities.
        """
        result = self.stitch_rows(resolution, rows)
        operation = "classify" if resolution.head else "translate"
        self.telemetry.metrics.record_inputs(operation, result.covered)
        return result

    def stitch_rows(self, resolution: Resolution, rows: Floats) -> InferenceResult:
        """Like `infer_rows`, without counting inputs: for reports on the service's own work."""
        return stitch.stitch(
            self.translator, self.classifiers, resolution, rows, telemetry=self.telemetry
        )

    async def infer_items(
        self,
        resolution: Resolution,
        items: Sequence[Item],
        *,
        truncate: bool | None,
        seconds: float,
    ) -> InferenceResult:
        """Embed raw inputs on a worker and, where the resolution says so, translate and classify.

        Args:
            resolution: What to do; its source has an encoder.
            items: Texts, or the bytes of image files.
            truncate: Cut texts that are too long; None leaves it to the encoder's own setting.
            seconds: Seconds after which the result is of no use.
        """
        result = await embed.embed(
            self.producer,
            resolution,
            items,
            truncate=truncate,
            items_per_job=self.items_per_job,
            seconds=seconds,
        )
        operation = "stitch" if resolution.head else "embed"
        self.telemetry.metrics.record_inputs(operation, result.covered)
        return result

    def predict(self, result: InferenceResult, top: int) -> list[Prediction]:
        """The predictions of a result whose resolution has a head.

        Args:
            result: Probabilities.
            top: Number of classes in each prediction.
        """
        head = resolve.head_of(result.resolution)
        rows = predictions.predict(result, head.labels, top)
        self.telemetry.metrics.record_confidences(head.id, [row.confidence for row in rows])
        return rows
