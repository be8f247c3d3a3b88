"""Records of heads, and their classifiers as the arrays that are stored beside them."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import Activation, Classifier
from stitchwork.resources import Arrays, Head


def head_record(
    id_: str,
    space: str,
    classifier: Classifier,
    labels: Sequence[str],
    version: str,
    source: Literal["weights", "classifier", "fit"],
    train: tuple[int, float] | None = None,
) -> Head:
    """The record of a head.

    Raises:
        InvalidInputError: If there is not one label for each class, or two are equal.
    """
    if len(labels) != classifier.n_classes:
        raise InvalidInputError(
            f"the head scores {classifier.n_classes} classes, got {len(labels)} labels",
            pointer="/labels",
        )
    if classifier.n_classes < 2:
        raise InvalidInputError(
            "expected at least two classes, got one, whose probability would always be 1"
        )
    if len(set(labels)) < len(labels):
        duplicate = next(label for label, count in Counter(labels).items() if count > 1)
        raise InvalidInputError(
            f"expected distinct labels, got {duplicate[:80]!r} twice", pointer="/labels"
        )
    widths = [weight.shape[0] for weight, _ in classifier.layers]
    return Head(
        id=id_,
        version=version,
        space=space,
        dim=classifier.width,
        labels=tuple(labels),
        layers=(classifier.width, *widths),
        activation=classifier.activation if len(widths) > 1 else "identity",
        source=source,
        train_rows=train[0] if train else None,
        train_accuracy=train[1] if train else None,
    )


def layer_arrays(classifier: Classifier) -> Arrays:
    """A classifier's layers under the names of a torch Sequential: `0.weight`, `0.bias`, `2.…`."""
    arrays: Arrays = {}
    for i, (weight, bias) in enumerate(classifier.layers):
        arrays[f"{2 * i}.weight"] = np.asarray(weight, np.float32)
        arrays[f"{2 * i}.bias"] = np.asarray(bias, np.float32)
    return arrays


def classifier_of(arrays: Arrays, activation: Activation) -> Classifier:
    """The inverse of `layer_arrays`."""
    return Classifier(
        tuple(
            (arrays[f"{2 * i}.weight"], arrays[f"{2 * i}.bias"]) for i in range(len(arrays) // 2)
        ),
        activation,
    )
