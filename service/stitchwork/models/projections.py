"""Towers of models that embed texts and images in one space, such as CLIP and SigLIP."""

import inspect
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError
from stitchwork.models.pretrained_weights import LOCAL_FILES_ONLY
from stitchwork.resources import Modality

FEATURES: Final = {"text": "get_text_features", "image": "get_image_features"}
"""Methods of a model with two towers that embed an input of each modality."""
EMBEDDINGS: Final = {"text": "text_embeds", "image": "image_embeds"}
"""Outputs of a tower that was saved alone with its projection."""
PROJECTED_TOWERS: Final = {"text": "TextModelWithProjection", "image": "VisionModelWithProjection"}
"""Ends of the classes of such towers."""
BARE_TOWERS: Final = frozenset({"CLIPTextModel", "MetaClip2TextModel", "ChineseCLIPTextModel"})
"""Text towers that were saved without their projection."""
POOLED_TOWERS: Final = frozenset({"SiglipTextModel", "Siglip2TextModel"})
"""Text towers whose pooler is their projection."""
PADDED_MODELS: Final = frozenset({"siglip", "siglip2", "siglip_text_model", "siglip2_text_model"})
"""Types of models whose texts are always padded to the maximum length: they pool the last token."""


def architecture(config: Any) -> str:
    """The class that a model was saved from; empty if its config names none."""
    return str((getattr(config, "architectures", None) or [""])[0])


def read_config(folder: Path) -> Any:
    """The transformers config of a folder."""
    return AutoConfig.from_pretrained(folder, **LOCAL_FILES_ONLY)


def base_class(config: Any) -> Any:
    """The class of a config's model without a head; None if there is none."""
    names = MODEL_MAPPING_NAMES.get(config.model_type, "")
    return getattr(transformers, names if isinstance(names, str) else names[0], None)


def has_two_towers(config: Any) -> bool:
    """Whether transformers' model of a config embeds texts and images in one space."""
    model_class = base_class(config)
    return all(hasattr(model_class, method) for method in FEATURES.values())


def has_projection(config: Any, modality: Modality) -> bool:
    """Whether a model's files have the tower of a modality, with its projection."""
    own = architecture(config)
    if own.endswith(PROJECTED_TOWERS[modality]) or (modality == "text" and own in POOLED_TOWERS):
        return True
    return has_two_towers(config)


def tower_class(name: str, config: Any, modality: Modality) -> type[Any]:
    """The class that a tower with its projection is loaded by.

    Raises:
        InvalidInputError: If the model has none.
    """
    if not has_projection(config, modality):
        raise InvalidInputError(
            f"pooling: expected another than projection, since {name} ({config.model_type}) has no "
            f"{modality} tower with a projection"
        )
    own = architecture(config)
    is_alone = own in POOLED_TOWERS or own.endswith(PROJECTED_TOWERS[modality])
    loaded: type[Any] = getattr(transformers, own) if is_alone else base_class(config)
    return loaded


def project(model: Any, modality: Modality, **inputs: Any) -> torch.Tensor:
    """The embeddings (n, d) of a tower, as its library's model gives them."""
    method = getattr(model, FEATURES[modality], None)
    output = (method or model)(**inputs)
    if isinstance(output, torch.Tensor):
        return output
    rows: Any = None
    if method is None:
        rows = getattr(output, EMBEDDINGS[modality], None)
    if rows is None:
        rows = getattr(output, "pooler_output", None)
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2:
        raise JobFailedError(
            f"{type(model).__name__} does not embed {modality}s as one row each",
            code=ErrorCode.LOAD_FAILED,
        )
    return rows


def remove_unused(model: Any, modality: Modality, **inputs: Any) -> None:
    """Remove the modules of a model that embedding a modality does not call.

    Args:
        model: The model.
        modality: The modality that it embeds from now on.
        inputs: Inputs of that modality.
    """
    used: set[str] = set()
    handles = [
        module.register_forward_hook(lambda *_, name=name: used.add(name))
        for name, module in model.named_children()
    ]
    try:
        project(model, modality, **inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, _ in list(model.named_children()):
        if name not in used:
            delattr(model, name)


def accepts(function: Any, argument: str) -> bool:
    """Whether a function has an argument of that name."""
    return argument in inspect.signature(function).parameters
