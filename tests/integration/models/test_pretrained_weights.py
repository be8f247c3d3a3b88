"""Weights of text models: complete ones are loaded, all others are refused by name."""

from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from stitchwork.errors import JobFailedError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import TextEncoder
from tests.support.tower_models import VISION

pytestmark = pytest.mark.models

CONFIG = BertConfig(
    vocab_size=30522,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
)
LAST_WEIGHT = "encoder.layer.1.output.dense.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a small BERT with random weights."""
    torch.manual_seed(0)
    BertModel(CONFIG).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder: Path, change: Any) -> None:
    """Change the weights of a folder by a function of the dictionary of its tensors."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def load(folder: Path) -> LoadedEncoder:
    encoders = EncoderCache("cpu", [folder], offline=True, compile_models=False)
    return encoders.get(TextEncoder(model=str(folder)))


def error_of(folder: Path) -> str:
    with pytest.raises(JobFailedError) as raised:
        load(folder)
    assert raised.value.code == "load-failed"
    return raised.value.message


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "encoder_x."])
def test_weights_with_a_prefix_are_refused_and_the_prefix_is_named(
    folder: Path, prefix: str
) -> None:
    rewrite(folder, lambda tensors: {prefix + key: tensors[key] for key in tensors})
    message = error_of(folder)
    assert "missing: embeddings.LayerNorm.bias, " in message
    assert "and 29 others" in message
    assert f"begin with {prefix!r}" in message


def test_a_missing_weight_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if k != LAST_WEIGHT})
    assert f"missing: {LAST_WEIGHT}" in error_of(folder)


def test_a_weight_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    rewrite(folder, lambda tensors: {**tensors, LAST_WEIGHT: torch.zeros(3, 4)})
    assert f"of another shape: {LAST_WEIGHT} (3, 4) instead of (32, 64)" in error_of(folder)


def test_weights_of_more_layers_than_the_config_has_are_refused(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1')
    )
    message = error_of(folder)
    assert "unexpected: encoder.layer.1.attention.output.LayerNorm.bias" in message
    assert "missing" not in message


def test_an_unknown_weight_of_a_base_model_is_refused(folder: Path) -> None:
    rewrite(folder, lambda tensors: {**tensors, "adapter.weight": torch.zeros(3)})
    assert "unexpected: adapter.weight" in error_of(folder)


@pytest.mark.parametrize(
    "model_class", [BertForMaskedLM, BertForPreTraining, BertForSequenceClassification]
)
def test_the_weights_of_another_head_are_not_used(folder: Path, model_class: Any) -> None:
    model = model_class(CONFIG)
    model.save_pretrained(folder)
    loaded = load(folder)
    prepared = loaded.encoder.prepare(["some words"])
    with torch.inference_mode():
        hidden = model.eval().bert(prepared.inputs[0][None]).last_hidden_state
    row = loaded.batcher.embed(prepared, 1)
    torch.testing.assert_close(row, hidden.mean(dim=1), rtol=1e-4, atol=1e-5)


def test_an_unused_pooler_and_stored_position_ids_do_not_matter(folder: Path) -> None:
    BertModel(CONFIG, add_pooling_layer=False).save_pretrained(folder)
    ids = {"embeddings.position_ids": torch.arange(512)[None]}
    rewrite(folder, lambda tensors: {**tensors, **ids})
    assert load(folder).encoder.dim == 32


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    assert "has no tokenizer: expected a file of tokenizer.json, vocab.txt" in error_of(folder)


def test_a_folder_that_does_not_exist_is_refused(folder: Path) -> None:
    rmtree(folder)
    message = error_of(folder)
    assert "the worker finds no folder at its path" in message
    assert "tokenizer" not in message


@pytest.mark.parametrize("model_class", [T5EncoderModel, T5ForConditionalGeneration])
def test_the_encoder_of_an_encoder_decoder_model_is_used(folder: Path, model_class: Any) -> None:
    config = T5Config(
        vocab_size=30522, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, pad_token_id=0
    )
    model = model_class(config).eval()
    (folder / "config.json").unlink()
    model.save_pretrained(folder)
    loaded = load(folder)
    prepared = loaded.encoder.prepare(["some words", "other and more words"])
    rows = loaded.batcher.embed(prepared, 2)
    with torch.inference_mode():
        for row, ids in zip(rows, prepared.inputs, strict=True):
            hidden = model.get_encoder()(input_ids=ids[None]).last_hidden_state
            torch.testing.assert_close(row, hidden[0].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_pickled_weights_are_refused_with_the_reason(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = error_of(folder)
    assert "expected weights in safetensors files, got only pytorch_model.bin" in message
    assert "save it with save_pretrained" in message


def test_a_model_of_images_is_refused_for_texts_with_the_reason(folder: Path) -> None:
    ViTModel(ViTConfig(**VISION)).save_pretrained(folder)
    message = error_of(folder)
    assert "its input is pixel_values" in message
    assert "an encoder of kind transformers-vision" in message
