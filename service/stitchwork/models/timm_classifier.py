"""Classifiers of pretrained timm models, as heads on their pooled features."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from timm.data import ImageNetInfo

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import SINGLE_LABEL
from stitchwork.geometry.head_layers import Layer
from stitchwork.models.affine_heads import NotAffineError, affine_head
from stitchwork.models.pretrained_head import PretrainedHead
from stitchwork.models.timm_config import data_config, read_config
from stitchwork.models.timm_features import (
    compute_features,
    remove_classifier,
    sample_pixels,
)
from stitchwork.models.timm_models import load_timm_model
from stitchwork.models.timm_weights import find_weights
from stitchwork.resources import ImageEncoder

IMAGENET_CLASSES: Final = 1000
SAMPLES: Final = 3
"""Inputs on which a classifier is compared with the whole model."""


def image_classifier(spec: ImageEncoder, weights: Path) -> PretrainedHead:
    """The classifier of a pretrained timm model, for its pooled features.

    Returns:
        A linear layer, float32 numpy, and its labels: those of the model's config.json, else the
        names of ImageNet's classes if it has as many, else the indices of the classes.

    Raises:
        InvalidInputError: If the model has no classifier, its logits are not an affine function
            of its features, or the spec's embeddings are not these features.
    """
    if spec.normalize:
        raise InvalidInputError(
            f"the classifier of {spec.model} expects an encoder with normalize false"
        )
    file = find_weights(weights)
    config = read_config(spec, file)
    model = load_timm_model(spec, file).eval()
    candidates = _candidates(spec, model)
    pixels = sample_pixels(SAMPLES, data_config(spec, config)["input_size"])
    with torch.inference_mode():
        logits = model(pixels)
    remove_classifier(spec, model)
    rows = compute_features(spec, model, pixels)
    errors = []
    for candidate in candidates:
        try:
            weight, bias = affine_head(candidate, rows, logits)
        except NotAffineError as error:
            errors.append(error)
        else:
            layer = Layer("linear", {"weight": weight, "bias": bias})
            return PretrainedHead(
                spec.model, (layer,), tuple(_labels(spec, config.labels, len(weight))), SINGLE_LABEL
            )
    raise InvalidInputError(f"the classifier of {spec.model} cannot be a head: {errors[0]}")


def _candidates(spec: ImageEncoder, model: Any) -> list[Any]:
    """What may be the classifier of a model: what timm calls it, then what holds it.

    Raises:
        InvalidInputError: If the model has none.
    """
    named = model.get_classifier() if hasattr(model, "get_classifier") else None
    last = getattr(named, "fc", named)
    if last is None or isinstance(last, torch.nn.Identity):
        raise InvalidInputError(
            f"{spec.model} has no classifier: its weights are those of an encoder"
        )
    # Some models name the last layer alone, or a head that pools what is pooled already.
    others = [getattr(named, "fc", None), getattr(model, "head", None)]
    return [named, *(other for other in others if isinstance(other, torch.nn.Module))]


def _labels(spec: ImageEncoder, names: Any, count: int) -> list[str]:
    """The labels of a config.json, else those of `_class_names`.

    Raises:
        InvalidInputError: If the config.json has labels for another number of classes.
    """
    if not names:
        return _class_names(count)
    if isinstance(names, Mapping):
        by_index = {int(index): str(name) for index, name in names.items()}
        labels = [by_index.pop(i, str(i)) for i in range(count)]
        extra = len(by_index)
    else:
        labels = [str(name) for name in names]
        extra = len(labels) - count
    if extra:
        raise InvalidInputError(
            f"the config.json of {spec.model} has {len(names)} label_names, its classifier "
            f"{count} classes"
        )
    return _unique(labels)


def _class_names(count: int) -> list[str]:
    if count != IMAGENET_CLASSES:
        return [str(i) for i in range(count)]
    info = ImageNetInfo()
    # Two classes are called crane and two maillot.
    return _unique([info.index_to_description(i) for i in range(count)])


def _unique(names: list[str]) -> list[str]:
    """Names, with their indices where several are equal."""
    duplicates = {name for name in names if names.count(name) > 1}
    return [f"{name} ({i})" if name in duplicates else name for i, name in enumerate(names)]
