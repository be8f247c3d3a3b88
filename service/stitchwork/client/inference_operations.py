"""The client's methods that compute: translations, predictions and exports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from stitchwork.client.batch_calls import (
    CallOptions,
    TranslationResult,
    items_to_predictions,
    items_to_rows,
    rows_to_predictions,
    rows_to_rows,
)
from stitchwork.client.chunks import Floats, Rows, ServiceLimits, Sink
from stitchwork.client.flows import (
    Flow,
    Operation,
    send,
    url_path,
)
from stitchwork.client.partial_results import PartialResult, Predictions
from stitchwork.client.progress import Progress
from stitchwork.client.resource_operations import Items

FileFormat: TypeAlias = Literal["safetensors", "onnx"]
RowSource: TypeAlias = Floats | Rows | str | Path
Scale: TypeAlias = float | Sequence[float] | NDArray[Any]


class InferenceOperations:
    """Embeds, translates, classifies and exports.

    Args:
        in_flight: Parts of a large call that may be in progress at the same time.
        timeout: Seconds that one request may take.
        restarts: How often a large call begins again whose versions are replaced during it.
    """

    def __init__(self, in_flight: int, timeout: float, restarts: int) -> None:
        self.in_flight = in_flight
        self.timeout = timeout
        self.restarts = restarts
        self.limits: ServiceLimits | None = None

    @Operation
    def translate(
        self,
        embeddings: RowSource,
        source: str,
        target: str,
        bridge: str | None = None,
        *,
        scale: Scale | None = None,
        out: Any = None,
        progress: Progress | bool = False,
        resume: PartialResult | None = None,
    ) -> Flow[Floats]:
        """Translate embeddings of one space into another.

        Many rows are read, sent and written in parts, so a `np.memmap`, or anything else that is
        read by slices, is never in memory as a whole.

        Args:
            embeddings: (n, d_source), any floats: an array, a torch tensor, `Rows`, or the path of
                an .npy, .npz, safetensors or Parquet file. Also int8, with a scale.
            source: Id of the space of the embeddings.
            target: Id of the space to translate into.
            bridge: Default: the service's.
            scale: What int8 embeddings are multiplied by: a number, or one for each column (d,) or
                row (n, 1); default: that of the file.
            out: (n, d_target) floats to write to, such as a `np.memmap`, or the path of a file,
                whose name decides the format; default: a new array.
            progress: Called with the rows done and all rows; True draws a bar.
            resume: The `partial` of the error with which the same call failed: what it has is not
                computed again.

        Returns:
            (n, d_target) float32, or `out`; for a path, what was written.

        Raises:
            InvalidInputError: If the embeddings are of another type, or a number does not fit
                float32.
            VersionMismatchError: If a space was replaced more than `restarts` times meanwhile.
        """
        query = {"source": source, "target": target, "bridge": bridge}
        result = yield from rows_to_rows(
            self, CallOptions(progress, resume), "/translate", query, embeddings, scale, out
        )
        rows: Floats = result.rows
        return rows

    @Operation
    def translation(
        self,
        embeddings: RowSource,
        source: str,
        target: str,
        bridge: str | None = None,
        *,
        scale: Scale | None = None,
        out: Sink | str | Path | None = None,
        progress: Progress | bool = False,
        resume: PartialResult | None = None,
    ) -> Flow[TranslationResult]:
        """The same as `translate`, with what the service reports about single rows."""
        query = {"source": source, "target": target, "bridge": bridge}
        options = CallOptions(progress, resume)
        return (yield from rows_to_rows(self, options, "/translate", query, embeddings, scale, out))

    @Operation
    def classify(
        self,
        head: str,
        embeddings: RowSource,
        space: str,
        bridge: str | None = None,
        top: int = 1,
        *,
        min_confidence: float | None = None,
        scale: Scale | None = None,
        progress: Progress | bool = False,
        resume: PartialResult | None = None,
    ) -> Flow[Predictions]:
        """Classify embeddings (n, d) of a space; many are sent in parts.

        Args:
            head: Id of the head.
            embeddings: (n, d), as in `translate`.
            space: Id of the space of the embeddings.
            bridge: Default: the service's.
            top: Number of classes in each prediction.
            min_confidence: Confidence below which the head abstains; none by default. The report
                of `evaluate_head` says which to take for an accuracy.
            scale: What int8 embeddings are multiplied by, as in `translate`.
            progress: Called with the rows done and all rows; True draws a bar.
            resume: The `partial` of the error with which the same call failed.

        Returns:
            A prediction for each row, with `label`, `score`, `confidence` and `top`; of a
            multi-label head with `labels`, `confidence` and `top`; of a regression with `values`.
            One with `abstained` has no `label`, and no `labels`. The `warnings` of responses, such
            as that on inputs that the anchors do not cover, are logged by `stitchwork.client`.
        """
        query = {"space": space, "bridge": bridge, "top": top, "min_confidence": min_confidence}
        path = url_path("classify", head)
        options = CallOptions(progress, resume)
        return (yield from rows_to_predictions(self, options, path, query, embeddings, scale))

    @Operation
    def embed(
        self,
        encoder: str,
        items: Items,
        target: str | None = None,
        bridge: str | None = None,
        *,
        input_type: str | None = None,
        truncate: bool | None = None,
        out: Any = None,
        progress: Progress | bool = False,
        resume: PartialResult | None = None,
    ) -> Flow[Floats]:
        """Embed raw inputs in the encoder's space or, translated, in the target.

        Many are sent in parts.

        Args:
            encoder: Id of a space that has an encoder.
            items: The raw inputs: texts, or image files as bytes.
            target: Id of the space to translate into.
            bridge: Default: the service's.
            input_type: Selects a prompt of the encoder's model by its name or purpose, such as
                `query` or `document`; default: the prompt of the anchors.
            truncate: Cut texts that are too long; default: as the encoder is registered.
            out: (n, d) floats to write to, or the path of a file, as in `translate`.
            progress: Called with the inputs done and all inputs; True draws a bar.
            resume: The `partial` of the error with which the same call failed.

        Returns:
            (n, d) float32, or `out`.
        """
        fields = {
            "target": target,
            "bridge": bridge,
            "input_type": input_type,
            "truncate": truncate,
        }
        path = url_path("embed", encoder)
        options = CallOptions(progress, resume)
        result = yield from items_to_rows(self, options, path, fields, items, out)
        rows: Floats = result.rows
        return rows

    @Operation
    def stitch(
        self,
        encoder: str,
        head: str,
        items: Items,
        bridge: str | None = None,
        top: int = 1,
        *,
        min_confidence: float | None = None,
        input_type: str | None = None,
        truncate: bool | None = None,
        progress: Progress | bool = False,
        resume: PartialResult | None = None,
    ) -> Flow[Predictions]:
        """Classify raw inputs with the encoder of one space and the head of another.

        Args:
            encoder: Id of a space that has an encoder.
            head: Id of the head.
            items: The raw inputs: texts, or image files as bytes.
            bridge: Default: the service's.
            top: Number of classes in each prediction.
            min_confidence: Confidence below which the head abstains, as in `classify`.
            input_type: Selects a prompt of the encoder's model, as in `embed`.
            truncate: Cut texts that are too long, as in `embed`.
            progress: Called with the inputs done and all inputs; True draws a bar.
            resume: The `partial` of the error with which the same call failed.

        Returns:
            A prediction for each input, as from `classify`.
        """
        fields = {
            "bridge": bridge,
            "top": top,
            "min_confidence": min_confidence,
            "input_type": input_type,
            "truncate": truncate,
        }
        path = url_path("stitch", encoder, head)
        options = CallOptions(progress, resume)
        return (yield from items_to_predictions(self, options, path, fields, items))

    @Operation
    def export(
        self,
        source: str,
        target: str,
        bridge: str | None = None,
        *,
        head: str | None = None,
        format: FileFormat = "safetensors",  # noqa: A002 as in the query
    ) -> Flow[bytes]:
        """Download the map from one space to another as a file that needs no service.

        Args:
            source: Id of the source space.
            target: Id of the target space; with a head, the head's.
            bridge: Default: the service's.
            head: Id of a head to append, in ONNX only.
            format: Format of the file.
        """
        query = {"bridge": bridge, "head": head, "format": format}
        path = url_path("spaces", source, "translations", target)
        response = yield from send("GET", path, query=query)
        return response.content
