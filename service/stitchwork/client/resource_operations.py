"""The client's methods for anchor sets, spaces and heads."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from stitchwork.client.chunks import Floats, all_rows, json_items
from stitchwork.client.flows import (
    Flow,
    Labels,
    Operation,
    Pause,
    float32_array,
    label_list,
    send,
    send_arrays,
    send_json,
    url_path,
    without_none,
)
from stitchwork.client.head_weights import split_layers
from stitchwork.client.progress import Progress, progress_callback
from stitchwork.client.scikit_learn import estimator_weights
from stitchwork.client.torch_modules import module_weights
from stitchwork.errors import ErrorCode, StitchworkError

POLL_SECONDS: Final = 0.2
CHECK_SECONDS: Final = 30.0
PAGE_SIZE: Final = 1000

Kind: TypeAlias = Literal["anchor-sets", "spaces", "heads"]
Thresholds: TypeAlias = float | Sequence[float]
Items: TypeAlias = Sequence[str] | Sequence[bytes]


class ResourceOperations:
    """Registers, reads and deletes anchor sets, spaces and heads."""

    @Operation
    def info(self) -> Flow[dict[str, Any]]:
        """Version, bridges and limits of the service."""
        return (yield from send_json("GET", "/info"))

    @Operation
    def put_anchor_set(
        self,
        id_: str,
        modality: str = "vector",
        *,
        items: Items | None = None,
        ids: Sequence[str] | None = None,
        size: int | None = None,
    ) -> Flow[dict[str, Any]]:
        """Declare an anchor set by its items, its ids, or its size alone.

        Args:
            id_: The anchor set's id.
            modality: `text`, `image` or `vector`.
            items: The raw inputs: texts, or image files as bytes.
            ids: Names of the anchors.
            size: Number of anchors.
        """
        inputs = None if items is None else json_items(items)
        body = {"modality": modality, "items": inputs, "ids": ids, "size": size}
        path = url_path("anchor-sets", id_)
        return (yield from send_json("PUT", path, body=without_none(body)))

    @Operation
    def put_space(
        self,
        /,
        id_: str,
        anchor_set: str,
        *,
        anchors: Floats | str | Path | None = None,
        scale: Any = None,
        encoder: dict[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        unit: bool | None = None,
        **parameters: Any,
    ) -> Flow[dict[str, Any]]:
        """Register a space by its anchors, or by an encoder that embeds the set's items.

        With both, and a set of items that the encoder can embed, the space is pending until a
        worker has found that the anchors are the encoder's; `wait` waits for it.

        Args:
            id_: The space's id.
            anchor_set: Id of its anchor set.
            anchors: (k, d), in the order of the set: an array, or the path of a file, as in
                `translate`.
            scale: What int8 anchors are multiplied by, as in `translate`.
            encoder: The encoder's fields, such as `kind` and `model`.
            ids: Names of the rows, where these are in another order than the set's.
            unit: Scale translations into it to unit length; None: if all anchors have length one.
            parameters: Parameters of the bridges.
        """
        fields = {
            "anchor_set": anchor_set,
            "encoder": encoder,
            "ids": ids,
            "unit": unit,
            **parameters,
        }
        arrays = {} if anchors is None else {"anchors": all_rows(anchors, scale)}
        return (
            yield from send_arrays("PUT", url_path("spaces", id_), without_none(fields), arrays)
        )

    @Operation
    def put_head(
        self, /, id_: str, space: str, *, arrays: Mapping[str, Any] | None = None, **fields: Any
    ) -> Flow[dict[str, Any]]:
        """Register a head.

        Args:
            id_: The head's id.
            space: Id of its space.
            arrays: `weight` (c, d) and `bias` (c,), or `0.weight`, `0.bias`, `2.weight`, … of
                several layers, or `embeddings` (n, d) to fit a linear head on, each with `labels`.
                Weights of a single score (1, d) have two labels, the negative class first. Numpy
                arrays or torch tensors.
            fields: `labels`: strings, integers or booleans, which predictions have as they are
                here; `layers`: the kind of each layer, or a dictionary of its kind, arrays and
                options; `activation` between linear layers, or a list with one between each two;
                `problem_type`, `thresholds` and `temperature`; `classifier`, or `fit` with `items`
                and `labels`; also arrays whose names are Python identifiers.
        """
        if fields.get("labels") is not None:
            fields["labels"] = label_list(fields["labels"])
        named = {name: fields.pop(name) for name in [*fields] if _is_array(fields[name])}
        if fields.get("fit"):
            fields["fit"] = _fit_fields(fields["fit"])
        if fields.get("layers"):
            head = split_layers(fields["layers"])
            fields, named = {**fields, **head.fields}, {**named, **head.arrays}
        return (yield from _send_head(id_, space, fields, {**named, **(arrays or {})}))

    @Operation
    def put_head_from_sklearn(
        self,
        id_: str,
        space: str,
        estimator: Any,
        *,
        labels: Labels | None = None,
        uncalibrated: bool = False,
        thresholds: Thresholds | None = None,
        temperature: float | None = None,
    ) -> Flow[dict[str, Any]]:
        """Register a head by a fitted scikit-learn estimator of the space's embeddings.

        The head's probabilities equal the estimator's `predict_proba`, its values `predict`. Its
        attributes are sent, never a pickle.

        Args:
            id_: The head's id.
            space: Id of its space.
            estimator: LogisticRegression, LinearDiscriminantAnalysis, SGDClassifier, MLPClassifier
                or, with `uncalibrated`, LinearSVC, RidgeClassifier or Perceptron; these in a
                OneVsRestClassifier or a MultiOutputClassifier; a linear regressor or MLPRegressor;
                or a Pipeline that ends in one, of scalers, Normalizer, PCA and TruncatedSVD.
            labels: Names of the outputs; default: `classes_`.
            uncalibrated: Take a classifier that has no probabilities: the head has its
                predictions, but its scores are the softmax (for two classes and for several
                labels the sigmoid) of decision values and no probabilities.
            thresholds: Of several labels: the score from which each is predicted; default: 0.5.
            temperature: Of a calibration: logits are divided by it.

        Raises:
            InvalidInputError: If the estimator is not fitted, or a head cannot compute it exactly.
        """
        head = estimator_weights(estimator, labels, uncalibrated=uncalibrated)
        own = _calibration_fields(thresholds, temperature)
        return (yield from _send_head(id_, space, {**head.fields, **own}, head.arrays))

    @Operation
    def put_head_from_torch(
        self,
        id_: str,
        space: str,
        module: Any,
        *,
        labels: Labels | None = None,
        problem_type: str | None = None,
        thresholds: Thresholds | None = None,
        temperature: float | None = None,
    ) -> Flow[dict[str, Any]]:
        """Register a head by a torch module of the space's embeddings, in evaluation.

        Its attributes are sent, never a pickle.

        Args:
            id_: The head's id.
            space: Id of its space.
            module: A Linear, or a Sequential of Linear, LayerNorm, BatchNorm1d, Dropout and
                activations. A last Softmax or Sigmoid is left out: the head applies its own.
            labels: One label for each output; two for a single score.
            problem_type: `single_label_classification` (default), `multi_label_classification` or
                `regression`.
            thresholds: Of several labels: the score from which each is predicted; default: 0.5.
            temperature: Of a calibration: logits are divided by it.

        Raises:
            InvalidInputError: If a head cannot compute a module exactly.
        """
        head = module_weights(module, labels, problem_type)
        own = _calibration_fields(thresholds, temperature)
        return (yield from _send_head(id_, space, {**head.fields, **own}, head.arrays))

    @Operation
    def get(self, kind: Kind, id_: str) -> Flow[dict[str, Any]]:
        """The record of one resource."""
        return (yield from send_json("GET", url_path(kind, id_)))

    @Operation
    def delete(self, kind: Kind, id_: str) -> Flow[None]:
        """Delete one resource."""
        yield from send("DELETE", url_path(kind, id_))

    @Operation
    def records(self, kind: Kind) -> Flow[list[dict[str, Any]]]:
        """The records of all resources of one kind, in the order of their ids."""
        records: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            query = {"limit": PAGE_SIZE, "cursor": cursor}
            page = yield from send_json("GET", f"/{kind}", query=query)
            records += page["items"]
            cursor = page["cursor"]
            if cursor is None:
                return records

    @Operation
    def wait(
        self,
        kind: Kind,
        id_: str,
        *,
        timeout: float = 600.0,
        progress: Progress | bool = False,
    ) -> Flow[dict[str, Any]]:
        """Wait until the last registration under an id is ready and, of a space, checked.

        A space is usable before its anchors are compared with those of the other spaces on its
        set, so that the comparison is waited for at most 30 seconds.

        Args:
            kind: The kind of resource.
            id_: Its id.
            timeout: Seconds to wait.
            progress: Called with the inputs done and all inputs; True draws a bar.

        Raises:
            StitchworkError: If the registration failed, or takes longer.
        """
        deadline, checked_by = time.monotonic() + timeout, 0.0
        with ExitStack() as stack:
            report: Progress | None = None
            while True:
                record = yield from send_json("GET", url_path(kind, id_))
                pending = record.get("pending", record)
                if pending["status"] == "ready":
                    checked_by = checked_by or time.monotonic() + CHECK_SECONDS
                    # Older services have none.
                    is_checked = kind != "spaces" or record.get("checks", ()) is not None
                    if is_checked or time.monotonic() > min(checked_by, deadline):
                        return record
                    yield Pause(POLL_SECONDS)
                    continue
                if pending["status"] == "failed":
                    raise StitchworkError(
                        f"{kind} {id_}: {pending['reason']}", code=ErrorCode.REGISTRATION_FAILED
                    )
                done, total = pending["progress"]["done"], pending["progress"]["total"]
                report = report or stack.enter_context(
                    progress_callback(progress, f"preparing {id_}", total)
                )
                report(done, total)
                if time.monotonic() > deadline:
                    raise StitchworkError(f"{kind} {id_} is not ready after {timeout:g} seconds")
                yield Pause(POLL_SECONDS)


def _calibration_fields(thresholds: Thresholds | None, temperature: float | None) -> dict[str, Any]:
    if thresholds is not None and not isinstance(thresholds, float | int):
        thresholds = [float(threshold) for threshold in thresholds]
    return without_none({"thresholds": thresholds, "temperature": temperature})


def _send_head(
    id_: str, space: str, fields: Mapping[str, Any], arrays: Mapping[str, Any]
) -> Flow[dict[str, Any]]:
    path = url_path("heads", id_)
    return (yield from send_arrays("PUT", path, {"space": space, **fields}, arrays))


def _fit_fields(fit: Mapping[str, Any]) -> dict[str, Any]:
    """The data to fit on as JSON."""
    fields = dict(fit)
    if "items" in fields:
        fields["items"] = json_items(fields["items"])
    if "labels" in fields:
        fields["labels"] = label_list(fields["labels"])
    if _is_array(fields.get("embeddings")):
        fields["embeddings"] = float32_array(fields["embeddings"]).tolist()
    return fields


def _is_array(value: Any) -> bool:
    """Whether it is a numpy array or a torch tensor."""
    return isinstance(value, np.ndarray) or hasattr(value, "detach")
