"""Weights of timm models: prefixes, folders with a config.json, other sides and channels."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from stitchwork.errors import InvalidInputError, UnsupportedFormatError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.timm_classifier import image_classifier
from stitchwork.models.timm_config import resolve_preprocessing
from stitchwork.models.timm_encoder import TimmEncoder
from stitchwork.models.timm_models import load_timm_model
from stitchwork.resources import ImageEncoder
from tests.support.images import file, picture
from tests.support.timm_models import random_model, save_random

CPU = torch.device("cpu")
NAME = "test_resnet"
WEIGHTS = "model.safetensors"


def spec_of(folder: Path, name: str = NAME, **options: Any) -> ImageEncoder:
    return ImageEncoder(model=name, weights=str(folder), **options)


def rows_of(spec: ImageEncoder, folder: Path) -> torch.Tensor:
    """Embeddings of two images."""
    encoder = TimmEncoder(spec, CPU, folder, compile_models=False)
    items = [file(picture(64, 48)), file(picture(50, 120))]
    with torch.inference_mode():
        return encoder.forward(encoder.prepare(items).inputs)


def timm_rows(model: Any, **data: Any) -> torch.Tensor:
    """What timm computes for the same images."""
    config = timm.data.resolve_model_data_config(model) | data
    transform = timm.data.create_transform(**config, is_training=False)
    mode = "RGB" if config["input_size"][0] == 3 else "L"
    images = [picture(64, 48), picture(50, 120)]
    model.reset_classifier(0)
    with torch.inference_mode():
        rows: torch.Tensor = model.eval()(
            torch.stack([transform(image.convert(mode)) for image in images])
        )
    return rows


def rename(folder: Path, prefix: str, **more: torch.Tensor) -> None:
    state = load_file(folder / WEIGHTS)
    save_file(
        {**{prefix + name: tensor for name, tensor in state.items()}, **more}, folder / WEIGHTS
    )


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "state_dict_ema.", "model_ema.", "module._orig_mod."],
)
def test_a_prefix_of_all_names_is_stripped(prefix: str, tmp_path: Path) -> None:
    model = save_random(NAME, tmp_path)
    rename(tmp_path, prefix)
    loaded = load_timm_model(spec_of(tmp_path), tmp_path)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_counter_of_averaged_weights_is_ignored(tmp_path: Path) -> None:
    save_random(NAME, tmp_path)
    rename(tmp_path, "module.", n_averaged=torch.tensor(3))
    load_timm_model(spec_of(tmp_path), tmp_path)


def test_two_sets_of_weights_in_a_file_are_refused_with_their_prefixes(tmp_path: Path) -> None:
    save_random(NAME, tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    rename(tmp_path, "model.", **{f"model_ema.{name}": tensor for name, tensor in state.items()})
    with pytest.raises(InvalidInputError, match=r"names begin with model\. and model_ema\."):
        load_timm_model(spec_of(tmp_path), tmp_path)


def test_missing_and_unexpected_weights_are_refused_and_all_named(tmp_path: Path) -> None:
    save_random(NAME, tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    del state["conv1.0.weight"], state["fc.bias"]
    save_file({**state, "extra": torch.ones(1)}, tmp_path / WEIGHTS)
    message = r"2 missing \(conv1\.0\.weight, fc\.bias\); 1 unexpected \(extra\)"
    with pytest.raises(InvalidInputError, match=message):
        load_timm_model(spec_of(tmp_path), tmp_path)
    save_file({"extra": torch.ones(1)}, tmp_path / WEIGHTS)
    with pytest.raises(InvalidInputError, match=r"\d+ missing \(([^,]+, ){7}[^,]+ and \d+ more\)"):
        load_timm_model(spec_of(tmp_path), tmp_path)


def save_with_config(folder: Path, name: str = NAME, **options: Any) -> Any:
    """Save a random model as timm saves it for the hub."""
    config = options.pop("model_config", None)
    data = options.pop("data_config", None)
    model = random_model(name, **options)
    save_for_hf(
        model,
        str(folder),
        model_config=config,
        model_args=options or None,
        data_config=data,
        safe_serialization=True,
    )
    return model


def test_the_config_of_a_folder_is_followed(tmp_path: Path) -> None:
    data = {
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "input_size": (3, 96, 96),
        "crop_pct": 0.8,
        "interpolation": "nearest",
    }
    names = ["ant", "bee", "cat", "bee"]
    model = save_with_config(
        tmp_path, num_classes=4, data_config=data, model_config={"label_names": names}
    )
    for weights in (tmp_path, tmp_path / WEIGHTS):
        spec = spec_of(weights)
        expected = timm_rows(timm.create_model(f"local-dir:{tmp_path}", pretrained=True))
        torch.testing.assert_close(rows_of(spec, weights), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(timm_rows(model, **data), expected, rtol=1e-4, atol=1e-5)
        assert image_classifier(spec, weights).labels == ("ant", "bee (1)", "cat", "bee (3)")
        resolved = resolve_preprocessing(spec, weights).model_dump()
        assert resolved == resolved | {**data, "input_size": 96, "in_chans": 3}


def test_the_request_wins_over_the_config_of_a_folder(tmp_path: Path) -> None:
    data: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.8, "interpolation": "nearest"}
    model = save_with_config(tmp_path, num_classes=4, data_config=data)
    request: dict[str, Any] = {
        "mean": (0.5,),
        "std": (0.2, 0.3, 0.4),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }
    spec = spec_of(tmp_path, input_size=64, **request)
    expected = timm_rows(model, **{**request, "mean": (0.5, 0.5, 0.5), "input_size": (3, 64, 64)})
    torch.testing.assert_close(rows_of(spec, tmp_path), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        (NAME, "max"),
        (NAME, "avgmax"),
        (NAME, "catavgmax"),
        ("test_byobnet", "catavgmax"),
        ("test_vit", "avg"),
        ("test_vit", "token"),
        ("test_vit", "map"),
    ],
)
def test_the_pooling_of_a_config_is_followed(name: str, pool: str, tmp_path: Path) -> None:
    model = save_with_config(tmp_path, name, num_classes=4, global_pool=pool)
    spec = spec_of(tmp_path, name)
    rows = rows_of(spec, tmp_path)
    torch.testing.assert_close(rows, timm_rows(model), rtol=1e-4, atol=1e-5)
    # An older timm wrote the name of the pooling, but not the arguments of the model.
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model_args"]["global_pool"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(rows_of(spec, tmp_path), rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"architecture": "resnet18"}, "describes resnet18, expected test_resnet"),
        ({"architecture": NAME, "pretrained_cfg": {"nonsense": 1}}, "nonsense"),
        ({"architecture": NAME, "model_args": {"nonsense": 1}, "pretrained_cfg": {}}, "nonsense"),
        ({"architecture": NAME, "num_classes": 7, "pretrained_cfg": {}}, "fc.weight of shape"),
        ({"architecture": NAME, "label_names": ["a"], "pretrained_cfg": {}}, "1 label_names"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused(
    content: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_random(NAME, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInputError, match=message):
        image_classifier(spec_of(tmp_path), tmp_path)


def test_a_folder_without_one_safetensors_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"model\.safetensors or one .* got 0"):
        load_timm_model(spec_of(tmp_path), tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UnsupportedFormatError, match=r"got pytorch_model\.bin; pickles"):
        load_timm_model(spec_of(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("test_vit", 96),
        ("vit_tiny_patch16_dinov3_qkvb", 128),
        ("swin_tiny_patch4_window7_224", 256),
    ],
)
def test_another_side_resamples_the_positions_as_timm_does(
    name: str, side: int, tmp_path: Path
) -> None:
    model = save_random(name, tmp_path)
    rows = rows_of(spec_of(tmp_path, name, input_size=side), tmp_path)
    overlay = {"state_dict": model.state_dict()}
    fixed = model.pretrained_cfg.get("fixed_input_size")
    expected = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=side if fixed else None
    )
    torch.testing.assert_close(
        rows, timm_rows(expected, input_size=(3, side, side)), rtol=1e-3, atol=1e-4
    )


def test_a_side_that_the_architecture_does_not_take_is_refused(tmp_path: Path) -> None:
    save_random("test_vit", tmp_path)
    with pytest.raises(InvalidInputError, match=r"test_vit .*17"):
        rows_of(spec_of(tmp_path, "test_vit", input_size=17), tmp_path)


def test_grey_images_go_through_the_sum_of_the_colours_weights(tmp_path: Path) -> None:
    model = save_random(NAME, tmp_path)
    spec = spec_of(tmp_path, in_chans=1)
    overlay = {"state_dict": model.state_dict()}
    expected = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1)
    size = (1, *model.pretrained_cfg["input_size"][1:])
    grey = timm_rows(expected, input_size=size, mean=(0.5,), std=(0.5,))
    torch.testing.assert_close(rows_of(spec, tmp_path), grey, rtol=1e-4, atol=1e-5)
    save_random(NAME, tmp_path, in_chans=1)
    assert rows_of(spec, tmp_path).shape == (2, 96)
    with pytest.raises(InvalidInputError, match=r"conv1\.0\.weight of shape"):
        rows_of(spec_of(tmp_path), tmp_path)


def test_a_mean_that_does_not_fit_the_channels_is_refused(tmp_path: Path) -> None:
    save_random(NAME, tmp_path)
    with pytest.raises(InvalidInputError, match="mean of test_resnet as 1 or 3 numbers, got 2"):
        rows_of(spec_of(tmp_path, mean=(0.1, 0.2)), tmp_path)


def test_a_pinned_spec_has_the_preprocessing_in_force(tmp_path: Path) -> None:
    save_random(NAME, tmp_path)
    encoders = EncoderCache("cpu", [tmp_path], offline=True, compile_models=False)
    pinned = encoders.pin(spec_of(tmp_path, crop_pct=0.5))
    assert pinned.model_dump() == {
        **spec_of(tmp_path).model_dump(),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "input_size": 160,
        "crop_pct": 0.5,
        "interpolation": "bilinear",
        "in_chans": 3,
    }
    assert encoders.pin(pinned) == pinned
    assert encoders.get(pinned).encoder.dim == 96
