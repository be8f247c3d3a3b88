"""Text and image towers of one space: equal to the features that their library computes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Transformer
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipTextModel,
    SiglipVisionModel,
)

from stitchwork.errors import StitchworkError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.resources import EncoderSpec, Floats, Item, TextEncoder, VisionEncoder
from tests.support.tower_models import (
    save_clip,
    save_siglip,
    save_siglip2,
    siglip2_tokenizer,
)

pytestmark = pytest.mark.models

TEXTS = ["A b", "a much Longer text, which is padded", "two words"]


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = [picture(64, 48), picture(50, 120), picture(90, 90)]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def embed_items(
    spec: EncoderSpec, items: list[Item], compile_models: bool = False
) -> tuple[EncoderSpec, Floats]:
    encoders = EncoderCache("cpu", [Path(spec.model)], offline=True, compile_models=compile_models)
    pinned = encoders.pin(spec)
    assert encoders.pin(pinned) == pinned
    loaded = encoders.get(pinned)
    rows = loaded.batcher.embed(loaded.encoder.prepare(items), 8).numpy()
    assert loaded.encoder.dim == rows.shape[1]
    return pinned, rows


def texts(folder: Path, **fields: Any) -> Floats:
    return embed_items(TextEncoder(model=str(folder), **fields), [*TEXTS])[1]


def images(folder: Path, compile_models: bool = False, **fields: Any) -> Floats:
    spec = VisionEncoder(model=str(folder), **fields)
    return embed_items(spec, [png(image) for image in PICTURES], compile_models)[1]


def refusal(spec: EncoderSpec) -> str:
    with pytest.raises(StitchworkError) as raised:
        embed_items(spec, [])
    return raised.value.message


def assert_equal(actual: Floats, expected: Any) -> None:
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def text_features(folder: Path, model: Any, **padding: Any) -> torch.Tensor:
    fields = AutoTokenizer.from_pretrained(folder)(
        TEXTS, return_tensors="pt", **{"padding": True, **padding}
    )
    features: torch.Tensor = model.get_text_features(**fields).pooler_output
    return features


@torch.no_grad()
def image_features(folder: Path, model: Any, **options: Any) -> torch.Tensor:
    fields = AutoImageProcessor.from_pretrained(folder)(
        images=PICTURES, return_tensors="pt", **options
    )
    features: torch.Tensor = model.get_image_features(**fields).pooler_output
    return features


def test_both_towers_of_clip_equal_their_library(tmp_path: Path) -> None:
    model = save_clip(tmp_path)
    assert_equal(texts(tmp_path), text_features(tmp_path, model))
    assert_equal(images(tmp_path), image_features(tmp_path, model))
    assert_equal(images(tmp_path, compile_models=True), image_features(tmp_path, model))
    spec, rows = embed_items(TextEncoder(model=str(tmp_path), normalize=True), [*TEXTS], True)
    assert isinstance(spec, TextEncoder)
    assert (spec.pooling, spec.max_length) == ("projection", 77)
    assert_equal(rows, torch.nn.functional.normalize(text_features(tmp_path, model), dim=1))


def test_the_image_processor_of_a_folder_is_followed(tmp_path: Path) -> None:
    options = {
        "size": {"shortest_edge": 36},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        "resample": 0,
        "rescale_factor": 1 / 127.5,
    }
    model = save_clip(tmp_path, **options)
    assert_equal(images(tmp_path), image_features(tmp_path, model))
    spec = EncoderCache("cpu", [tmp_path], offline=True).pin(VisionEncoder(model=str(tmp_path)))
    assert isinstance(spec, VisionEncoder)
    assert (spec.mean, spec.std, spec.input_size) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 32)


def test_what_the_request_says_of_the_preprocessing_is_in_force(tmp_path: Path) -> None:
    model = save_clip(tmp_path)
    mean, std = (0.3, 0.2, 0.1), (0.7, 0.6, 0.5)
    expected = image_features(tmp_path, model, image_mean=list(mean), image_std=list(std))
    assert_equal(images(tmp_path, mean=mean, std=std), expected)
    size = {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}}
    fields = AutoImageProcessor.from_pretrained(tmp_path)(
        images=PICTURES, return_tensors="pt", **size
    )
    with torch.no_grad():
        resized = model.get_image_features(**fields, interpolate_pos_encoding=True).pooler_output
    assert_equal(images(tmp_path, input_size=64), resized)


@pytest.mark.parametrize("compile_models", [False, True])
def test_both_towers_of_siglip_equal_their_library(tmp_path: Path, compile_models: bool) -> None:
    model = save_siglip(tmp_path)
    expected = text_features(tmp_path, model, padding="max_length")
    shorter = text_features(tmp_path, model)
    assert not np.allclose(shorter, expected, atol=1e-2)
    rows = embed_items(TextEncoder(model=str(tmp_path)), [*TEXTS], compile_models)[1]
    assert_equal(rows, expected)
    assert_equal(images(tmp_path, compile_models), image_features(tmp_path, model))


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_both_towers_of_siglip2_equal_their_library(tmp_path: Path, padding_side: str) -> None:
    model = save_siglip2(tmp_path, siglip2_tokenizer(padding_side))
    expected = text_features(tmp_path, model, padding="max_length", max_length=80)
    assert_equal(texts(tmp_path), expected)
    assert_equal(images(tmp_path), image_features(tmp_path, model))
    message = refusal(VisionEncoder(model=str(tmp_path), input_size=64))
    assert "has no square input of one size" in message


def test_towers_that_were_saved_alone_equal_their_library(tmp_path: Path) -> None:
    save_clip(tmp_path / "clip")
    processor = AutoProcessor.from_pretrained(tmp_path / "clip")
    text = CLIPTextModelWithProjection.from_pretrained(tmp_path / "clip").eval()
    image = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "clip").eval()
    for name, model in (("text", text), ("image", image)):
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    with torch.no_grad():
        fields = processor(text=TEXTS, padding=True, return_tensors="pt")
        assert_equal(texts(tmp_path / "text"), text(**fields).text_embeds)
        fields = processor(images=PICTURES, return_tensors="pt")
        assert_equal(images(tmp_path / "image"), image(**fields).image_embeds)


def test_towers_without_a_projection_are_named_or_have_their_pooler(tmp_path: Path) -> None:
    model = save_clip(tmp_path / "clip")
    processor = AutoProcessor.from_pretrained(tmp_path / "clip")
    CLIPTextModel.from_pretrained(tmp_path / "clip").save_pretrained(tmp_path / "text")
    CLIPVisionModel.from_pretrained(tmp_path / "clip").save_pretrained(tmp_path / "image")
    for name in ("text", "image"):
        processor.save_pretrained(tmp_path / name)
    message = refusal(TextEncoder(model=str(tmp_path / "text")))
    assert "save CLIPTextModelWithProjection or the model with both towers" in message
    assert texts(tmp_path / "text", pooling="last").shape == (3, 32)
    with torch.no_grad():
        fields = processor(images=PICTURES, return_tensors="pt")
        expected = model.vision_model(**fields).pooler_output
    assert_equal(images(tmp_path / "image"), expected)
    assert_equal(images(tmp_path / "clip", pooling="pooler"), expected)


def test_towers_of_siglip_that_were_saved_alone_equal_their_library(tmp_path: Path) -> None:
    model = save_siglip(tmp_path / "siglip")
    SiglipTextModel.from_pretrained(tmp_path / "siglip").save_pretrained(tmp_path / "text")
    AutoTokenizer.from_pretrained(tmp_path / "siglip").save_pretrained(tmp_path / "text")
    SiglipVisionModel.from_pretrained(tmp_path / "siglip").save_pretrained(tmp_path / "image")
    AutoImageProcessor.from_pretrained(tmp_path / "siglip").save_pretrained(tmp_path / "image")
    expected = text_features(tmp_path / "siglip", model, padding="max_length")
    assert_equal(texts(tmp_path / "text"), expected)
    assert_equal(images(tmp_path / "image"), image_features(tmp_path / "siglip", model))


def test_a_folder_of_sentence_transformers_with_two_towers_equals_its_library(
    tmp_path: Path,
) -> None:
    save_clip(tmp_path / "clip")
    modules = [Transformer(str(tmp_path / "clip")), Dense(24, 8), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu").eval()
    model.save(str(tmp_path / "st"))
    assert_equal(texts(tmp_path / "st"), model.encode(TEXTS))
    assert_equal(images(tmp_path / "st"), model.encode(PICTURES))


def test_the_module_of_clip_in_older_folders_is_read(tmp_path: Path) -> None:
    save_clip(tmp_path / "0_CLIPModel")
    (tmp_path / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "0_CLIPModel", '
        '"type": "sentence_transformers.models.CLIPModel"}]'
    )
    model = SentenceTransformer(str(tmp_path), device="cpu").eval()
    assert_equal(texts(tmp_path), model.encode(TEXTS))
    assert_equal(images(tmp_path), model.encode(PICTURES))


def test_what_a_tower_cannot_have_is_refused(tmp_path: Path) -> None:
    save_clip(tmp_path)
    model = str(tmp_path)
    assert "layer: expected -1" in refusal(TextEncoder(model=model, layer=1))
    vision = VisionEncoder(model=model)
    assert "has no classifier of images" in refusal(
        vision.model_copy(update={"pooling": "classifier"})
    )
    assert "mean: expected 1 or 3 numbers" in refusal(
        vision.model_copy(update={"mean": (0.5, 1.0)})
    )
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").unlink()
    assert "no image processor" in refusal(vision)
