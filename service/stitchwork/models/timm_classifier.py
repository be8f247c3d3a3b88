"""Classifiers of pretrained timm models, as heads on their pooled features."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from timm.data import ImageNetInfo

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import Classifier
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
TOLERANCE: Final = 1e-3
"""Largest difference of a logit, as a share of the largest logit."""


def image_classifier(spec: ImageEncoder, weights: Path) -> tuple[Classifier, list[str]]:
    """The classifier of a pretrained timm model, for its pooled features.

    Returns:
        A linear classifier, float32 numpy, and its labels: those of the model's config.json, else
        the names of ImageNet's classes if it has as many, else the indices of the classes.

    Raises:
        InvalidInputError: If the model has no linear classifier, or its logits are not those of
            the classifier on its features.
    """
    file = find_weights(weights)
    config = read_config(spec, file)
    model = load_timm_model(spec, file).eval()
    layer = model.get_classifier() if hasattr(model, "get_classifier") else None
    weight, bias = _linear_layer(spec, layer)
    pixels = sample_pixels(SAMPLES, data_config(spec, config)["input_size"])
    with torch.inference_mode():
        logits = model(pixels)
    remove_classifier(spec, model)
    rows = compute_features(spec, model, pixels)
    if weight.shape[1] != rows.shape[1]:
        raise InvalidInputError(
            f"the classifier of {spec.model} takes {weight.shape[1]} features, its encoder has "
            f"{rows.shape[1]}"
        )
    _check_equal(spec, rows @ weight.T + bias, logits)
    return Classifier(((weight.numpy(), bias.numpy()),), "identity"), _labels(
        spec, config.labels, len(weight)
    )


def _linear_layer(spec: ImageEncoder, layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight (c, d) and bias (c,) of a linear layer, or of a convolution of one pixel.

    Raises:
        InvalidInputError: If it is neither.
    """
    if isinstance(layer, torch.nn.Linear):
        weight = layer.weight
    elif isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        weight = layer.weight.flatten(1)
    else:
        raise InvalidInputError(
            f"the classifier of {spec.model} is not one linear layer, got {type(layer).__name__}"
        )
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias
    return weight.detach().float(), bias.detach().float()


def _check_equal(spec: ImageEncoder, computed: torch.Tensor, logits: torch.Tensor) -> None:
    """Refuse a classifier that is only a part of the model's own.

    Raises:
        InvalidInputError: If the logits differ.
    """
    if computed.shape != logits.shape:
        raise InvalidInputError(
            f"{spec.model} has logits of shape {tuple(logits.shape)}, its linear layer "
            f"{tuple(computed.shape)}: it does more than the layer, and cannot be a head"
        )
    difference, scale = float((computed - logits).abs().max()), float(logits.abs().max())
    if not difference <= TOLERANCE * scale:
        raise InvalidInputError(
            f"the linear layer of {spec.model} gives logits that differ from the model's by up to "
            f"{difference:.3g} of {scale:.3g}: its classifier is more than the layer, and cannot "
            "be a head"
        )


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
