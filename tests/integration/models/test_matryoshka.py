"""Embeddings that are cut: equal to sentence-transformers, and only for models made for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel

from stitchwork.errors import InvalidInputError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import Floats, TextEncoder
from tests.support.tower_models import SMALL

pytestmark = pytest.mark.models

TEXTS = ["A b", "a much longer text, which is padded far less", "two words"]


@pytest.fixture
def transformer(tmp_path: Path) -> Path:
    """The folder of a small BERT with random weights."""
    folder = tmp_path / "bert"
    torch.manual_seed(0)
    BertModel(BertConfig(**SMALL, vocab_size=30522)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return folder


def pin(folder: Path, **fields: Any) -> TextEncoder:
    spec = EncoderCache("cpu", [folder], offline=True).pin(TextEncoder(model=str(folder), **fields))
    assert isinstance(spec, TextEncoder)
    return spec


def embed(folder: Path, **fields: Any) -> Floats:
    encoders = EncoderCache("cpu", [folder], offline=True, compile_models=False)
    loaded = encoders.get(pin(folder, **fields))
    rows = loaded.batcher.embed(loaded.encoder.prepare(TEXTS), 8).numpy()
    assert loaded.encoder.dim == rows.shape[1]
    return rows


def change_config(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def save(folder: Path, modules: list[Any], **options: Any) -> SentenceTransformer:
    model = SentenceTransformer(modules=modules, device="cpu", **options).eval()
    model.save(str(folder))
    return model


def test_dimensions_of_the_files_are_in_force_and_equal_the_library(
    transformer: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "st"
    modules = [Transformer(str(transformer)), Pooling(32)]
    model = save(folder, modules, truncate_dim=12)
    spec = pin(folder)
    assert (spec.dimensions, spec.matryoshka) == (12, True)
    np.testing.assert_allclose(embed(folder), model.encode(TEXTS), rtol=1e-4, atol=1e-5)
    whole = SentenceTransformer(modules=modules, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(embed(folder, matryoshka=False), whole, rtol=1e-4, atol=1e-5)
    expected = model.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    rows = embed(folder, dimensions=8, normalize=True)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


def test_cut_embeddings_of_a_model_that_normalises_have_unit_length(
    transformer: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "st"
    model = save(folder, [Transformer(str(transformer)), Pooling(32), Normalize()])
    expected = model.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    rows = embed(folder, dimensions=8, matryoshka=True)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


def test_a_static_embedding_is_cut_as_its_library_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    model = save(tmp_path, [StaticEmbedding(tokenizer, embedding_dim=24)], truncate_dim=6)
    np.testing.assert_allclose(embed(tmp_path), model.encode(TEXTS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("files", "matryoshka"),
    [
        ({}, False),
        ({"is_matryoshka": True}, True),
        ({"matryoshka_dimensions": [8, 16]}, (8, 16)),
    ],
)
def test_a_model_says_in_its_config_what_it_is_made_for(
    transformer: Path, files: dict[str, Any], matryoshka: Any
) -> None:
    change_config(transformer, **files)
    assert pin(transformer).matryoshka == matryoshka
    assert embed(transformer).shape == (3, 32)


def test_a_model_card_of_the_library_names_the_dimensions_that_were_trained(
    transformer: Path,
) -> None:
    (transformer / "README.md").write_text(
        '* Loss: MatryoshkaLoss with these parameters:\n```json\n{\n    "loss": "CoSENTLoss",\n'
        '    "matryoshka_dims": [\n        32,\n        16,\n        8\n    ],\n    "n": 1\n}\n'
    )
    assert pin(transformer).matryoshka == (32, 16, 8)
    assert embed(transformer, dimensions=16).shape == (3, 16)


def test_dimensions_that_a_model_is_not_made_for_are_refused(transformer: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"nothing says .* may be cut to 8 dimensions"):
        embed(transformer, dimensions=8)
    assert embed(transformer, dimensions=32).shape == (3, 32)
    change_config(transformer, matryoshka_dimensions=[16])
    with pytest.raises(InvalidInputError, match=r"expected one of 16, which .* got 8"):
        embed(transformer, dimensions=8)
    assert embed(transformer, dimensions=8, matryoshka=True).shape == (3, 8)
    with pytest.raises(InvalidInputError, match="expected at most 32, the width of"):
        embed(transformer, dimensions=33)
