"""Classifiers of pretrained text models: equal to the whole model, or refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
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
    ModernBertConfig,
    ModernBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from stitchwork.errors import InvalidInputError, JobFailedError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.models.text_classifier import check_logits
from stitchwork.resources import TextEncoder

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
}


def save(folder: Path, name: str) -> Any:
    """Save a small model with random weights large enough for the labels to differ."""
    torch.manual_seed(0)
    model_class, config = MODELS[name]
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return model


def cache(folder: Path) -> EncoderCache:
    return EncoderCache("cpu", [folder], offline=True, compile_models=False)


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
    spec = TextEncoder(model=str(tmp_path), pooling="cls")
    extracted = encoders.classifier(spec)
    loaded = encoders.get(spec)
    rows = loaded.batcher.embed(loaded.encoder.prepare(TEXTS), 8).numpy()
    expected = plain_logits(tmp_path, model).numpy()
    assert extracted.labels == list(LABELS.values())
    np.testing.assert_allclose(extracted.classifier.logits(rows), expected, rtol=1e-4, atol=1e-4)
    assert (
        extracted.classifier.logits(rows).argmax(axis=1).tolist()
        == expected.argmax(axis=1).tolist()
    )


def test_a_head_with_a_normalisation_is_refused_by_name(tmp_path: Path) -> None:
    config = ModernBertConfig(**BERT, cls_token_id=1, sep_token_id=2)
    ModernBertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="got ModernBertPredictionHead"):
        cache(tmp_path).classifier(TextEncoder(model=str(tmp_path), pooling="cls"))


def test_an_architecture_without_a_supported_head_is_refused_by_name(tmp_path: Path) -> None:
    config = XLNetConfig(**SIZES, d_model=32, n_layer=1, n_head=2, d_inner=32)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="got XLNetForSequenceClassification"):
        cache(tmp_path).classifier(TextEncoder(model=str(tmp_path), pooling="cls"))


@pytest.mark.parametrize(
    ("option", "value"),
    [("problem_type", "multi_label_classification"), ("problem_type", "regression")],
)
def test_a_classifier_that_does_not_choose_one_label_is_refused(
    tmp_path: Path, option: str, value: str
) -> None:
    config = BertConfig(**BERT, **{option: value})
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match=f"one of several labels, got {value}"):
        cache(tmp_path).classifier(TextEncoder(model=str(tmp_path), pooling="cls"))


def test_logits_that_differ_from_those_of_the_model_are_refused_with_the_difference(
    tmp_path: Path,
) -> None:
    model = save(tmp_path, "electra")
    spec = TextEncoder(model=str(tmp_path), pooling="cls")
    extracted = cache(tmp_path).classifier(spec)
    check_logits(spec, tmp_path, model, extracted.classifier)
    with pytest.raises(JobFailedError, match=r"logits of its embeddings differ by \d"):
        check_logits(spec, tmp_path, model, replace(extracted.classifier, activation="tanh"))
