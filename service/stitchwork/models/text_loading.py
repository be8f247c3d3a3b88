"""Loads the transformers model of a text encoder: a base model, an encoder, or a tower."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from stitchwork.errors import InvalidInputError
from stitchwork.models.folder_checks import check_folder, release_noted
from stitchwork.models.pretrained_weights import load_base_model, load_weights
from stitchwork.models.projections import (
    BARE_TOWERS,
    PADDED_MODELS,
    architecture,
    base_class,
    project,
    read_config,
    remove_unused,
    tower_class,
)
from stitchwork.models.sentence_transformers_files import refusal
from stitchwork.models.text_models import hidden_states
from stitchwork.resources import PoolingMode, TextEncoder

INPUT: Final = "input_ids"
"""The input of models of texts."""


def load_text_model(spec: TextEncoder, folder: Path, modes: Sequence[PoolingMode]) -> Any:
    """The model whose hidden states, or whose projections, are embeddings.

    Args:
        spec: The encoder, completed by the model's files.
        folder: The folder of the transformer.
        modes: The pooling modes.

    Returns:
        The model in evaluation mode; of two towers only that of texts.

    Raises:
        InvalidInputError: If the pooling or the layer is not one of the model's.
        JobFailedError: If the folder cannot be loaded as it is, or its weights do not fit.
    """
    check_folder(spec.model, folder)
    with release_noted(folder):
        config = read_config(folder)
        if "projection" in modes:
            return _load_tower(spec, folder, config)
        _check_input(spec.model, config)
        model = load_base_model(spec.model, folder)
    disable_cache(model.config)
    return model


def _check_input(name: str, config: Any) -> None:
    """Refuse a model whose input is not texts."""
    model_class = base_class(config)
    main_input = getattr(model_class, "main_input_name", INPUT)
    if main_input != INPUT:
        kind = ": use an encoder of kind transformers-vision" if "pixel" in main_input else ""
        raise refusal(name, f"it is not a model of texts: its input is {main_input}{kind}")


def _load_tower(spec: TextEncoder, folder: Path, config: Any) -> Any:
    if spec.layer != -1:
        raise InvalidInputError(
            f"layer: expected -1 for pooling projection of {spec.model}, got {spec.layer}"
        )
    model = load_weights(spec.model, tower_class(spec.model, config, "text"), folder)
    sample = torch.ones((1, 4), dtype=torch.int64)
    with torch.no_grad():
        remove_unused(model, "text", input_ids=sample)
    return model


def check_projection(name: str, config: Any) -> None:
    """Refuse a text tower that was saved without its projection, if nothing names a pooling.

    Raises:
        InvalidInputError: If it is one.
    """
    own = architecture(config)
    if own in BARE_TOWERS:
        raise InvalidInputError(
            f"pooling: {name} is a {own}, which lacks the projection to the space of the images: "
            f"save {own}WithProjection or the model with both towers, or name a pooling"
        )


def needs_full_length(config: Any, modes: Sequence[PoolingMode]) -> bool:
    """Whether texts are padded to the maximum length, as the model was trained."""
    return "projection" in modes and config.model_type in PADDED_MODELS


@torch.no_grad()
def pooled_width(
    model: Any, spec: TextEncoder, modes: Sequence[PoolingMode], fields: Mapping[str, Any]
) -> int:
    """The width of pooled rows.

    Args:
        model: The model.
        spec: The encoder.
        modes: The pooling modes, whose results are concatenated.
        fields: What the model's tokenizer gives for a text.

    Raises:
        InvalidInputError: If the model has no such layer.
    """
    if "projection" in modes:
        return project(model, "text", **fields).shape[1]
    layers = int(getattr(model.config, "num_hidden_layers", 0) or 0)
    if layers and not -layers - 1 <= spec.layer <= layers:
        raise InvalidInputError(
            f"layer: expected 0 to {layers} for {spec.model}, or -1 to {-layers - 1} from the end, "
            f"got {spec.layer}"
        )
    return hidden_states(model, spec.layer, **fields).shape[2] * len(modes)


def disable_cache(config: Any) -> None:
    """Let a decoder, and the models that it consists of, keep no keys and values of a pass."""
    if hasattr(config, "use_cache"):
        config.use_cache = False
    for name in getattr(config, "sub_configs", {}):
        if (part := getattr(config, name, None)) is not None:
            disable_cache(part)
