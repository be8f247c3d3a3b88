"""The encoder of a space of a small text model, as a process that embeds in bulk has it."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertConfig, BertModel

from stitchwork.migration.space_encoder import Probe, SpaceEncoder
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.resources import TextEncoder
from tests.support.text_models import BERT, save_text_model

MAX_TOKENS = 24
DIMENSION: int = BERT["hidden_size"]
PROBE_TEXTS = ("the word", "two longer words")


def save_model(folder: Path) -> TextEncoder:
    """Write a model; its spec."""
    folder.mkdir(parents=True, exist_ok=True)
    save_text_model(folder, BertModel, BertConfig(**BERT))
    return TextEncoder(model=str(folder), max_length=MAX_TOKENS)


@cache
def open_encoders(folder: Path) -> tuple[EncoderCache, int]:
    """What loads the models of a folder, and a small batch; one in each process."""
    return EncoderCache("cpu", [folder], offline=True, compile_models=False), 8


def embed(spec: TextEncoder, texts: list[str], *, truncate: bool | None = None) -> Any:
    """(n, 32) embeddings, each text by itself."""
    encoders, _ = open_encoders(Path(spec.model).parent)
    loaded = encoders.get(spec)
    rows = [
        loaded.batcher.embed(loaded.encoder.prepare([text], truncate=truncate), 1) for text in texts
    ]
    return np.concatenate([row.cpu().numpy() for row in rows])


def make_encoder(spec: TextEncoder, **fields: Any) -> SpaceEncoder:
    """The encoder of a space `s` of a version `s1`.

    Args:
        spec: The encoder.
        fields: Other fields than those of this space.
    """
    folder = Path(spec.model).parent
    encoders, _ = open_encoders(folder)
    defaults = {
        "space": "s",
        "version": "s1",
        "spec": spec,
        "dtype": "float32",
        "dimension": DIMENSION,
        "files_digest": encoders.get(spec).files_digest,
        "input_type": None,
        "truncate": None,
        "probe": Probe(PROBE_TEXTS, embed(spec, list(PROBE_TEXTS)), MAX_TOKENS),
        "open_encoders": partial(open_encoders, folder),
    }
    return SpaceEncoder(**{**defaults, **fields})
