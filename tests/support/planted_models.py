"""Small models with random weights, saved by their own libraries, and changes to their files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load, save
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

from stitchwork.models.packaged_encoders import minilm_folder
from tests.support.timm_models import save_random

WIDTH: Final = 32
TIMM_MODEL: Final = "test_vit"
WEIGHTS: Final = "model.safetensors"


def bert_config(**options: Any) -> BertConfig:
    """The config of a small BERT."""
    return BertConfig(
        vocab_size=30522,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        **options,
    )


def save_transformer(folder: Path) -> Path:
    """Save a small BERT with MiniLM's tokenizer."""
    torch.manual_seed(0)
    BertModel(bert_config()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return folder


def save_sharded_transformer(folder: Path) -> Path:
    """Save a small BERT in several files of weights."""
    torch.manual_seed(0)
    BertModel(bert_config()).save_pretrained(folder, max_shard_size="1MB")
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return folder


def save_text_classifier(folder: Path) -> Path:
    """Save a small BERT with a classifier of two labels."""
    torch.manual_seed(0)
    BertForSequenceClassification(bert_config()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return folder


def save_sentence_transformer(folder: Path) -> Path:
    """Save a small BERT with a pooling and a dense layer, each with files of its own."""
    base = save_transformer(folder.with_name(f"{folder.name}-base"))
    modules = [Transformer(str(base)), Pooling(WIDTH, "mean"), Dense(WIDTH, 16)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


def save_static_embedding(folder: Path) -> Path:
    """Save a static embedding with MiniLM's tokenizer."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    static = StaticEmbedding(tokenizer, embedding_dim=WIDTH)
    SentenceTransformer(modules=[static], device="cpu").save(str(folder))
    return folder


def save_timm_model(folder: Path) -> Path:
    """Save a small timm model."""
    folder.mkdir(parents=True, exist_ok=True)
    save_random(TIMM_MODEL, folder)
    return folder


TEXT_MODELS: Final[Mapping[str, Callable[[Path], Path]]] = {
    "transformer": save_transformer,
    "sharded": save_sharded_transformer,
    "sentence-transformers": save_sentence_transformer,
    "static": save_static_embedding,
}


def other_weights(file: Path, factor: float = -1.5) -> bytes:
    """The content of a safetensors file with other weights, of the same size."""
    content = file.read_bytes()
    generator = torch.Generator().manual_seed(1)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or tensor.ndim < 2:
            return tensor.clone()
        return tensor + factor * tensor.std() * torch.randn(tensor.shape, generator=generator)

    return save({name: change(part) for name, part in load(content).items()}, {"format": "pt"})


def overwrite(file: Path, content: bytes) -> None:
    """Write another content into the same file, as it is open elsewhere."""
    with file.open("r+b") as opened:
        opened.write(content)
        opened.truncate()


def replace(file: Path, content: bytes) -> None:
    """Put another file in the place of a file, by renaming."""
    other = file.with_name(f"{file.name}.new")
    other.write_bytes(content)
    other.replace(file)


def cut_short(file: Path) -> None:
    """Remove the second half of a file."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
