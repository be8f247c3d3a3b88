"""Models of timm: families, input sizes, channels and config.json folders."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import timm
import torch
from PIL import Image

from tests.integration.parity.cases import (
    IMAGES,
    Case,
    HeadReference,
    Reference,
    spread_logits,
)
from tests.support.timm_models import random_model, save

FAMILIES: Final = (
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_nfnet",
    "test_resnet",
    "test_vit",
    "ghostnet_100",
    "hgnetv2_b0",
    "lcnet_050",
    "mambaout_femto",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_050",
)

LABELS: Final = ["cat", "dog", "fish"]


def save_calibrated(
    name: str, folder: Path, data: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """Save a random model whose rows and logits differ by image.

    Args:
        name: The architecture.
        folder: The folder.
        data: Arguments of timm's transform that differ from the model's own.
        options: Arguments of timm's `create_model`.

    Returns:
        The model.
    """
    model = random_model(name, **options)
    pixels = transformed(timm.data.resolve_model_data_config(model) | (data or {}))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            # From now on its statistics are those of the last batch.
            layer.momentum = 1.0
    with torch.inference_mode():
        model.train()(pixels)
    spread_logits(model.eval().get_classifier(), lambda: model(pixels))
    save(model, folder)
    return model


def transformed(config: Mapping[str, Any]) -> torch.Tensor:
    """The images as timm's transform gives them."""
    transform = timm.data.create_transform(**config, is_training=False)
    mode = "RGB" if config["input_size"][0] == 3 else "L"
    images = [Image.open(BytesIO(file)).convert(mode) for file in IMAGES]
    return torch.stack([transform(image) for image in images])


def library_reference(
    model: Any,
    encoder: Mapping[str, Any],
    record: Mapping[str, Any] | None = None,
    *,
    classes: list[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Reference:
    """What timm computes for the images.

    Args:
        model: The model, with its classifier.
        encoder: Fields of the encoder.
        record: Fields that the record must have.
        classes: The labels of its classes; None for none.
        options: Arguments of timm's transform that differ from the model's own.
    """
    config = timm.data.resolve_model_data_config(model) | (options or {})
    pixels = transformed(config)
    with torch.inference_mode():
        probabilities = model(pixels).softmax(dim=1)
        model.reset_classifier(0)
        rows = model(pixels).numpy()
    head = None
    if classes is not None:
        labels = [classes[i] for i in probabilities.argmax(dim=1).tolist()]
        head = HeadReference(labels, probabilities.numpy(), classes)
    return Reference(rows, encoder, record=record or {}, head=head)


def family(name: str, folder: Path) -> Reference:
    """A model whose weights are all that timm saved, with five classes."""
    model = save_calibrated(name, folder, num_classes=5)
    config = timm.data.resolve_model_data_config(model)
    record = {
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "crop_pct": config["crop_pct"],
        "interpolation": config["interpolation"],
        "input_size": config["input_size"][1],
        "in_chans": 3,
    }
    return library_reference(model, {"model": name}, record, classes=list("01234"))


def described(folder: Path) -> Reference:
    """A folder whose config.json has its own preprocessing, pooling and names of classes."""
    own = {
        "mean": [0.2, 0.3, 0.4],
        "std": [0.5, 0.6, 0.7],
        "crop_pct": 0.5,
        "interpolation": "bilinear",
        "input_size": [3, 96, 96],
        "num_classes": 3,
        "label_names": LABELS,
    }
    model = save_calibrated("test_resnet", folder, num_classes=3, global_pool="max")
    content = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "global_pool": "max",
        "pretrained_cfg": own,
    }
    (folder / "config.json").write_text(json.dumps(content))
    options = {key: own[key] for key in ("mean", "std", "crop_pct", "interpolation", "input_size")}
    record = options | {"input_size": 96, "in_chans": 3}
    encoder = {"model": "test_resnet"}
    result = library_reference(model, encoder, record, classes=LABELS, options=options)
    return replace(result, label_names=LABELS)


def grey(folder: Path) -> Reference:
    """A model of one channel."""
    options = {"input_size": (1, 160, 160), "mean": (0.4,), "std": (0.3,)}
    model = save_calibrated("test_resnet", folder, options, in_chans=1)
    own = dict(model.pretrained_cfg) | options
    content = {
        "architecture": "test_resnet",
        "model_args": {"in_chans": 1},
        "pretrained_cfg": {
            key: own[key] for key in ("mean", "std", "input_size", "crop_pct", "interpolation")
        },
    }
    (folder / "config.json").write_text(json.dumps(content))
    record = {"in_chans": 1, "mean": [0.4], "std": [0.3]}
    return library_reference(model, {"model": "test_resnet"}, record, options=options)


def other_size(folder: Path) -> Reference:
    """Images of another side than the model's own."""
    model = save_calibrated("test_resnet", folder)
    options = {"input_size": (3, 64, 64)}
    encoder = {"model": "test_resnet", "input_size": 64}
    return library_reference(model, encoder, {"input_size": 64}, options=options)


CLASSIFIERS: Final = (
    *(Case(name.replace("_", "-"), partial(family, name), "timm") for name in FAMILIES),
    Case("timm-config-json", described, "timm"),
)
CASES: Final = (
    *CLASSIFIERS,
    Case("timm-grey", grey, "timm"),
    Case("timm-other-size", other_size, "timm"),
)
