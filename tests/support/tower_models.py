"""Small transformers models of texts and images with random weights, as their library saves them.

Their tokenizers are made here: byte pairs as CLIP has them, and sentencepiece models.
"""

import io
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import sentencepiece
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    PreTrainedModel,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipTokenizer,
)

CORPUS: Final = (
    "the train to the coast was late again and nobody could say why",
    "which of the two accounts was charged twice",
    "a much longer text which is padded far less than the others",
    "two words and a photo of a cat on a mat, with tea and without sugar",
    "The quick brown fox jumps over the lazy dog. How do I reset my card?",
    string.ascii_letters + string.digits,
)
SMALL: Final = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
"""Fields of the config of a small transformer."""
IMAGE_SIDE: Final = 32
VISION: Final = {**SMALL, "image_size": IMAGE_SIDE, "patch_size": 8}
"""Fields of the config of a small vision transformer."""


def randomize(model: PreTrainedModel) -> Any:
    """A model in evaluation mode, with weights that let its rows differ by input."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim >= 2 else 0.1
            noise = scale * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + noise)
    return model.eval()


def sentence_pieces(folder: Path, name: str = "spiece.model", **options: Any) -> Path:
    """Write a small sentencepiece model, with the ids of special tokens that T5 has."""
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    options = {"vocab_size": 120, "hard_vocab_limit": False, **ids, **options}
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=buffer,
        minloglevel=2,
        **options,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(buffer.getvalue())
    return path


def clip_tokenizer(max_length: int = 77) -> CLIPTokenizer:
    """A CLIP tokenizer of single characters."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*characters, *(f"{character}</w>" for character in characters)]
    tokens = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=max_length)


def save_clip(folder: Path, **processor: Any) -> CLIPModel:
    """Write a CLIP with its processor, and return it.

    Args:
        folder: The folder.
        processor: Options of the image processor.
    """
    tokenizer = clip_tokenizer()
    end = tokenizer.eos_token_id
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    ids = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config={**text, **ids, "projection_dim": 24},
        vision_config={**VISION, "projection_dim": 24},
        projection_dim=24,
    )
    model = randomize(CLIPModel(config))
    model.save_pretrained(folder)
    size = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    images = CLIPImageProcessor(**{**size, **processor})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    images.save_pretrained(folder)
    return model


def save_siglip(folder: Path, *, max_length: int = 48) -> SiglipModel:
    """Write a SigLIP with a sentencepiece tokenizer and an image processor, and return it."""
    tokenizer = SiglipTokenizer(
        str(sentence_pieces(folder)), model_max_length=max_length, model_input_names=["input_ids"]
    )
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": max_length}
    ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 1, "projection_size": 32}
    model = randomize(
        SiglipModel(SiglipConfig(text_config={**text, **ids}, vision_config=dict(VISION)))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def save_siglip2(folder: Path, tokenizer: Any, *, max_length: int = 80) -> Siglip2Model:
    """Write a SigLIP2 that keeps the aspect ratio of images (NaFlex), and return it."""
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": max_length}
    vision: Mapping[str, Any] = {**SMALL, "patch_size": 8, "num_patches": 16}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "projection_size": 32}
    model = randomize(
        Siglip2Model(Siglip2Config(text_config={**text, **ids}, vision_config=dict(vision)))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=20).save_pretrained(folder)
    return model


def siglip2_tokenizer(padding_side: str) -> Siglip2Tokenizer:
    """A SigLIP2 tokenizer of single characters, which pads on a side."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = [*specials, "▁", *string.ascii_lowercase, *string.digits, *string.punctuation]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return Siglip2Tokenizer(
        vocab=vocabulary,
        merges=[],
        padding_side=padding_side,
        model_max_length=80,
        model_input_names=["input_ids"],
    )
