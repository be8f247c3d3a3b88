"""Records of heads, and their classifiers as the arrays that are stored beside them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from pydantic import TypeAdapter

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    Classifier,
    expand_binary,
)
from stitchwork.geometry.head_layers import LAYER_TYPES, Layer
from stitchwork.resources import Arrays, Head, HeadLayer, Label

DEFAULT_THRESHOLD: Final = 0.5
_LAYERS: Final = TypeAdapter[tuple[HeadLayer, ...]](tuple[HeadLayer, ...])
_SHAPE_FIELDS: Final = ("kind", "inputs", "outputs")


@dataclass(frozen=True, slots=True)
class HeadDefinition:
    """What a head computes and what its outputs are called.

    Attributes:
        classifier: Its layers, float32 numpy, with what its logits mean.
        labels: One name for each output.
        thresholds: Of a multi-label head: the score from which each label is predicted.
    """

    classifier: Classifier
    labels: tuple[Label, ...]
    thresholds: tuple[float, ...] | None = None


def define_head(
    classifier: Classifier,
    labels: Sequence[Label] | None,
    thresholds: float | Sequence[float] | None = None,
) -> HeadDefinition:
    """The definition of a head, checked and completed.

    Args:
        classifier: Its layers. One that chooses between two labels may have a single score, the
            logit of the second one.
        labels: One for each output; None names the values of a regression 0, 1, ….
        thresholds: Of a multi-label head: one for all labels, or one for each; None is 0.5.

    Raises:
        InvalidInputError: If the numbers of labels and outputs differ, two labels are equal,
            there is a single class, or the thresholds do not fit.
    """
    kind, count = classifier.problem_type, classifier.n_outputs
    if labels is None:
        if kind != REGRESSION:
            raise InvalidInputError("expected labels, one for each class", pointer="/labels")
        labels = tuple(range(count))
    if kind == SINGLE_LABEL and count == 1:
        if len(labels) != 2:
            raise InvalidInputError(
                "expected two labels for a head with a single score, the negative class first, "
                f"got {len(labels)}",
                pointer="/labels",
            )
        classifier, count = expand_binary(classifier), 2
    if len(labels) != count:
        outputs = "has 1 value" if count == 1 else f"has {count} values"
        if kind != REGRESSION:
            outputs = f"scores {count} classes"
        raise InvalidInputError(f"the head {outputs}, got {len(labels)} labels", pointer="/labels")
    if len(set(labels)) < len(labels):
        duplicate = next(label for label, number in Counter(labels).items() if number > 1)
        raise InvalidInputError(
            f"expected distinct labels, got {str(duplicate)[:80]!r} twice", pointer="/labels"
        )
    return HeadDefinition(classifier, tuple(labels), _thresholds(classifier, thresholds))


def _thresholds(
    classifier: Classifier, thresholds: float | Sequence[float] | None
) -> tuple[float, ...] | None:
    if classifier.problem_type != MULTI_LABEL:
        if thresholds is not None:
            raise InvalidInputError(
                f"expected thresholds for a head of {MULTI_LABEL} only, got {thresholds} for "
                f"{classifier.problem_type}",
                pointer="/thresholds",
            )
        return None
    count = classifier.n_outputs
    if thresholds is None:
        thresholds = DEFAULT_THRESHOLD
    if isinstance(thresholds, float | int):
        thresholds = [thresholds] * count
    if len(thresholds) != count:
        raise InvalidInputError(
            f"expected one threshold, or one for each of {count} labels, got {len(thresholds)}",
            pointer="/thresholds",
        )
    for i, threshold in enumerate(thresholds):
        if not 0 <= threshold <= 1:
            raise InvalidInputError(
                f"expected thresholds from 0 to 1, got {threshold}", pointer=f"/thresholds/{i}"
            )
    return tuple(float(threshold) for threshold in thresholds)


def head_record(
    id_: str,
    space: str,
    head: HeadDefinition,
    version: str,
    source: Literal["weights", "classifier", "fit"],
    train: tuple[int, float] | None = None,
) -> Head:
    """The record of a head."""
    classifier = head.classifier
    return Head(
        id=id_,
        version=version,
        space=space,
        dim=classifier.width,
        labels=head.labels,
        layers=_LAYERS.validate_python(layer_fields(classifier)),
        problem_type=classifier.problem_type,
        thresholds=head.thresholds,
        temperature=None if classifier.temperature == 1 else classifier.temperature,
        source=source,
        train_rows=train[0] if train else None,
        train_accuracy=train[1] if train else None,
    )


def declared_fields(head: HeadDefinition) -> dict[str, Any]:
    """What a head is declared by besides its arrays, as JSON."""
    classifier = head.classifier
    return {
        "labels": head.labels,
        "layers": layer_fields(classifier),
        "problem_type": classifier.problem_type,
        "thresholds": head.thresholds,
        "temperature": classifier.temperature,
    }


def layer_fields(classifier: Classifier) -> list[dict[str, Any]]:
    """The layers of a classifier without their arrays, as their records have them."""
    fields: list[dict[str, Any]] = []
    for layer in classifier.layers:
        own: dict[str, Any] = {"kind": layer.kind}
        if layer.kind == "linear":
            own |= {"inputs": layer.inputs, "outputs": layer.outputs}
        fields.append(own | {name: layer.option(name) for name in LAYER_TYPES[layer.kind].options})
    return fields


def layer_arrays(classifier: Classifier) -> Arrays:
    """A classifier's arrays under the names of a torch Sequential: `0.weight`, `0.bias`, `2.…`."""
    return {
        f"{i}.{name}": np.asarray(array, np.float32)
        for i, layer in enumerate(classifier.layers)
        for name, array in layer.arrays.items()
    }


def classifier_of(arrays: Arrays, head: Head) -> Classifier:
    """The inverse of `layer_arrays`, for the head of the arrays."""
    layers = []
    for i, record in enumerate(head.layers):
        options = record.model_dump(exclude={*_SHAPE_FIELDS})
        layers.append(Layer(record.kind, _own_arrays(arrays, i), options))
    return Classifier(tuple(layers), head.problem_type, head.temperature or 1.0)


def _own_arrays(arrays: Mapping[str, Any], index: int) -> dict[str, Any]:
    prefix = f"{index}."
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
