"""Pooled features of timm models, and their width."""

from collections.abc import Callable
from typing import Any, Final

import torch

from stitchwork.errors import InvalidInputError
from stitchwork.models.memory import is_out_of_memory
from stitchwork.models.timm_config import LIBRARY_ERRORS, reason
from stitchwork.resources import ImageEncoder

SAMPLE_SEED: Final = 0


def pooling(model: Any) -> str | None:
    """The pooling of a model, as timm writes it to a config.json."""
    head = getattr(model, "head", None)
    for pool in (
        getattr(head, "global_pool", None),
        getattr(head, "pool_type", None),
        getattr(model, "global_pool", None),
    ):
        name = getattr(pool, "pool_type", pool)
        if isinstance(name, str):
            return name
    return None


def sample_pixels(count: int, size: tuple[int, ...]) -> torch.Tensor:
    """Inputs of a model for comparisons, the same each time.

    Returns:
        (count, *size) float32, standard normal.
    """
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    return torch.randn(count, *size, generator=generator)


def announced_width(model: Any) -> int:
    """The width that timm states for a model's pooled features without classifier.

    Some heads keep a hidden layer between the features and the classifier.
    """
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def remove_classifier(spec: ImageEncoder, model: Any) -> None:
    """Remove the classifier of a model, so that it returns its pooled features.

    Raises:
        InvalidInputError: If the model is not made for classification.
    """
    if not hasattr(model, "reset_classifier"):
        raise InvalidInputError(
            f"{spec.model} is not a model with pooled features: timm cannot remove its classifier"
        )
    model.reset_classifier(0)


def library_features(spec: ImageEncoder, model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What timm itself calls the features of a model, of each image alone.

    Args:
        spec: The encoder.
        model: The model with its classifier.
        pixels: (n, channels, height, width).

    Returns:
        (n, d), if the model pools its features.

    Raises:
        InvalidInputError: If the model fails.
    """

    def features(image: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = model.forward_head(model.forward_features(image), pre_logits=True)
        return rows

    return torch.cat([_run(spec, features, image[None]) for image in pixels])


def compute_features(spec: ImageEncoder, model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Pooled features (n, d) of a model without classifier, on the model's device.

    Raises:
        InvalidInputError: If the model fails, or returns other than one row of the announced
            width for each image.
    """
    rows = _run(spec, model, pixels)
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2:
        shape = tuple(rows.shape) if isinstance(rows, torch.Tensor) else type(rows).__name__
        raise InvalidInputError(
            f"expected one row of features an image from {spec.model}, got {shape}: it does not "
            "pool its features"
        )
    width = announced_width(model)
    # Pooling that concatenates two results doubles the width, which timm announces for some models.
    concatenates = (pooling(model) or "").startswith("cat")
    if rows.shape[1] not in ((width, 2 * width) if concatenates else (width,)):
        raise InvalidInputError(
            f"timm announces {width} features for {spec.model}, its forward pass has "
            f"{rows.shape[1]}"
        )
    return rows


def _run(spec: ImageEncoder, function: Callable[[torch.Tensor], Any], pixels: torch.Tensor) -> Any:
    try:
        with torch.inference_mode():
            return function(pixels)
    except LIBRARY_ERRORS as error:
        if is_out_of_memory(error):
            raise
        size = " x ".join(str(side) for side in pixels.shape[1:])
        raise InvalidInputError(
            f"{spec.model} cannot embed images of {size}: {reason(error)}"
        ) from error
