"""Plain folders of transformers: architectures, and their classifiers."""

from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer

from stitchwork.resources import Floats
from tests.integration.parity.cases import TEXTS, Case, HeadReference, Reference, spread_logits
from tests.support.text_models import BERT, VOCABULARY, save_text_model

LABELS: Final = {0: "no", 1: "yes", 2: "maybe"}
SIZES: Final[dict[str, Any]] = {"vocab_size": len(VOCABULARY), "pad_token_id": 0}
DISTILBERT: Final = {**SIZES, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
ARCHITECTURES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bert": ("Bert", BERT),
    "roberta": ("Roberta", BERT),
    "camembert": ("Camembert", BERT),
    "xlm-roberta": ("XLMRoberta", BERT),
    "distilbert": ("DistilBert", DISTILBERT),
    "electra": ("Electra", {**BERT, "embedding_size": 16}),
    "albert": ("Albert", {**BERT, "embedding_size": 16}),
    "deberta": ("Deberta", BERT),
    "deberta-v2": ("DebertaV2", BERT),
    "mpnet": ("MPNet", BERT),
    "modernbert": ("ModernBert", {**BERT, "cls_token_id": 2, "sep_token_id": 3}),
}
"""The prefix of the classes of an architecture, and the fields of its config."""
DECODER: Final = {**BERT, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
CLASSIFIER_ARCHITECTURES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    **ARCHITECTURES,
    "big-bird": ("BigBird", BERT),
    "mobilebert": (
        "MobileBert",
        {
            **BERT,
            **dict.fromkeys(("embedding_size", "true_hidden_size", "intra_bottleneck_size"), 32),
        },
    ),
    "modernbert-mean": (
        "ModernBert",
        {**BERT, "cls_token_id": 2, "sep_token_id": 3, "classifier_pooling": "mean"},
    ),
    "xlnet": ("XLNet", {**SIZES, "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32}),
    "llama": ("Llama", DECODER),
    "qwen2": ("Qwen2", DECODER),
}
POOLING: Final = {"modernbert-mean": "mean", "xlnet": "last", "llama": "last", "qwen2": "last"}
"""The pooling of classifiers that do not read the first token."""
PROBLEM_TYPES: Final = ("multi_label_classification", "regression")


def passes(folder: Path, model: Any) -> list[Any]:
    """The library's output for each text alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return [model(**tokenizer(text, return_tensors="pt")) for text in TEXTS]


def mean_rows(outputs: list[Any]) -> Floats:
    """The mean (n, d) of the last hidden states of each text."""
    rows: Floats = torch.cat([out.last_hidden_state.mean(dim=1) for out in outputs]).numpy()
    return rows


def base_model(name: str, folder: Path) -> Reference:
    """A model without a head; its rows are means."""
    prefix, fields = ARCHITECTURES[name]
    config = getattr(transformers, f"{prefix}Config")(**fields)
    model = save_text_model(folder, getattr(transformers, f"{prefix}Model"), config)
    record = {"pooling": "mean", "normalize": False, "prompt": "", "modules": []}
    return Reference(mean_rows(passes(folder, model)), record=record)


def classifier(name: str, folder: Path, problem_type: str | None = None) -> Reference:
    """A model with a classifier, whose rows have the classifier's pooling."""
    prefix, fields = CLASSIFIER_ARCHITECTURES[name]
    fields = {**fields, "problem_type": problem_type}
    config = getattr(transformers, f"{prefix}Config")(**fields, id2label=LABELS)
    model_class = getattr(transformers, f"{prefix}ForSequenceClassification")
    model = save_text_model(folder, model_class, config)
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    last = next(layer for layer in layers if layer.out_features == len(LABELS))
    spread_logits(last, lambda: passes(folder, model))
    model.save_pretrained(folder)
    logits = torch.cat([output.logits for output in passes(folder, model)])
    base = getattr(model, model.base_model_prefix)
    pooling = POOLING.get(name, "cls")
    states = [output.last_hidden_state for output in passes(folder, base)]
    if pooling == "mean":
        rows = torch.cat([part.mean(dim=1) for part in states])
    else:
        rows = torch.cat([part[:, 0 if pooling == "cls" else -1] for part in states])
    labels = [LABELS[i] for i in logits.argmax(dim=1).tolist()]
    scores = {
        "multi_label_classification": logits.sigmoid(),
        "regression": logits,
    }.get(problem_type or "", logits.softmax(dim=1))
    probabilities = np.asarray(scores)
    head = HeadReference(labels, probabilities, list(LABELS.values()))
    return Reference(rows.numpy(), {"pooling": pooling}, head=head, label_names=head.classes)


OTHER_PROBLEMS: Final = {
    problem_type: Case(
        f"bert-{problem_type}", partial(classifier, "bert", problem_type=problem_type)
    )
    for problem_type in PROBLEM_TYPES
}
"""Classifiers that do not choose one label, by the problem type of their config."""
CLASSIFIERS: Final = tuple(
    Case(f"{name}-classifier", partial(classifier, name)) for name in CLASSIFIER_ARCHITECTURES
)
CASES: Final = tuple(Case(name, partial(base_model, name)) for name in ARCHITECTURES)
