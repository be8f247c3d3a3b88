"""Folders of sentence-transformers: modules, poolings, prompts and limits."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from transformers import BertConfig, BertModel

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import Floats
from tests.integration.parity.cases import TEXTS, Case, HeadReference, Reference
from tests.support.text_models import BERT, save_text_model, save_tokenizer, word_pieces

WIDTH: Final = BERT["hidden_size"]
MODES: Final = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
NAMES: Final = {"mean_sqrt_len_tokens": "mean_sqrt_len", "lasttoken": "last"}
"""Our names of modes, where they differ."""
CONCATENATIONS: Final = (("cls", "mean"), ("max", "lasttoken", "weightedmean"))
ACTIVATIONS: Final = (
    *("ELU", "GELU", "Hardtanh", "Identity", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SELU", "SiLU"),
    *("Sigmoid", "Softplus", "Softsign", "Tanh"),
)
LABELS: Final = ["question", "answer", "neither"]
PROMPTS: Final = {"query": "Find: ", "passage": "Say which: "}


def save(folder: Path, modules: Sequence[Any], **options: Any) -> None:
    """Save a model of these modules after a small BERT, by its own library."""
    transformer = folder.parent / f"{folder.name}-transformer"
    save_text_model(transformer, BertModel, BertConfig(**BERT))
    module = Transformer(str(transformer))
    SentenceTransformer(modules=[module, *modules], device="cpu", **options).save(str(folder))


def reference(
    folder: Path,
    encoder: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
    texts: Sequence[str] = TEXTS,
    **encode: Any,
) -> Reference:
    """What the library computes from the files of a folder.

    Args:
        folder: The folder.
        encoder: Fields of the encoder.
        record: Fields that the record must have.
        texts: The texts.
        encode: Arguments of the library's `encode`.
    """
    model = SentenceTransformer(str(folder), device="cpu")
    rows = model.encode(list(texts), **encode)
    return Reference(rows, encoder or {}, tuple(texts), record or {}, head_of(rows))


def head_of(rows: Floats) -> HeadReference:
    """A linear head as it was trained on a library's rows, and its predictions for them."""
    centred = rows - rows.mean(axis=0)
    weight = np.random.default_rng(0).normal(size=(len(LABELS), rows.shape[1]))
    weight /= (centred @ weight.T).std()
    logits = torch.from_numpy(centred @ weight.T)
    body = {
        "weight": weight.tolist(),
        "bias": (-rows.mean(axis=0) @ weight.T).tolist(),
        "labels": LABELS,
    }
    labels = [LABELS[i] for i in logits.argmax(dim=1).tolist()]
    return HeadReference(labels, np.asarray(logits.softmax(dim=1)), LABELS, body)


def pooling(mode: Any, folder: Path) -> Reference:
    """One pooling mode, or several."""
    save(folder, [Pooling(WIDTH, mode)])
    names = [NAMES.get(name, name) for name in ([mode] if isinstance(mode, str) else mode)]
    return reference(folder, record={"pooling": names[0] if len(names) == 1 else names})


def pooling_without_prompt(mode: Any, folder: Path) -> Reference:
    """A pooling that leaves out the tokens of the default prompt."""
    save(
        folder,
        [Pooling(WIDTH, mode, include_prompt=False)],
        prompts=PROMPTS,
        default_prompt_name="query",
    )
    return reference(folder, record={"prompt": "Find: ", "prompt_name": "query"})


def prompt(encoder: dict[str, Any], encode: dict[str, Any], folder: Path) -> Reference:
    """A prompt: the default one, a named one, or that of the request."""
    save(folder, [Pooling(WIDTH)], prompts=PROMPTS, default_prompt_name="query")
    name = encode.get("prompt_name", None if encode else "query")
    text = encode.get("prompt", PROMPTS.get(name or ""))
    return reference(folder, encoder, {"prompt": text, "prompt_name": name}, **encode)


def dense(activation: str, folder: Path) -> Reference:
    """A projection to fewer dimensions with an activation."""
    torch.manual_seed(0)
    function = getattr(torch.nn, activation)()
    save(folder, [Pooling(WIDTH), Dense(WIDTH, 12, activation_function=function)])
    return reference(folder, record={"modules": ["Dense"], "normalize": False})


def dense_normalize(folder: Path) -> Reference:
    """CLS, a projection and unit length."""
    torch.manual_seed(0)
    save(folder, [Pooling(WIDTH, "cls"), Dense(WIDTH, WIDTH), Normalize()])
    return reference(folder, record={"modules": ["Dense"], "normalize": True, "pooling": "cls"})


def residual(folder: Path) -> Reference:
    """Projections with residual connections, with and without a bias."""
    torch.manual_seed(0)
    modules = [
        Pooling(WIDTH, ("mean", "max")),
        Dense(2 * WIDTH, 16, activation_function=torch.nn.Identity(), use_residual=True),
        Dropout(0.3),
        Normalize(),
        Dense(16, 16, bias=False, activation_function=torch.nn.GELU(), use_residual=True),
        Normalize(),
    ]
    save(folder, modules)
    return reference(folder, record={"modules": ["Dense", "Normalize", "Dense"]})


def layer_norm(folder: Path) -> Reference:
    """A layer normalisation with weights of its own."""
    torch.manual_seed(0)
    norm = LayerNorm(WIDTH)
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    save(folder, [Pooling(WIDTH), norm])
    return reference(folder, record={"modules": ["LayerNorm"]})


def static_embedding(modules: Sequence[Callable[[], Any]], folder: Path) -> Reference:
    """A static embedding, and modules after it."""
    torch.manual_seed(0)
    static = StaticEmbedding(word_pieces(), embedding_dim=24)
    model = SentenceTransformer(modules=[static, *(make() for make in modules)], device="cpu")
    model.save(str(folder))
    return reference(folder, record={"pooling": "mean"})


def lower_case(folder: Path) -> Reference:
    """A cased tokenizer whose module converts texts to lower case first."""
    save(folder, [Pooling(WIDTH)])
    save_tokenizer(folder, lower_case=False)
    options = {"max_seq_length": 64, "do_lower_case": True}
    (folder / "sentence_bert_config.json").write_text(json.dumps(options))
    texts = ("ÀB Cd", "An uppercase TEXT")
    return reference(folder, record={"lower_case": True, "max_length": 64}, texts=texts)


def max_length(folder: Path) -> Reference:
    """A maximum length below that of the tokenizer."""
    save(folder, [Pooling(WIDTH)])
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    return reference(folder, {"truncate": True}, {"max_length": 16})


def old_layout(folder: Path) -> Reference:
    """The layout of early releases, in which the transformer has a folder of its own."""
    parts = [f"{i}_{name}" for i, name in enumerate(("Transformer", "Pooling", "Dense"))]
    transformer = folder / parts[0]
    save_text_model(transformer, BertModel, BertConfig(**BERT))
    options = {"max_seq_length": 128, "do_lower_case": False}
    (transformer / "sentence_bert_config.json").write_text(json.dumps(options))
    (folder / parts[1]).mkdir()
    flags = {"cls_token": False, "mean_tokens": False, "max_tokens": True}
    config = {f"pooling_mode_{name}": value for name, value in flags.items()}
    config |= {"pooling_mode_mean_sqrt_len_tokens": False, "word_embedding_dimension": WIDTH}
    (folder / parts[1] / "config.json").write_text(json.dumps(config))
    (folder / parts[2]).mkdir()
    torch.manual_seed(0)
    Dense(WIDTH, 8).save(str(folder / parts[2]))
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": part,
            "type": f"sentence_transformers.models.{part[2:]}",
        }
        for i, part in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return reference(folder, record={"pooling": "max", "modules": ["Dense"], "max_length": 128})


def minilm(folder: Path) -> Reference:
    """all-MiniLM-L6-v2, without any parameter."""
    shutil.copytree(minilm_folder(), folder, dirs_exist_ok=True)
    return reference(folder, record={"pooling": "mean", "normalize": True, "max_length": 256})


def _name(mode: Any) -> str:
    return (mode if isinstance(mode, str) else "-and-".join(mode)).replace("_", "-")


CASES: Final = (
    Case("all-minilm-l6-v2", minilm),
    *(Case(f"pooling-{_name(mode)}", partial(pooling, mode)) for mode in (*MODES, *CONCATENATIONS)),
    *(
        Case(f"pooling-{_name(mode)}-without-prompt", partial(pooling_without_prompt, mode))
        for mode in (*MODES, *CONCATENATIONS)
    ),
    Case("prompt-default", partial(prompt, {}, {})),
    *(
        Case(f"prompt-{name}", partial(prompt, fields, fields))
        for name, fields in (
            ("named", {"prompt_name": "passage"}),
            ("of-the-request", {"prompt": "Answer: "}),
            ("none", {"prompt": ""}),
        )
    ),
    *(Case(f"dense-{name.lower()}", partial(dense, name)) for name in ACTIVATIONS),
    Case("dense-normalize", dense_normalize),
    Case("dense-residual", residual),
    Case("layer-norm", layer_norm),
    Case("static-embedding", partial(static_embedding, ())),
    Case(
        "static-embedding-dense-normalize",
        partial(static_embedding, (partial(Dense, 24, 8), Normalize)),
    ),
    Case("lower-case", lower_case),
    Case("max-length", max_length),
    Case("old-layout", old_layout),
)
