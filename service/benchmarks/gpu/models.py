"""Models of real shapes with random weights, and their inputs; nothing is downloaded."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from stitchwork.evaluation.sentences import sentences
from stitchwork.resources import EncoderSpec, ImageEncoder, Item, TextEncoder

SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_TOKENS: Final = 512


@dataclass(frozen=True)
class BenchmarkModel:
    """A model on disk.

    Attributes:
        name: Its name in the table.
        files: Its folder, or its file of weights.
        architecture: The architecture of a timm model; None for a BERT.
        dim: Width of its embeddings.
    """

    name: str
    files: Path
    architecture: str | None
    dim: int

    @property
    def spec(self) -> EncoderSpec:
        """The encoder of this model."""
        if self.architecture:
            return ImageEncoder(model=self.architecture, weights=str(self.files))
        return TextEncoder(model=str(self.files), pooling="mean")

    def items(self, count: int) -> list[Item]:
        """Inputs: sentences, or pictures of noise."""
        if self.architecture:
            return [*_pictures(count)]
        texts = sentences(min(count, MAX_TOKENS))
        return [texts[i % len(texts)] for i in range(count)]


def write_models(folder: Path, *, small: bool) -> list[BenchmarkModel]:
    """Write the models.

    Args:
        folder: Where they go.
        small: Write models of few weights instead, which a CPU computes in moments.

    Returns:
        Two BERTs, of the shapes of MiniLM and of BERT-base, and a ViT.
    """
    if small:
        return [
            write_bert(folder / "small", "small BERT", layers=2, width=64),
            write_bert(folder / "wide", "wide BERT", layers=2, width=128),
            write_vit(folder / "vit.safetensors", "small ViT", "test_vit"),
        ]
    return [
        write_bert(folder / "minilm", "MiniLM shape", layers=6, width=384),
        write_bert(folder / "base", "BERT-base shape", layers=12, width=768),
        write_vit(folder / "vit.safetensors", "ViT-B/16", "vit_base_patch16_224"),
    ]


def write_bert(folder: Path, name: str, *, layers: int, width: int) -> BenchmarkModel:
    """Write a BERT with random weights, and a tokenizer of the words of the sentences."""
    import torch
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted({word for text in sentences(MAX_TOKENS) for word in text.lower().split()})
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *words))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ids = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ids)
    roles = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL_TOKENS, strict=True))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in roles.items()},
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32 if width < 768 else 12,
        intermediate_size=4 * width,
    )
    BertModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return BenchmarkModel(name, folder, None, width)


def write_vit(file: Path, name: str, architecture: str) -> BenchmarkModel:
    """Write a vision transformer of timm with random weights."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model: Any = timm.create_model(architecture, pretrained=False)
    save_file(model.state_dict(), file)
    return BenchmarkModel(name, file, architecture, model.num_features)


def _pictures(count: int) -> Sequence[bytes]:
    rng = np.random.default_rng(0)
    files = list[bytes]()
    for _ in range(min(count, 16)):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "JPEG")
        files.append(file.getvalue())
    return [files[i % len(files)] for i in range(count)]
