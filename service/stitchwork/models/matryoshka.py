"""Embeddings that are cut to their first dimensions, of models that are made for it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from stitchwork.errors import InvalidInputError
from stitchwork.resources import TransformersSpec

Spec = TypeVar("Spec", bound=TransformersSpec)

MODEL_CARD: Final = "README.md"
MODEL_CARD_DIMENSIONS: Final = re.compile(r'"matryoshka_dims":\s*\[([\d,\s]+)\]')
"""The dimensions that a model was trained for, in the model card of sentence-transformers."""


def resolve_dimensions(spec: Spec, folder: Path, model_folder: Path) -> Spec:
    """Complete a declaration by what the model's files say of cut embeddings.

    Args:
        spec: The declaration.
        folder: The folder of the files.
        model_folder: The folder of the transformer, in it or the same.
    """
    own = _read_json(folder / "config_sentence_transformers.json").get("truncate_dim")
    matryoshka = spec.matryoshka
    if matryoshka is None:
        matryoshka = _made_for(folder, model_folder)
        if own is not None:
            matryoshka = (*matryoshka, own) if isinstance(matryoshka, tuple) else True
    # Declared false, it keeps the whole embeddings of a model whose files cut them.
    dimensions = spec.dimensions or (own if matryoshka else None)
    return spec.model_copy(update={"matryoshka": matryoshka, "dimensions": dimensions})


def output_width(spec: TransformersSpec, width: int) -> int:
    """The width of embeddings, of which the model gives `width` dimensions.

    Raises:
        InvalidInputError: If the declaration asks for more, or for fewer and the model is not made
            to be cut to them.
    """
    if spec.dimensions is None or spec.dimensions == width:
        return width
    if spec.dimensions > width:
        raise InvalidInputError(
            f"dimensions: expected at most {width}, the width of {spec.model}, got "
            f"{spec.dimensions}"
        )
    spec.check_dimensions(spec.dimensions)
    return spec.dimensions


def cut_and_normalize(spec: TransformersSpec, rows: torch.Tensor) -> torch.Tensor:
    """Rows (n, width) as embeddings: cut, then scaled to unit length, where the spec says so."""
    if spec.dimensions is not None:
        rows = rows[:, : spec.dimensions]
    return torch.nn.functional.normalize(rows, dim=1) if spec.normalize else rows


def _made_for(folder: Path, model_folder: Path) -> bool | tuple[int, ...]:
    """The dimensions that a model's files name, or whether they say that any will do."""
    config = _read_json(model_folder / "config.json")
    if config.get("matryoshka_dimensions"):
        return tuple(int(dimensions) for dimensions in config["matryoshka_dimensions"])
    card = folder / MODEL_CARD
    match = (
        MODEL_CARD_DIMENSIONS.search(card.read_text(encoding="utf-8")) if card.is_file() else None
    )
    if match:
        return tuple(int(dimensions) for dimensions in match[1].split(",") if dimensions.strip())
    return bool(config.get("is_matryoshka"))


def _read_json(file: Path) -> Mapping[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
