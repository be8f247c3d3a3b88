"""Image encoders of many architectures against timm, with random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet

from stitchwork.errors import InvalidInputError
from stitchwork.models.timm_classifier import image_classifier
from stitchwork.models.timm_encoder import TimmEncoder
from stitchwork.models.timm_features import announced_width
from stitchwork.resources import ImageEncoder
from tests.support.images import file, picture
from tests.support.timm_models import save_random

CPU = torch.device("cpu")
CAPPED, WIDE = "capped_resnet", "wide_resnet"
LINEAR = [
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
    "repghostnet_050",
]
COMPOSED = ["levit_128s", "crossvit_tiny_240", "cpubone_nano", "efficientvim_m1_dist", "shvit_s1"]
"""Classifiers of several modules, which together are one linear layer on the features."""
PARTIAL = ["deit_tiny_distilled_patch16_224"]
"""Two classifiers of two tokens, whose mean the features are."""
WIDER = ["ghostnet_100", "hgnetv2_b0", "mambaout_femto", "mobilenetv3_small_050"]
"""Their heads keep a hidden layer: `num_features` is not the width of their rows."""


class CappedResNet(ResNet):  # type: ignore[misc]
    """A ResNet that caps its logits after the linear layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = super().forward(x)
        return rows if self.num_classes == 0 else rows.tanh() * 0.01


class WideResNet(ResNet):  # type: ignore[misc]
    """A ResNet with more features than it announces."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = super().forward(x)
        return torch.cat([rows, rows], dim=1)


def _small(kind: type[ResNet], **options: Any) -> ResNet:
    del options["pretrained"], options["pretrained_cfg"], options["pretrained_cfg_overlay"]
    options.pop("cache_dir", None)
    model = kind(BasicBlock, (1, 1, 1, 1), stem_width=16, channels=(32, 48, 48, 96), **options)
    model.pretrained_cfg = {"input_size": (3, 64, 64), "fixed_input_size": False}
    return model


@register_model  # type: ignore[untyped-decorator]
def capped_resnet(**options: Any) -> ResNet:
    """The function by which timm creates the model."""
    return _small(CappedResNet, **options)


@register_model  # type: ignore[untyped-decorator]
def wide_resnet(**options: Any) -> ResNet:
    """The function by which timm creates the model."""
    return _small(WideResNet, **options)


@pytest.mark.parametrize("name", LINEAR + COMPOSED[:1] + PARTIAL)
def test_rows_equal_those_of_timm_without_classes(name: str, tmp_path: Path) -> None:
    model = save_random(name, tmp_path)
    spec = ImageEncoder(model=name, weights=str(tmp_path))
    encoder = TimmEncoder(spec, CPU, tmp_path, compile_models=False)
    images = [picture(64, 48), picture(50, 120)]
    with torch.inference_mode():
        rows = encoder.forward(encoder.prepare([file(image) for image in images]).inputs)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    model.reset_classifier(0)
    with torch.inference_mode():
        expected = model(torch.stack([transform(image) for image in images]))
    assert rows.shape == expected.shape == (2, encoder.dim)
    assert float(torch.nn.functional.cosine_similarity(rows, expected).min()) > 0.9999
    assert (encoder.dim != model.num_features) == (announced_width(model) != model.num_features)
    if name in WIDER:
        assert encoder.dim != model.num_features


@pytest.mark.parametrize("name", LINEAR + COMPOSED)
def test_the_logits_of_a_linear_classifier_are_those_of_the_whole_model(
    name: str, tmp_path: Path
) -> None:
    model = save_random(name, tmp_path, num_classes=5)
    spec = ImageEncoder(model=name, weights=str(tmp_path))
    encoder = TimmEncoder(spec, CPU, tmp_path, compile_models=False)
    inputs = encoder.prepare([file(picture(64, 48)), file(picture(50, 120))]).inputs
    with torch.inference_mode():
        logits = model(torch.stack(list(inputs)))
        head = image_classifier(spec, tmp_path).define({})
        computed = head.classifier.logits(encoder.forward(inputs).numpy())
    scale = float(logits.abs().max())
    torch.testing.assert_close(torch.from_numpy(computed), logits, rtol=0, atol=1e-3 * scale)
    assert head.labels == tuple("01234")


@pytest.mark.parametrize("name", PARTIAL)
def test_a_classifier_of_two_tokens_is_refused_by_name(name: str, tmp_path: Path) -> None:
    save_random(name, tmp_path)
    with pytest.raises(
        InvalidInputError,
        match=f"classifier of {name} cannot be a head: Linear and Linear .* differ",
    ):
        image_classifier(ImageEncoder(model=name, weights=str(tmp_path)), tmp_path)


def test_a_classifier_that_is_more_than_its_layer_is_refused_with_the_difference(
    tmp_path: Path,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(CAPPED)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    spec = ImageEncoder(model=CAPPED, weights=str(tmp_path))
    with pytest.raises(
        InvalidInputError, match=r"differ from the model's by up to [\d.]+ of [\d.]+"
    ):
        image_classifier(spec, tmp_path)


def test_features_of_another_width_than_announced_are_refused_with_both_numbers(
    tmp_path: Path,
) -> None:
    save_file(timm.create_model(WIDE).state_dict(), tmp_path / "model.safetensors")
    spec = ImageEncoder(model=WIDE, weights=str(tmp_path))
    with pytest.raises(InvalidInputError, match=r"announces 96 features .* forward pass has 192"):
        TimmEncoder(spec, CPU, tmp_path, compile_models=False)


def test_a_model_that_does_not_pool_is_refused_with_its_shape(tmp_path: Path) -> None:
    save_random("test_resnet", tmp_path)
    config = {"architecture": "test_resnet", "model_args": {"global_pool": ""}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {}}))
    spec = ImageEncoder(model="test_resnet", weights=str(tmp_path))
    with pytest.raises(InvalidInputError, match=r"got \(2, 96, 7, 7\): it does not pool"):
        TimmEncoder(spec, CPU, tmp_path, compile_models=False)
