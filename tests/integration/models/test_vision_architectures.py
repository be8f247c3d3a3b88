"""Image models of transformers: their embeddings and classifiers equal their own library."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoImageProcessor, BitImageProcessor, ViTImageProcessor

from stitchwork.errors import StitchworkError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.resources import Floats, TextEncoder, VisionEncoder
from tests.support.tower_models import IMAGE_SIDE, SMALL, VISION, randomize

pytestmark = pytest.mark.models


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = [picture(64, 48), picture(50, 120), picture(90, 90)]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def embed(folder: Path, *, compile_models: bool = False, **fields: Any) -> Floats:
    encoders = EncoderCache("cpu", [folder], offline=True, compile_models=compile_models)
    spec = encoders.pin(VisionEncoder(model=str(folder), **fields))
    assert encoders.pin(spec) == spec
    loaded = encoders.get(spec)
    rows = loaded.batcher.embed(loaded.encoder.prepare([png(p) for p in PICTURES]), 8).numpy()
    assert loaded.encoder.dim == rows.shape[1]
    return rows


def pooling(folder: Path) -> Any:
    spec = EncoderCache("cpu", [folder], offline=True).pin(VisionEncoder(model=str(folder)))
    assert isinstance(spec, VisionEncoder)
    return spec.pooling


def refusal(folder: Path, **fields: Any) -> str:
    with pytest.raises(StitchworkError) as raised:
        embed(folder, **fields)
    return raised.value.message


def assert_equal(actual: Floats, expected: Any) -> None:
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=1e-4, atol=1e-4)


def build(name: str, **fields: Any) -> Any:
    """A model of transformers with random weights."""
    model_class = getattr(transformers, name)
    return randomize(model_class(model_class.config_class(**fields)))


def save(folder: Path, model: Any, processor: Any = None) -> Any:
    """Write a model and an image processor."""
    model.save_pretrained(folder)
    processor = processor or ViTImageProcessor(size={"height": IMAGE_SIDE, "width": IMAGE_SIDE})
    processor.save_pretrained(folder)
    return model


@torch.no_grad()
def outputs(folder: Path, model: Any, **options: Any) -> Any:
    """What a model gives for each picture alone."""
    processor = AutoImageProcessor.from_pretrained(folder)
    return [model(**processor(images=p, return_tensors="pt"), **options) for p in PICTURES]


CONVOLUTIONS = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
SWIN = {
    "image_size": IMAGE_SIDE,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
REGISTERS = {**VISION, "num_register_tokens": 2}
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "fox"}, "label2id": {"cat": 0, "dog": 1, "fox": 2}}

POOLED: list[tuple[str, dict[str, Any], str]] = [
    ("ViTModel", VISION, "pooler"),
    ("Dinov2Model", VISION, "pooler"),
    ("Dinov2WithRegistersModel", REGISTERS, "pooler"),
    ("DINOv3ViTModel", REGISTERS, "pooler"),
    ("DINOv3ConvNextModel", CONVOLUTIONS, "pooler"),
    ("SwinModel", SWIN, "pooler"),
    ("Swinv2Model", SWIN, "pooler"),
    ("ConvNextModel", CONVOLUTIONS, "pooler"),
    ("ResNetModel", {**CONVOLUTIONS, "embedding_size": 8}, "pooler"),
    ("BeitModel", VISION, "pooler"),
    ("DeiTModel", VISION, "pooler"),
]


@pytest.mark.parametrize(("name", "fields", "mode"), POOLED, ids=[case[0] for case in POOLED])
def test_pooled_outputs_of_images_equal_the_library(
    tmp_path: Path, name: str, fields: dict[str, Any], mode: str
) -> None:
    model = save(tmp_path, build(name, **fields))
    results = outputs(tmp_path, model)
    expected = torch.cat([result.pooler_output.flatten(1) for result in results])
    assert pooling(tmp_path) == mode
    assert_equal(embed(tmp_path), expected)
    assert_equal(embed(tmp_path, compile_models=True), expected)
    hidden = torch.cat([result.last_hidden_state for result in results])
    tokens = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
    assert_equal(embed(tmp_path, pooling="mean"), tokens.mean(dim=1))
    both = torch.cat([tokens[:, 0], tokens.amax(dim=1)], dim=1)
    assert_equal(embed(tmp_path, pooling=("cls", "max")), both)


CLASSIFIERS: list[tuple[str, dict[str, Any]]] = [
    ("ViTForImageClassification", VISION),
    ("Dinov2ForImageClassification", VISION),
    ("Dinov2WithRegistersForImageClassification", REGISTERS),
    ("SwinForImageClassification", SWIN),
    ("ConvNextForImageClassification", CONVOLUTIONS),
    ("ResNetForImageClassification", {**CONVOLUTIONS, "embedding_size": 8}),
    ("BeitForImageClassification", VISION),
    ("DeiTForImageClassificationWithTeacher", VISION),
]


@pytest.mark.parametrize(("name", "fields"), CLASSIFIERS, ids=[case[0] for case in CLASSIFIERS])
def test_classifiers_of_images_equal_the_library(
    tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    model = save(tmp_path, build(name, **fields, **LABELS))
    expected = torch.cat([result.logits for result in outputs(tmp_path, model)])
    encoders = EncoderCache("cpu", [tmp_path], offline=True, compile_models=False)
    head = encoders.classifier(VisionEncoder(model=str(tmp_path))).head.define({})
    assert head.labels == ("cat", "dog", "fox")
    assert pooling(tmp_path) == "classifier"
    assert_equal(head.classifier.logits(embed(tmp_path)), expected)


def test_a_model_whose_pooler_was_not_saved_has_its_class_token(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**VISION)
    model = save(tmp_path, randomize(transformers.ViTModel(config, add_pooling_layer=False)))
    expected = [result.last_hidden_state[:, 0] for result in outputs(tmp_path, model)]
    assert pooling(tmp_path) == "cls"
    assert_equal(embed(tmp_path), torch.cat(expected))
    assert "missing: pooler.dense" in refusal(tmp_path, pooling="pooler")


def test_the_hidden_states_of_a_classifier_can_be_pooled(tmp_path: Path) -> None:
    model = save(tmp_path, build("ViTForImageClassification", **VISION))
    expected = [r.last_hidden_state.mean(dim=1) for r in outputs(tmp_path, model.vit)]
    assert_equal(embed(tmp_path, pooling="mean"), torch.cat(expected))
    message = "expects an encoder with pooling classifier"
    with pytest.raises(StitchworkError, match=message):
        EncoderCache("cpu", [tmp_path], offline=True).classifier(
            VisionEncoder(model=str(tmp_path), pooling="cls")
        )


@pytest.mark.parametrize("name", ["ViTModel", "Dinov2Model", "SwinModel", "ResNetModel"])
def test_images_of_another_side_equal_the_library(tmp_path: Path, name: str) -> None:
    fields = {case[0]: case[1] for case in POOLED}[name]
    save(tmp_path, build(name, **fields))
    model = getattr(transformers, name).from_pretrained(tmp_path).eval()
    processor = ViTImageProcessor(size={"height": 64, "width": 64})
    options = {"interpolate_pos_encoding": True} if name in ("ViTModel", "SwinModel") else {}
    with torch.no_grad():
        pooled = [
            model(**processor(images=p, return_tensors="pt"), **options).pooler_output.flatten(1)
            for p in PICTURES
        ]
    assert_equal(embed(tmp_path, input_size=64), torch.cat(pooled))


@pytest.mark.parametrize("mode", ["mean", "cls", ("cls", "max")])
def test_a_folder_of_sentence_transformers_for_images_equals_its_library(
    tmp_path: Path, mode: Any
) -> None:
    save(tmp_path / "vit", build("ViTModel", **VISION))
    modules = [Transformer(str(tmp_path / "vit")), Pooling(32, mode), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu", truncate_dim=24).eval()
    model.save(str(tmp_path / "st"))
    expected = model.encode(PICTURES, normalize_embeddings=True)
    assert_equal(embed(tmp_path / "st"), expected)


def test_an_image_processor_that_crops_is_followed(tmp_path: Path) -> None:
    processor = BitImageProcessor(
        size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}, do_normalize=False
    )
    model = save(tmp_path, build("Dinov2Model", **VISION), processor)
    expected = torch.cat([result.pooler_output for result in outputs(tmp_path, model)])
    assert_equal(embed(tmp_path), expected)
    spec = EncoderCache("cpu", [tmp_path], offline=True).pin(VisionEncoder(model=str(tmp_path)))
    assert isinstance(spec, VisionEncoder)
    assert (spec.mean, spec.std) == ((0.0,) * 3, (1.0,) * 3)
    assert_equal(embed(tmp_path, mean=(0.0,), std=(1.0,)), expected)


def test_an_image_processor_that_gives_several_sizes_is_refused(tmp_path: Path) -> None:
    processor = BitImageProcessor(size={"shortest_edge": 48}, do_center_crop=False)
    save(tmp_path, build("Dinov2Model", **VISION), processor)
    assert "its image processor gives images of several sizes" in refusal(tmp_path)


def test_a_model_of_timm_inside_of_transformers_is_refused_with_its_cause(tmp_path: Path) -> None:
    config = transformers.TimmWrapperConfig(architecture="resnet10t")
    transformers.TimmWrapperModel(config).save_pretrained(tmp_path)
    assert "use an encoder of kind timm" in refusal(tmp_path)


def test_what_is_no_model_of_images_is_refused(tmp_path: Path) -> None:
    save(tmp_path, build("BertModel", **SMALL, vocab_size=100))
    assert "it is not a model of images: its input is input_ids" in refusal(tmp_path)


def test_a_classifier_that_does_not_read_the_embeddings_is_refused(
    tmp_path: Path,
) -> None:
    save(tmp_path, build("ViTForImageClassification", **VISION))
    spec = VisionEncoder(model=str(tmp_path))
    cut = spec.model_copy(update={"matryoshka": True, "dimensions": 8})
    with pytest.raises(StitchworkError, match="normalize false, all dimensions and no modules"):
        EncoderCache("cpu", [tmp_path], offline=True).classifier(cut)


def test_a_text_encoder_of_a_model_of_images_is_refused_with_the_kind(tmp_path: Path) -> None:
    save(tmp_path, build("ViTModel", **VISION))
    with pytest.raises(StitchworkError, match="has no tokenizer"):
        EncoderCache("cpu", [tmp_path], offline=True).get(TextEncoder(model=str(tmp_path)))
