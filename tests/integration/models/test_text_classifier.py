"""Classifiers of pretrained text models: equal to the whole model, or refused by name."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BigBirdConfig,
    BigBirdForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
    DebertaConfig,
    DebertaForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    EuroBertConfig,
    EuroBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MobileBertConfig,
    MobileBertForSequenceClassification,
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForSequenceClassification,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
    XLMConfig,
    XLMForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from stitchwork.errors import InvalidInputError, JobFailedError
from stitchwork.geometry.head_layers import Layer
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.models.text_classifier import check_logits
from stitchwork.models.transformers_encoder import TransformersEncoder
from stitchwork.resources import PoolingMode, TextEncoder

pytestmark = pytest.mark.models

TEXTS = ["a", "a much longer text, which is padded far less than the others", "two words"]
LABELS = {0: "no", 1: "yes", 2: "maybe"}
SIZES: dict[str, Any] = {"vocab_size": 30522, "id2label": LABELS, "pad_token_id": 0}
BERT: dict[str, Any] = {
    **SIZES,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
DECODER: dict[str, Any] = {**SIZES, "bos_token_id": 1, "eos_token_id": 2}
POOLING: dict[str, PoolingMode] = {
    "modernbert-mean": "mean",
    "modernbert-decoder": "last",
    "eurobert-mean": "mean",
    "xlnet": "last",
    "gpt2": "last",
    "llama": "last",
    "qwen2": "last",
}
REFUSED: dict[str, tuple[Any, Any]] = {
    "bart": (
        BartForSequenceClassification,
        BartConfig(
            **DECODER,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
        ),
    ),
    "t5": (
        T5ForSequenceClassification,
        T5Config(**SIZES, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2),
    ),
    "mish": (DebertaV2ForSequenceClassification, DebertaV2Config(**BERT, pooler_hidden_act="mish")),
}
MODELS: dict[str, tuple[Any, Any]] = {
    "bert": (BertForSequenceClassification, BertConfig(**BERT)),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**BERT)),
    "camembert": (CamembertForSequenceClassification, CamembertConfig(**BERT)),
    "distilbert": (
        DistilBertForSequenceClassification,
        DistilBertConfig(**SIZES, dim=32, n_layers=2, n_heads=2, hidden_dim=64),
    ),
    "electra": (ElectraForSequenceClassification, ElectraConfig(**BERT, embedding_size=16)),
    "albert": (AlbertForSequenceClassification, AlbertConfig(**BERT, embedding_size=16)),
    "deberta": (DebertaForSequenceClassification, DebertaConfig(**BERT)),
    "deberta-v2": (DebertaV2ForSequenceClassification, DebertaV2Config(**BERT)),
    "deberta-v2-tanh": (
        DebertaV2ForSequenceClassification,
        DebertaV2Config(**BERT, pooler_hidden_act="tanh"),
    ),
    "modernbert": (
        ModernBertForSequenceClassification,
        ModernBertConfig(**BERT, cls_token_id=1, sep_token_id=2),
    ),
    "modernbert-mean": (
        ModernBertForSequenceClassification,
        ModernBertConfig(
            **BERT, cls_token_id=1, sep_token_id=2, classifier_pooling="mean", norm_bias=True
        ),
    ),
    "modernbert-decoder": (
        ModernBertDecoderForSequenceClassification,
        ModernBertDecoderConfig(**{**BERT, **DECODER}, cls_token_id=1, sep_token_id=2),
    ),
    "eurobert-mean": (
        EuroBertForSequenceClassification,
        EuroBertConfig(**{**BERT, **DECODER}, num_key_value_heads=2, classifier_pooling="mean"),
    ),
    "big-bird": (BigBirdForSequenceClassification, BigBirdConfig(**BERT)),
    "mobilebert": (
        MobileBertForSequenceClassification,
        MobileBertConfig(**BERT, embedding_size=32, true_hidden_size=32, intra_bottleneck_size=32),
    ),
    "xlm": (
        XLMForSequenceClassification,
        XLMConfig(**SIZES, emb_dim=32, n_layers=1, n_heads=2),
    ),
    "mpnet": (MPNetForSequenceClassification, MPNetConfig(**BERT)),
    "xlnet": (
        XLNetForSequenceClassification,
        XLNetConfig(**SIZES, d_model=32, n_layer=1, n_head=2, d_inner=32),
    ),
    "gpt2": (
        GPT2ForSequenceClassification,
        GPT2Config(**DECODER, n_embd=32, n_layer=2, n_head=2),
    ),
    "llama": (
        LlamaForSequenceClassification,
        LlamaConfig(**{**BERT, **DECODER}, num_key_value_heads=2),
    ),
    "qwen2": (
        Qwen2ForSequenceClassification,
        Qwen2Config(**{**BERT, **DECODER}, num_key_value_heads=2),
    ),
    "squeezebert": (
        SqueezeBertForSequenceClassification,
        SqueezeBertConfig(
            **{**BERT, "hidden_size": 32},
            embedding_size=32,
            q_groups=2,
            k_groups=2,
            v_groups=2,
            post_attention_groups=1,
            intermediate_groups=2,
            output_groups=2,
        ),
    ),
}


def save(folder: Path, name: str, **options: Any) -> Any:
    """Save a small model with random weights large enough for the labels to differ."""
    torch.manual_seed(0)
    model_class, config = (MODELS | REFUSED)[name]
    config = copy.deepcopy(config)
    for key, value in options.items():
        setattr(config, key, value)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    model.save_pretrained(folder)
    # GPT-2 would embed the types of its tokens.
    names = ["input_ids", "attention_mask"]
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder(), model_input_names=names)
    tokenizer.save_pretrained(folder)
    return model


def cache(folder: Path) -> EncoderCache:
    return EncoderCache("cpu", [folder], offline=True, compile_models=False)


def spec_of(folder: Path) -> TextEncoder:
    return TextEncoder(model=str(folder), pooling="cls")


def plain_logits(folder: Path, model: Any) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return torch.cat(
            [
                model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits
                for text in TEXTS
            ]
        )


@pytest.mark.parametrize("name", list(MODELS))
def test_a_classifier_scores_embeddings_as_the_whole_model_does(tmp_path: Path, name: str) -> None:
    model = save(tmp_path, name)
    encoders = cache(tmp_path)
    spec = TextEncoder(model=str(tmp_path), pooling=POOLING.get(name, "cls"))
    head = encoders.classifier(spec).head.define({})
    loaded = encoders.get(spec)
    rows = loaded.batcher.embed(loaded.encoder.prepare(TEXTS), 8).numpy()
    expected = plain_logits(tmp_path, model).numpy()
    assert head.labels == tuple(LABELS.values())
    actual = head.classifier.logits(rows)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert actual.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
    assert len({*expected.argmax(axis=1).tolist()} | {*np.round(expected[:, 0], 3)}) > 1


@pytest.mark.parametrize("name", ["modernbert", "modernbert-mean", "xlnet", "gpt2"])
def test_another_pooling_than_the_classifiers_is_refused_by_name(tmp_path: Path, name: str) -> None:
    save(tmp_path, name)
    pooling = POOLING.get(name, "cls")
    other = TextEncoder(model=str(tmp_path), pooling="max")
    with pytest.raises(InvalidInputError, match=f"expects an encoder with pooling {pooling}"):
        cache(tmp_path).classifier(other)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_an_encoder_decoder_is_refused_by_name(tmp_path: Path, name: str) -> None:
    save(tmp_path, name)
    with pytest.raises(
        InvalidInputError, match=f"encoder-decoder model .{name}., whose classifier"
    ):
        cache(tmp_path).classifier(TextEncoder(model=str(tmp_path), pooling="cls"))


def test_an_operation_that_no_layer_computes_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, "mish")
    with pytest.raises(InvalidInputError, match=r"DebertaV2For.* has mish"):
        cache(tmp_path).classifier(TextEncoder(model=str(tmp_path), pooling="cls"))


@pytest.mark.parametrize(
    ("problem_type", "outputs"),
    [
        ("multi_label_classification", 3),
        ("regression", 1),
        ("regression", 3),
        ("single_label_classification", 3),
        (None, 3),
    ],
)
def test_the_problem_type_of_the_config_is_in_force(
    tmp_path: Path, problem_type: str | None, outputs: int
) -> None:
    model = save(tmp_path, "bert", num_labels=outputs, problem_type=problem_type)
    spec = TextEncoder(model=str(tmp_path), pooling="cls")
    head = cache(tmp_path).classifier(spec).head.define({})
    assert head.classifier.problem_type == (problem_type or "single_label_classification")
    encoder = cache(tmp_path).get(spec)
    rows = encoder.batcher.embed(encoder.encoder.prepare(TEXTS), 8).numpy()
    logits = plain_logits(tmp_path, model)
    expected = {
        "multi_label_classification": logits.sigmoid(),
        "regression": logits,
    }.get(problem_type or "", logits.softmax(dim=1))
    np.testing.assert_allclose(head.classifier.scores(rows), expected.numpy(), atol=1e-4)


def test_the_request_wins_over_the_config(tmp_path: Path) -> None:
    save(tmp_path, "bert", problem_type="multi_label_classification")
    pretrained = cache(tmp_path).classifier(spec_of(tmp_path)).head
    overrides = {"problem_type": "single_label_classification", "labels": [1, 2, 3]}
    head = pretrained.define(overrides)
    assert head.labels == (1, 2, 3)
    assert head.classifier.problem_type == "single_label_classification"
    head = pretrained.define({"thresholds": [0.1, 0.2, 0.3], "temperature": 2.0})
    assert head.thresholds == (0.1, 0.2, 0.3)
    assert head.classifier.temperature == 2.0


def test_a_single_output_without_a_problem_type_is_refused_unless_the_request_has_one(
    tmp_path: Path,
) -> None:
    save(tmp_path, "bert", num_labels=1)
    pretrained = cache(tmp_path).classifier(spec_of(tmp_path)).head
    with pytest.raises(InvalidInputError, match="single output, and its config no problem_type"):
        pretrained.define({})
    binary = pretrained.define(
        {"problem_type": "single_label_classification", "labels": [False, True]}
    )
    assert (binary.labels, binary.classifier.n_outputs) == ((False, True), 2)
    assert pretrained.define({"problem_type": "regression"}).labels == ("LABEL_0",)


@pytest.mark.parametrize(("name", "expected"), [("bert", 1.7), ("gpt2", 1.0)])
def test_the_temperature_of_a_config_is_that_of_its_classifier_not_of_sampling(
    tmp_path: Path, name: str, expected: float
) -> None:
    save(tmp_path, name)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "temperature": 1.7}))
    spec = TextEncoder(model=str(tmp_path), pooling=POOLING.get(name, "cls"))
    assert cache(tmp_path).classifier(spec).head.define({}).classifier.temperature == expected


def test_logits_that_differ_from_those_of_the_model_are_refused_with_the_difference(
    tmp_path: Path,
) -> None:
    model = save(tmp_path, "electra")
    spec = TextEncoder(model=str(tmp_path), pooling="cls")
    layers = cache(tmp_path).classifier(spec).head.layers
    encoder = TransformersEncoder(spec, torch.device("cpu"), tmp_path, compile_models=False)
    check_logits("electra", encoder, model, layers)
    other = tuple(Layer("tanh") if layer.kind == "gelu" else layer for layer in layers)
    assert other != layers
    with pytest.raises(JobFailedError, match=r"logits of its embeddings differ by \d"):
        check_logits("electra", encoder, model, other)
