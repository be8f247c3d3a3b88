"""Small models with random weights, saved by their own libraries, and changes to their files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.resources import (
    EncoderSpec,
    Floats,
    ImageEncoder,
    Item,
    TextEncoder,
    VisionEncoder,
)
from tests.support.images import file as image_file
from tests.support.images import picture
from tests.support.timm_models import save_random
from tests.support.tower_models import save_clip

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


def save_towers(folder: Path) -> Path:
    """Save a small CLIP."""
    save_clip(folder)
    return folder


def save_packaged_timm_model(folder: Path) -> Path:
    """Write the weights of a model that a Python package has."""
    folder.mkdir(parents=True, exist_ok=True)
    write_efficientnet_lite("tf_efficientnet_lite0", folder).rename(folder / WEIGHTS)
    return folder


def text_encoder(folder: Path) -> EncoderSpec:
    """The encoder of a folder with a text model."""
    return TextEncoder(model=str(folder))


class PlantedModel(NamedTuple):
    """A kind of model.

    Attributes:
        save: Saves a model of this kind to a folder, which is then returned.
        encoder: The encoder of that folder.
    """

    save: Callable[[Path], Path]
    encoder: Callable[[Path], EncoderSpec]


PLANTED_MODELS: Final[Mapping[str, PlantedModel]] = {
    "transformer": PlantedModel(save_transformer, text_encoder),
    "sharded": PlantedModel(save_sharded_transformer, text_encoder),
    "sentence-transformers": PlantedModel(save_sentence_transformer, text_encoder),
    "static": PlantedModel(save_static_embedding, text_encoder),
    "text-tower": PlantedModel(save_towers, text_encoder),
    "image-tower": PlantedModel(save_towers, lambda folder: VisionEncoder(model=str(folder))),
    "timm-folder": PlantedModel(
        save_timm_model, lambda folder: ImageEncoder(model=TIMM_MODEL, weights=str(folder))
    ),
    "timm-file": PlantedModel(
        save_timm_model,
        lambda folder: ImageEncoder(model=TIMM_MODEL, weights=str(folder / WEIGHTS)),
    ),
    "packaged": PlantedModel(
        save_packaged_timm_model,
        lambda folder: ImageEncoder(
            model="tf_efficientnet_lite0", weights=str(folder / WEIGHTS), input_size=32
        ),
    ),
}


def embed_samples(loaded: LoadedEncoder) -> Floats:
    """The rows of a few texts or images."""
    items: list[Item] = ["A b", "a much longer text than the others"]
    if loaded.encoder.modality == "image":
        items = [image_file(picture()), image_file(picture(9, 9))]
    rows: Floats = loaded.batcher.embed(loaded.encoder.prepare(items), 8).numpy()
    return rows


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, in order."""
    return sorted(folder.rglob("*.safetensors"))


def other_weights(file: Path) -> bytes:
    """The content of a safetensors file with other weights, and everything else as it was."""
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    for name, tensor in json.loads(content[8:start]).items():
        if name == "__metadata__" or tensor["dtype"] != "F32" or len(tensor["shape"]) < 2:
            continue
        first, stop = (start + offset for offset in tensor["data_offsets"])
        values = np.frombuffer(memoryview(content)[first:stop], np.float32)
        values += values.std() * rng.normal(size=values.shape).astype(np.float32)
    return bytes(content)


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
