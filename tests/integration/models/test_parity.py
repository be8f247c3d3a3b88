"""Encoders that differ from their own libraries are refused when a space is registered."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from transformers import BertConfig, BertModel, FNetConfig, FNetModel, ViTConfig, ViTModel

from stitchwork.errors import JobFailedError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.resources import EncoderSpec, ImageEncoder, TextEncoder, VisionEncoder
from tests.support.text_models import BERT, VOCABULARY, save_text_model, word_pieces

pytestmark = pytest.mark.models

SKEWED = "skewed_resnet"
NAN = float("nan")


class SkewedResNet(ResNet):  # type: ignore[misc]
    """A ResNet whose features are scaled once its classifier is removed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = super().forward(x)
        return rows if self.num_classes else 1.1 * rows


@register_model  # type: ignore[untyped-decorator]
def skewed_resnet(**options: Any) -> ResNet:
    """The function by which timm creates the model."""
    del options["pretrained"], options["pretrained_cfg"], options["pretrained_cfg_overlay"]
    options.pop("cache_dir", None)
    model = SkewedResNet(
        BasicBlock, (1, 1, 1, 1), stem_width=16, channels=(32, 48, 48, 96), **options
    )
    model.pretrained_cfg = {"input_size": (3, 64, 64), "fixed_input_size": False}
    return model


def cache(folder: Path) -> EncoderCache:
    return EncoderCache("cpu", [folder], offline=True, compile_models=False)


def refusal(folder: Path, spec: EncoderSpec) -> str:
    """Why an encoder is refused; it is loaded without the comparison."""
    encoders = cache(folder)
    assert not encoders.get(spec).is_proven
    with pytest.raises(JobFailedError) as raised:
        encoders.get(spec, prove=True)
    assert raised.value.code == "load-failed"
    return raised.value.message


def spoil(folder: Path, key: str) -> None:
    """Replace a number of a folder's weights."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[key].view(-1)[0] = NAN
    save_file(tensors, file, metadata={"format": "pt"})


def test_an_architecture_whose_rows_depend_on_the_batch_is_refused_with_the_difference(
    tmp_path: Path,
) -> None:
    save_text_model(tmp_path, BertModel, BertConfig(**BERT))
    leave_out_the_mask(tmp_path)
    message = refusal(tmp_path, TextEncoder(model=str(tmp_path)))
    assert "its embeddings in a batch differ by " in message
    assert "from those that transformers computes of single inputs" in message


def leave_out_the_mask(folder: Path) -> None:
    """Let a tokenizer give no mask, so that a model attends to padding."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"model_input_names": ["input_ids"]}
    file.write_text(json.dumps(config))


def test_an_architecture_that_mixes_tokens_with_padding_embeds_texts_of_one_length_at_a_time(
    tmp_path: Path,
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
    save_text_model(tmp_path, FNetModel, FNetConfig(vocab_size=len(VOCABULARY), **sizes))
    leave_out_the_mask(tmp_path)
    loaded = cache(tmp_path).get(TextEncoder(model=str(tmp_path)), prove=True)
    texts = ["the train", "the train was late", "late", "was late the"]
    prepared = loaded.encoder.prepare(texts)
    assert len({len(ids) for ids in prepared.inputs}) > 1
    rows = loaded.encoder.forward(prepared.inputs)
    alone = torch.cat([loaded.encoder.forward([ids]) for ids in prepared.inputs])
    torch.testing.assert_close(rows, alone, rtol=1e-5, atol=1e-5)


def test_an_architecture_of_timm_whose_features_change_without_classifier_is_refused(
    tmp_path: Path,
) -> None:
    save_file(timm.create_model(SKEWED).state_dict(), tmp_path / "model.safetensors")
    message = refusal(tmp_path, ImageEncoder(model=SKEWED, weights=str(tmp_path)))
    assert "differ by 0.1 from those that timm computes" in message


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_text_model(tmp_path, BertModel, BertConfig(**BERT))
    spoil(tmp_path, "embeddings.LayerNorm.bias")
    assert "differ by nan" in refusal(tmp_path, TextEncoder(model=str(tmp_path)))


def test_static_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    static = StaticEmbedding(word_pieces(), embedding_dim=8)
    static.embedding.weight.data.fill_(NAN)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path))
    message = refusal(tmp_path, TextEncoder(model=str(tmp_path)))
    assert "differ by nan from those that sentence-transformers computes" in message


def test_weights_of_an_image_model_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    sides = {"image_size": 32, "patch_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    ViTModel(ViTConfig(**sides, hidden_size=32, intermediate_size=32)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}'
    )
    spoil(tmp_path, "layernorm.bias")
    assert "differ by nan" in refusal(tmp_path, VisionEncoder(model=str(tmp_path)))


def test_a_proven_encoder_is_not_loaded_again(tmp_path: Path) -> None:
    save_text_model(tmp_path, BertModel, BertConfig(**BERT))
    encoders, spec = cache(tmp_path), TextEncoder(model=str(tmp_path))
    unproven = encoders.get(spec)
    proven = encoders.get(spec, prove=True)
    assert (unproven.is_proven, proven.is_proven) == (False, True)
    assert encoders.get(spec) is encoders.get(spec, prove=True) is proven
