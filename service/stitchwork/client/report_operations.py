"""The client's methods for reports: on spaces, anchors and heads."""

from collections.abc import Sequence
from typing import Any

from stitchwork.client.chunks import all_rows, json_items
from stitchwork.client.flows import (
    Flow,
    Operation,
    Targets,
    label_list,
    send_arrays,
    url_path,
    without_none,
)
from stitchwork.client.inference_operations import RowSource
from stitchwork.client.progress import Progress
from stitchwork.client.reports import read_report
from stitchwork.client.resource_operations import Items
from stitchwork.errors import InvalidInputError


class ReportOperations:
    """Compares spaces, reports on anchors, and evaluates heads."""

    @Operation
    def compatibility(
        self,
        anchor_set: str,
        bridge: str | None = None,
        spaces: Sequence[str] | None = None,
        *,
        progress: Progress | bool = False,
    ) -> Flow[dict[str, Any]]:
        """Report how well the spaces of a set translate into each other, by held-out anchors.

        Waits until all pairs are compared.

        Args:
            anchor_set: Id of the set.
            bridge: Default: the service's.
            spaces: Ids of some of its spaces; default: all that are ready.
            progress: Called with the pairs compared and all pairs of a page; True draws a bar.
        """
        names = None if spaces is None else ",".join(spaces)
        query = {"anchor_set": anchor_set, "bridge": bridge, "spaces": names}
        pairs: list[Any] = []
        while True:
            page = yield from read_report("/compatibility", query, progress)
            pairs += page["pairs"]
            cursor = page.get("cursor")
            if cursor is None:
                return {**page, "pairs": pairs}
            query["cursor"] = cursor

    @Operation
    def anchor_report(
        self, space: str, target: str | None = None, bridge: str | None = None
    ) -> Flow[dict[str, Any]]:
        """Report duplicate and redundant anchors of a space, and whether there are enough.

        With a target, it also names the pairs of anchors that do not seem to correspond. Waits
        until the report is computed.
        """
        query = {"target": target, "bridge": bridge}
        return (yield from read_report(url_path("spaces", space, "anchors"), query))

    @Operation
    def choose_anchors(
        self, pool: RowSource, count: int, space: str | None = None
    ) -> Flow[list[int]]:
        """Choose the rows of a pool that represent it best as anchors; no labels are needed.

        Args:
            pool: (n, d) embeddings of one encoder.
            count: Largest number of rows to choose.
            space: A space of the same encoder, whose anchors count as chosen.

        Returns:
            Indices of the rows, in order: fewer of them are the beginning.
        """
        fields = {"count": count} | ({} if space is None else {"space": space})
        report = yield from send_arrays(
            "POST", url_path("anchors", "choose"), fields, {"embeddings": all_rows(pool)}
        )
        return [step["index"] for step in report["chosen"]]

    @Operation
    def evaluate_head(
        self,
        encoder: str,
        head: str,
        labels: Targets,
        *,
        items: Items | None = None,
        embeddings: RowSource | None = None,
        native_embeddings: RowSource | None = None,
        bridge: str | None = None,
        input_type: str | None = None,
        truncate: bool | None = None,
        calibrate: bool = False,
        min_accuracy: float | None = None,
    ) -> Flow[dict[str, Any]]:
        """Report the accuracies of a head on a labelled sample of another space, and a verdict.

        Args:
            encoder: Id of the space of the inputs.
            head: Id of the head.
            labels: A label for each input; for a multi-label head the list of its labels; for a
                regression a number or a list of them.
            items: The raw inputs, or
            embeddings: (n, d) of the encoder's space.
            native_embeddings: (n, d) of the same inputs in the head's own space.
            bridge: Default: the service's.
            input_type: Selects a prompt of the encoders' models, as in `embed`; with items only.
            truncate: Cut texts that are too long, as in `embed`; with items only.
            calibrate: Calibrate `confidence` by the sample from now on.
            min_accuracy: Also report the `threshold` of the confidence from which on predictions
                have this accuracy; the head must not have been trained on the sample.

        Raises:
            InvalidInputError: If `min_accuracy` is not between 0 and 1.
        """
        if min_accuracy is not None and not 0 < min_accuracy < 1:
            raise InvalidInputError(
                f"expected a min_accuracy between 0 and 1, got {min_accuracy}",
                pointer="/min_accuracy",
            )
        inputs = None if items is None else json_items(items)
        fields = {
            "labels": label_list(labels),
            "items": inputs,
            "bridge": bridge,
            "input_type": input_type,
            "truncate": truncate,
            "calibrate": calibrate,
            "min_accuracy": min_accuracy,
        }
        arrays = {
            "embeddings": None if embeddings is None else all_rows(embeddings),
            "native_embeddings": None if native_embeddings is None else all_rows(native_embeddings),
        }
        path = url_path("compatibility", encoder, head)
        return (yield from send_arrays("POST", path, without_none(fields), without_none(arrays)))
