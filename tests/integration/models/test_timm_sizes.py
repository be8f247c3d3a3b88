"""timm models whose inputs are not square: equal to timm."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf

from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.resources import ImageEncoder
from tests.integration.parity.cases import IMAGES
from tests.integration.parity.tower_cases import PICTURES

pytestmark = pytest.mark.models


@pytest.mark.parametrize("compile_models", [False, True])
@pytest.mark.parametrize(
    ("name", "size"), [("resnet10t", (64, 32)), ("test_vit", (96, 64)), ("test_vit", (64, 160))]
)
def test_rows_of_inputs_that_are_not_square_equal_those_of_timm(
    tmp_path: Path, name: str, size: tuple[int, int], compile_models: bool
) -> None:
    arguments: dict[str, Any] = {"img_size": size} if name == "test_vit" else {}
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=3, **arguments).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, *size)}
    save_for_hf(model, tmp_path, model_config={}, model_args=arguments, safe_serialization=True)
    described = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    transform: Any = create_transform(**resolve_data_config({}, pretrained_cfg=described))
    model.reset_classifier(0)
    with torch.inference_mode():
        expected = model(torch.stack([transform(picture) for picture in PICTURES]))
    encoders = EncoderCache("cpu", [tmp_path], offline=True, compile_models=compile_models)
    spec = encoders.pin(ImageEncoder(model=name, weights=str(tmp_path)))
    assert isinstance(spec, ImageEncoder)
    assert spec.input_size is None
    loaded = encoders.get(spec)
    rows = loaded.batcher.embed(loaded.encoder.prepare(IMAGES), 8)
    torch.testing.assert_close(rows, expected, rtol=1e-3, atol=1e-4)
