"""Loads the transformers model of an image encoder, and runs its forward pass."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModel

from stitchwork.errors import InvalidInputError
from stitchwork.models.folder_checks import release_noted
from stitchwork.models.matryoshka import cut_and_normalize
from stitchwork.models.pooling import pool
from stitchwork.models.pretrained_weights import load_weights
from stitchwork.models.projections import (
    FEATURES,
    accepts,
    architecture,
    has_projection,
    has_two_towers,
    project,
    read_config,
    remove_unused,
    tower_class,
)
from stitchwork.models.sentence_transformers_files import refusal
from stitchwork.models.vision_heads import replace_classifier
from stitchwork.models.vision_preprocessing import PIXELS, split_patches
from stitchwork.resources import TokenPooling, VisionEncoder, VisionPooling

CLASSIFIER_SUFFIXES: Final = ("ForImageClassification", "ForImageClassificationWithTeacher")
CLASS_TOKENS: Final = ("cls_token", "class_embedding")
"""Ends of the names of class tokens among a model's parameters."""
RESIZING: Final = "interpolate_pos_encoding"
"""The argument that lets a model resize its position embeddings to those of an input."""


class VisionModel(torch.nn.Module):
    """Maps prepared images to embeddings (n, dim) float32.

    Args:
        model: A transformers model in evaluation mode.
        modules: What follows the pooling.
        spec: The encoder, completed by the model's files.
        has_patches: Whether its inputs are patches.
        resizes: Whether inputs have another side than the model's files say.
    """

    def __init__(
        self,
        model: Any,
        modules: torch.nn.Module,
        spec: VisionEncoder,
        has_patches: bool = False,
        resizes: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.after = modules
        self._spec = spec
        self._modes = vision_modes(spec.pooling)
        self.token_modes = token_modes(self._modes)
        self._has_patches = has_patches
        method = getattr(model, FEATURES["image"], None) if "projection" in self._modes else None
        self.options = resizing_options(method or model.forward, resizes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, dim) of prepared images, stacked."""
        fields = split_patches(inputs) if self._has_patches else {PIXELS: inputs}
        return self.embeddings(self.rows(**fields))

    def rows(self, **fields: torch.Tensor) -> torch.Tensor:
        """Pooled rows (n, d) of the inputs of the model."""
        if "projection" in self._modes:
            return project(self.model, "image", **fields, **self.options).float()
        output = self.model(**fields, **self.options)
        if not self.token_modes:
            # The classifier itself was removed.
            is_classifier = "classifier" in self._modes
            rows: torch.Tensor = output.logits if is_classifier else output.pooler_output
            return rows.flatten(1).float()
        hidden = as_tokens(output)
        mask = torch.ones(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        return pool(hidden, mask, mask.sum(dim=1), self.token_modes)

    def hidden_states(self, **fields: torch.Tensor) -> torch.Tensor:
        """The last hidden states (n, t, d) of the inputs of the model."""
        return as_tokens(self.model(**fields, **self.options))

    def embeddings(self, rows: torch.Tensor) -> torch.Tensor:
        """Pooled rows (n, d) as embeddings (n, dim)."""
        return cut_and_normalize(self._spec, self.after(rows))


def as_tokens(output: Any) -> torch.Tensor:
    """The last hidden states (n, t, d) of a model's output, which may be maps (n, d, h, w)."""
    hidden: torch.Tensor = output.last_hidden_state.float()
    return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden


def resizing_options(function: Any, resizes: bool) -> dict[str, Any]:
    """The arguments that let a model take another input size than its files say."""
    return {RESIZING: True} if resizes and accepts(function, RESIZING) else {}


def vision_modes(
    pooling: VisionPooling | tuple[TokenPooling, ...] | None,
) -> tuple[VisionPooling, ...]:
    """The modes of a pooling, whose results are concatenated."""
    return (pooling,) if isinstance(pooling, str) else tuple(pooling or ())


def token_modes(modes: Sequence[VisionPooling]) -> tuple[TokenPooling, ...]:
    """The modes that pool hidden states."""
    return tuple(
        mode for mode in modes if mode != "projection" and mode != "pooler" and mode != "classifier"
    )


def load_vision_model(
    spec: VisionEncoder, folder: Path, fields: Mapping[str, torch.Tensor], resizes: bool
) -> tuple[VisionEncoder, Any]:
    """The model whose output is pooled, and the spec with the pooling in force.

    Where neither the request nor the model's other files name a pooling, it is the input of the
    classifier if the model has one, else the projection of an image tower, else the pooler's output
    if the files have its weights, else the class token, else the mean.

    Args:
        spec: The encoder.
        folder: The folder of the transformer.
        fields: Inputs of the model.
        resizes: Whether they have another side than the model's files say.

    Returns:
        The completed spec, and the model in evaluation mode: of two towers only that of images, and
        without its classifier.

    Raises:
        InvalidInputError: If the pooling is not one of the model's.
        JobFailedError: If the folder cannot be loaded as it is, or its weights do not fit.
    """
    with release_noted(folder):
        config = read_config(folder)
        if spec.pooling is None:
            spec = spec.model_copy(update={"pooling": _own_pooling(config)})
        if spec.pooling == "classifier":
            model = load_classifier(spec.model, folder, config)
            replace_classifier(spec.model, model)
        elif spec.pooling == "projection":
            model = load_weights(spec.model, tower_class(spec.model, config, "image"), folder)
            with torch.no_grad():
                method = getattr(model, FEATURES["image"], model.forward)
                remove_unused(model, "image", **fields, **resizing_options(method, resizes))
        else:
            spec, model = _load_base_model(spec, folder, config, fields, resizes)
    return spec, model


def _own_pooling(config: Any) -> VisionPooling | None:
    """The pooling that a model's class stands for; None if it is a base model."""
    if architecture(config).endswith(CLASSIFIER_SUFFIXES):
        return "classifier"
    return "projection" if has_projection(config, "image") else None


def _load_base_model(
    spec: VisionEncoder,
    folder: Path,
    config: Any,
    fields: Mapping[str, torch.Tensor],
    resizes: bool,
) -> tuple[VisionEncoder, Any]:
    """A model without its head, and the spec with its pooling."""
    model = load_weights(spec.model, AutoModel, folder, unused_pooler=spec.pooling != "pooler")
    if has_two_towers(config):
        model = model.vision_model
    if model.main_input_name != PIXELS:
        raise refusal(
            spec.model,
            f"it is not a model of images: its input is {model.main_input_name}, expected {PIXELS}",
        )
    if spec.pooling not in (None, "pooler"):
        return spec, model
    with torch.no_grad():
        output = model(**fields, **resizing_options(model.forward, resizes))
    pooled = getattr(output, "pooler_output", None) is not None
    if spec.pooling == "pooler":
        if not pooled:
            raise InvalidInputError(f"pooling: {spec.model} ({config.model_type}) has no pooler")
        return spec, model
    names = [name for name, _ in model.named_parameters()]
    if any(name.startswith("pooler.") for name in names):
        pooled = pooled and _stores_pooler(folder)
    has_class_token = any(name.endswith(CLASS_TOKENS) for name in names)
    pooling: VisionPooling = "pooler" if pooled else "cls" if has_class_token else "mean"
    return spec.model_copy(update={"pooling": pooling}), model


def _stores_pooler(folder: Path) -> bool:
    """Whether the weights of a folder include those of a pooler."""
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt", backend="pread") as weights:
            if any("pooler." in name for name in weights.keys()):  # noqa: SIM118 it is no mapping
                return True
    return False


def load_classifier(name: str, folder: Path, config: Any) -> Any:
    """A model with its classifier.

    Raises:
        InvalidInputError: If it has none.
    """
    own = architecture(config)
    if not own.endswith(CLASSIFIER_SUFFIXES):
        raise InvalidInputError(f"{name} ({own or config.model_type}) has no classifier of images")
    return load_weights(name, getattr(transformers, own), folder, unused_pooler=False)
