"""A registry with one anchor set, and a text encoder that needs no model files."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from stitchwork.errors import InvalidInputError
from stitchwork.models.batching import Batcher
from stitchwork.models.encoder import PreparedInputs
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.redis.client import RedisClient
from stitchwork.registry.registry import Registry
from stitchwork.resources import Floats, Item, Modality, TextEncoder

TEXTS = ("alpha", "beta", "gamma", "delta", "epsilon")
SPEC = TextEncoder(
    model="/no/such/model",
    pooling="mean",
    normalize=False,
    max_length=512,
    prompt="",
    prompts={},
    matryoshka=False,
    lower_case=False,
    modules=(),
)
"""An encoder that leaves nothing for its files to decide: none are read when it is pinned."""
DIM = 3


def embeddings(seed: int, dim: int = DIM) -> Floats:
    """Embeddings (5, dim) float32 of `TEXTS`."""
    return np.random.default_rng(seed).normal(size=(len(TEXTS), dim)).astype(np.float32)


class TableEncoder:
    """An encoder that looks up the embeddings of known texts, and refuses all others."""

    modality: Modality = "text"
    nbytes = 0
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, rows: Floats, texts: Sequence[str] = TEXTS) -> None:
        self._table: Mapping[str, int] = {text: i for i, text in enumerate(texts)}
        self._rows = torch.from_numpy(rows)
        self.dim = rows.shape[1]
        self.embedded = 0

    def prepare(
        self,
        items: Sequence[Item],
        *,
        truncate: bool | None = None,
        input_type: str | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> PreparedInputs:
        for i, item in enumerate(items):
            if item not in self._table:
                raise InvalidInputError("unknown text", pointer=f"/items/{i}")
        return PreparedInputs([torch.tensor([self._table[str(item)]]) for item in items])

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        self.embedded += len(inputs)
        return self._rows[torch.cat(list(inputs))]


def loaded(
    encoder: TableEncoder, files_digest: str = "", changes: str = "", **fields: Any
) -> LoadedEncoder:
    return LoadedEncoder(encoder, Batcher(encoder), 0.0, files_digest, changes, **fields)


@pytest.fixture
def registry(registry_server: RedisClient) -> Registry:
    """A registry with the anchor set `S` of `TEXTS`."""
    registry = Registry(registry_server, durable=False, stale_seconds=0.0)
    registry.declare_anchor_set("S", "text", items=list(TEXTS))
    return registry


@pytest.fixture
def encoders() -> EncoderCache:
    """An encoder cache that cannot load any encoder."""
    return EncoderCache("cpu", (), offline=True)
