"""Preprocessing of images as the image processor of a transformers model does it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from transformers import AutoImageProcessor

from stitchwork.errors import InvalidInputError
from stitchwork.models.pretrained_weights import LOCAL_FILES_ONLY
from stitchwork.models.sentence_transformers_files import refusal
from stitchwork.resources import VisionEncoder

PROCESSOR_FILES: Final = ("preprocessor_config.json", "processor_config.json")
CHANNELS: Final = 3
PIXELS: Final = "pixel_values"
PATCHES: Final = (PIXELS, "pixel_attention_mask", "spatial_shapes")
"""What a processor gives that keeps the aspect ratio and cuts an image into patches (NaFlex)."""
SHAPES: Final = ((64, 48), (48, 64), (40, 200))
"""Images that show whether a processor gives all of them one size."""


class VisionPreprocessor:
    """The image processor of a model, with what a declaration overrides.

    Args:
        spec: The encoder.
        folder: The folder of the model's files.

    Attributes:
        mean: The mean of each channel that is subtracted.
        std: The standard deviation of each channel that is divided by.
        shape: The shape of a prepared image.
        has_own_size: Whether the side of the input is that of the model's files.
        has_patches: Whether images are prepared as patches.

    Raises:
        JobFailedError: If the model has no image processor, or one that cannot be followed.
        InvalidInputError: If what is overridden does not fit the model.
    """

    def __init__(self, spec: VisionEncoder, folder: Path) -> None:
        if not any((folder / file).is_file() for file in PROCESSOR_FILES):
            raise refusal(
                spec.model, f"it has no image processor: expected a file {PROCESSOR_FILES[0]}"
            )
        self._name = spec.model
        self._processor: Any = AutoImageProcessor.from_pretrained(folder, **LOCAL_FILES_ONLY)
        self._options: dict[str, Any] = {}
        self.mean, self.std = self._statistics(spec)
        self.has_patches = set(self._fields(Image.new("RGB", SHAPES[0]))) == set(PATCHES)
        self.shape = self._shape()
        own = self.side
        self.has_own_size = spec.input_size in (None, own)
        if not self.has_own_size:
            self._resize(spec, own)
            self.shape = self._shape()
            if self.side != spec.input_size:
                raise InvalidInputError(
                    f"input_size: the image processor of {spec.model} cannot give images of "
                    f"{spec.input_size} pixels"
                )

    @property
    def side(self) -> int | None:
        """The side of the input in pixels; None if it is not square."""
        height, width = self.shape[-2:]
        return None if self.has_patches or height != width else height

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """An RGB image as pixels (c, h, w) float32, or as patches (p, values + 3).

        Patches have three more columns: whether the patch is one of the image, and the number of
        patches that the image has along its height and its width.
        """
        fields = self._fields(image)
        if self.has_patches:
            patches, mask, sides = (fields[name][0] for name in PATCHES)
            columns = (patches, mask[:, None], sides.expand(len(patches), 2))
            return torch.cat([part.float() for part in columns], dim=1)
        # A mask of an unpadded image has no effect.
        if PIXELS not in fields or fields[PIXELS].ndim != 4:
            raise refusal(
                self._name, f"its image processor gives {', '.join(fields)}, expected {PIXELS}"
            )
        pixels: torch.Tensor = fields[PIXELS][0]
        return pixels.float()

    def batch(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Prepared images as the inputs of the model."""
        stacked = torch.stack(list(inputs))
        return split_patches(stacked) if self.has_patches else {PIXELS: stacked}

    def _fields(self, image: Image.Image) -> Mapping[str, torch.Tensor]:
        """What the image processor gives for one image, as a batch of one."""
        fields: Mapping[str, torch.Tensor] = self._processor(
            images=image, return_tensors="pt", **self._options
        )
        return fields

    def _statistics(self, spec: VisionEncoder) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and the standard deviation of each channel that are in force."""
        normalizes = bool(getattr(self._processor, "do_normalize", False))
        own = (
            _per_channel("mean", self._processor.image_mean if normalizes else 0.0),
            _per_channel("std", self._processor.image_std if normalizes else 1.0),
        )
        mean = own[0] if spec.mean is None else _per_channel("mean", spec.mean)
        std = own[1] if spec.std is None else _per_channel("std", spec.std)
        if (mean, std) != own:
            statistics = {"image_mean": list(mean), "image_std": list(std)}
            self._options |= {"do_normalize": True, **statistics}
        return mean, std

    def _resize(self, spec: VisionEncoder, own: int | None) -> None:
        """Scale the sizes of the processor to another side of the input."""
        size, side = getattr(self._processor, "size", None), spec.input_size
        if own is None or side is None or size is None:
            raise InvalidInputError(
                f"input_size: {spec.model} has no square input of one size, expected none"
            )
        # A crop keeps its share of the resized image.
        self._options["size"] = {
            name: math.floor(value * side / own + 0.5) for name, value in dict(size).items()
        }
        if getattr(self._processor, "do_center_crop", False):
            self._options["crop_size"] = {"height": side, "width": side}

    def _shape(self) -> tuple[int, ...]:
        """The shape of prepared images.

        Raises:
            JobFailedError: If it depends on the image.
        """
        shapes = {
            tuple(self.prepare(Image.new("RGB", size, "white")).shape): size for size in SHAPES
        }
        if len(shapes) > 1:
            listed = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
            raise refusal(
                self._name,
                f"its image processor gives images of several sizes ({listed}), expected one: a "
                "height and a width, or a centre crop",
            )
        return next(iter(shapes))


def split_patches(stacked: torch.Tensor) -> dict[str, torch.Tensor]:
    """Patches (n, p, values + 3), as `VisionPreprocessor.prepare` gives them, as model inputs."""
    return {
        PATCHES[0]: stacked[:, :, :-3],
        PATCHES[1]: stacked[:, :, -3].to(torch.int32),
        PATCHES[2]: stacked[:, 0, -2:].long(),
    }


def _per_channel(name: str, values: Any) -> tuple[float, ...]:
    """One number for each of three channels.

    Raises:
        InvalidInputError: If there are neither one nor three numbers.
    """
    numbers = tuple(map(float, values)) if isinstance(values, (list, tuple)) else (float(values),)
    if len(numbers) not in (1, CHANNELS):
        raise InvalidInputError(f"{name}: expected 1 or {CHANNELS} numbers, got {len(numbers)}")
    return numbers * CHANNELS if len(numbers) == 1 else numbers
