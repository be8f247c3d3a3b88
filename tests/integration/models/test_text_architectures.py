"""Text models of many architectures: equal to their own library, one text at a time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stitchwork.errors import StitchworkError
from stitchwork.geometry.classifier import Classifier
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import Floats, TextEncoder
from tests.support.tower_models import SMALL, randomize, sentence_pieces

pytestmark = pytest.mark.models

TEXTS = ["A b", "a much Longer text, which is padded far less", "two words and a few more"]
VOCABULARY = 30522
"""The tokens of MiniLM, whose tokenizer most of the models here have."""


def embed(folder: Path, *, compile_models: bool = False, **fields: Any) -> Floats:
    encoders = EncoderCache("cpu", [folder], offline=True, compile_models=compile_models)
    spec = encoders.pin(TextEncoder(model=str(folder), **fields))
    assert encoders.pin(spec) == spec
    loaded = encoders.get(spec)
    rows = loaded.batcher.embed(loaded.encoder.prepare(TEXTS), 8).numpy()
    assert loaded.encoder.dim == rows.shape[1]
    return rows


def refusal(folder: Path, **fields: Any) -> str:
    with pytest.raises(StitchworkError) as raised:
        embed(folder, **fields)
    return raised.value.message


def assert_equal(actual: Floats, expected: Any) -> None:
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=1e-4, atol=1e-4)


def save(folder: Path, model: Any) -> Any:
    """Write a model with MiniLM's tokenizer."""
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(minilm_folder() / "tokenizer.json"),
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",  # noqa: S106 it is no password
    ).save_pretrained(folder)
    return model


def build(name: str, **fields: Any) -> Any:
    """A model of transformers with random weights."""
    model_class = getattr(transformers, name)
    return randomize(model_class(model_class.config_class(**fields)))


@torch.no_grad()
def states(folder: Path, model: Any, text: str) -> torch.Tensor:
    """Hidden states (t, d) that a model gives for one text."""
    output = model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt"))
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


BERT = {**SMALL, "vocab_size": VOCABULARY, "pad_token_id": 0}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
    "decoder_start_token_id": 102,
    "forced_eos_token_id": 102,
}
DECODER = {
    **SMALL,
    "vocab_size": VOCABULARY,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 101,
    "eos_token_id": 102,
}

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("MPNetModel", BERT),
    ("XLMRobertaModel", {**BERT, "pad_token_id": 1}),
    ("NomicBertModel", BERT),
    ("ModernBertModel", {**BERT, "cls_token_id": 101, "sep_token_id": 102}),
    ("T5EncoderModel", T5),
    ("MT5ForConditionalGeneration", T5),
    ("UMT5EncoderModel", T5),
    ("LongT5EncoderModel", {**T5, "encoder_attention_type": "local"}),
    ("BartModel", BART),
    ("MBartForConditionalGeneration", BART),
    ("M2M100Model", BART),
    ("Qwen2Model", DECODER),
    ("Qwen3ForCausalLM", DECODER),
    ("LlamaModel", DECODER),
    ("MistralForCausalLM", DECODER),
    ("Gemma3TextModel", {**DECODER, "use_bidirectional_attention": True}),
    ("GPT2LMHeadModel", GPT2),
    ("GPTNeoXModel", {**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 64}),
]


@pytest.mark.parametrize(("name", "fields"), MODELS, ids=[name for name, _ in MODELS])
def test_batches_of_texts_equal_the_library_one_by_one(
    tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    model = save(tmp_path, build(name, **fields))
    base = getattr(model, model.base_model_prefix, model)
    if model.config.is_encoder_decoder and not name.endswith("EncoderModel"):
        base = model.get_encoder()
    expected = [states(tmp_path, base, text) for text in TEXTS]
    assert_equal(embed(tmp_path), torch.stack([hidden.mean(dim=0) for hidden in expected]))
    last = embed(tmp_path, pooling="last", compile_models=True)
    assert_equal(last, torch.stack([hidden[-1] for hidden in expected]))


def save_t5(folder: Path) -> Path:
    """Write a T5 encoder whose tokenizer is a sentencepiece model alone."""
    tokens = len(sentencepiece.SentencePieceProcessor(str(sentence_pieces(folder))))
    build("T5EncoderModel", **{**T5, "vocab_size": tokens}).save_pretrained(folder)
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert not (folder / "tokenizer.json").exists()
    return folder


def test_a_tokenizer_that_is_a_sentencepiece_model_alone_is_read(tmp_path: Path) -> None:
    model = transformers.T5EncoderModel.from_pretrained(save_t5(tmp_path)).eval()
    expected = [states(tmp_path, model, text).mean(dim=0) for text in TEXTS]
    assert_equal(embed(tmp_path), torch.stack(expected))


SMALL_BART = {**BART, "vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2}
TOKENIZERS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("XLMRobertaTokenizer", "sentencepiece.bpe.model", "XLMRobertaModel", {"pad_token_id": 1}),
    ("DebertaV2Tokenizer", "spm.model", "DebertaV2Model", {}),
    ("LlamaTokenizer", "tokenizer.model", "LlamaModel", DECODER),
    ("XLNetTokenizer", "spiece.model", "XLNetModel", {"d_model": 32, "n_layer": 2, "n_head": 2}),
    ("MBartTokenizer", "sentencepiece.bpe.model", "MBartModel", SMALL_BART),
]


@pytest.mark.parametrize(
    ("tokenizer", "file", "name", "fields"), TOKENIZERS, ids=[case[0] for case in TOKENIZERS]
)
def test_sentencepiece_models_of_other_tokenizers_equal_the_library(
    tmp_path: Path, tokenizer: str, file: str, name: str, fields: dict[str, Any]
) -> None:
    ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    is_bpe = tokenizer == "LlamaTokenizer"
    options = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 380} if is_bpe else {}
    sentence_pieces(tmp_path, file, **ids, **options)
    config = {"tokenizer_class": tokenizer, "model_max_length": 64}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model = build(name, **{**SMALL, **fields, "vocab_size": 400})
    model.save_pretrained(tmp_path)
    base = model.get_encoder() if model.config.is_encoder_decoder else model
    expected = [states(tmp_path, base, text).mean(dim=0) for text in TEXTS]
    assert_equal(embed(tmp_path), torch.stack(expected))


def test_a_folder_of_sentence_t5_equals_its_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformer = Transformer(str(save_t5(tmp_path / "t5")))
    dense = Dense(32, 24, bias=False, activation_function=torch.nn.Identity())
    modules = [transformer, Pooling(32), dense, Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu").eval()
    model.save(str(tmp_path / "st"))
    assert_equal(embed(tmp_path / "st"), model.encode(TEXTS))


def test_a_decoder_with_an_instruction_and_its_last_token_equals_its_library(
    tmp_path: Path,
) -> None:
    save(tmp_path / "qwen", build("Qwen3ForCausalLM", **DECODER).to(torch.bfloat16))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "qwen", padding_side="left")
    tokenizer.save_pretrained(tmp_path / "qwen")
    modules = [Transformer(str(tmp_path / "qwen")), Pooling(32, "lasttoken"), Normalize()]
    prompts = {"query": "Instruct: find a passage\nQuery: ", "document": ""}
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts).float().eval()
    model.save(str(tmp_path / "st"))
    folder = tmp_path / "st"
    assert_equal(embed(folder), model.encode(TEXTS))
    assert_equal(embed(folder, prompt_name="query"), model.encode(TEXTS, prompt_name="query"))
    assert_equal(embed(folder, prompt="Say: "), model.encode(TEXTS, prompt="Say: "))
    # A text that is cut still ends with the token that is pooled.
    model.max_seq_length = 6
    assert_equal(embed(folder, max_length=6, truncate=True), model.encode(TEXTS))


def test_weights_in_half_precision_are_computed_with_in_full(tmp_path: Path) -> None:
    save(tmp_path, build("LlamaModel", **DECODER).to(torch.bfloat16))
    model = transformers.LlamaModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = [states(tmp_path, model, text)[-1] for text in TEXTS]
    assert_equal(embed(tmp_path, pooling="last"), torch.stack(expected))


def test_a_classifier_in_half_precision_scores_as_its_library_does_in_full(tmp_path: Path) -> None:
    labels = {"id2label": {0: "no", 1: "yes", 2: "maybe"}}
    save(tmp_path, build("BertForSequenceClassification", **BERT, **labels).to(torch.bfloat16))
    model = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path, dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        outputs = [model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]
    encoders = EncoderCache("cpu", [tmp_path], offline=True, compile_models=False)
    head = encoders.classifier(TextEncoder(model=str(tmp_path), pooling="cls")).head
    assert list(head.labels) == ["no", "yes", "maybe"]
    classifier = Classifier(head.layers)
    assert_equal(classifier.logits(embed(tmp_path, pooling="cls")), torch.cat(outputs))
