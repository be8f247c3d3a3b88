"""Image encoders: timm models."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import timm
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import ImageNetInfo, create_transform, resolve_data_config

from stitchwork.errors import (
    ErrorCode,
    InputTooLargeError,
    InvalidInputError,
    UnsupportedFormatError,
)
from stitchwork.geometry.classifier import Classifier
from stitchwork.models.cuda_graphs import CudaGraphPass
from stitchwork.models.encoder import MAX_PIXELS, PreparedInputs, parameter_bytes
from stitchwork.models.memory import release_memory
from stitchwork.models.openvino_backend import ForwardPass, compile_forward
from stitchwork.resources import ImageEncoder, Item, Modality

FORMATS: Final = ("JPEG", "PNG", "WEBP")
JPEG_SIGNATURE: Final = b"\xff\xd8"
LARGE_PIXELS: Final = 16_000_000
"""After an image with more pixels than this, freed memory is returned to the system."""
MAX_SCANS: Final = 100
"""A progressive JPEG has about ten scans; each costs a pass over all pixels, however small."""
SCAN: Final = b"\xff\xda"
"""Marks the start of a scan; it cannot occur within the data of one."""
MAX_ASPECT_RATIO: Final = 32
"""Images are scaled by their short side, so a long one takes far more memory than its file."""
IMAGENET_CLASSES: Final = 1000

# `decode` checks the number of pixels itself; Pillow's limit may be lower than a configured one.
Image.MAX_IMAGE_PIXELS = None


class TimmEncoder:
    """A timm model whose embeddings are its pooled features.

    Args:
        spec: The encoder.
        device: The device it runs on.
        weights: Its safetensors file.
        max_pixels: Maximum pixels of an image.
        compile_models: Whether its forward pass is compiled, on a CPU.
        cuda_graphs: Whether small batches are replayed as CUDA graphs, on a GPU.
    """

    modality: Modality = "image"

    def __init__(
        self,
        spec: ImageEncoder,
        device: torch.device,
        weights: Path,
        max_pixels: int = MAX_PIXELS,
        compile_models: bool = True,
        cuda_graphs: bool = False,
    ) -> None:
        self._spec = spec
        self._max_pixels = max_pixels
        self.device = device
        model = load_timm_model(spec, weights)
        model.reset_classifier(0)
        override = {"input_size": (3, spec.input_size, spec.input_size)} if spec.input_size else {}
        self._transform: Any = create_transform(
            **resolve_data_config(override, model=model), is_training=False
        )
        self.forward_pass: ForwardPass = model.eval().to(device, memory_format=torch.channels_last)
        self.dim = int(model.num_features)
        self.nbytes = parameter_bytes(model)
        if compile_models and device.type == "cpu":
            white = self._transform(Image.new("RGB", (1, 1), "white"))
            samples = [(torch.randn(n, *white.shape),) for n in (2, 1, 3)]
            self.forward_pass = compile_forward(model, spec.model, samples)
        elif cuda_graphs and device.type == "cuda":
            self.forward_pass = CudaGraphPass(model, spec.model)

    def prepare(self, items: Sequence[Item], *, truncate: bool | None = None) -> PreparedInputs:
        """Decode images and apply the transform of the model.

        Raises:
            UnsupportedFormatError: If an item is not a JPEG, PNG or WebP file.
            InputTooLargeError: If an image has too many pixels or scans.
            InvalidInputError: If a file is truncated or corrupt, or an image is too elongated.
        """
        tensors, largest = [], 0
        # One at a time, since decoded images are far larger than the inputs of the model.
        for i, item in enumerate(items):
            image = decode(item, f"/items/{i}", self._max_pixels)
            largest = max(largest, image.width * image.height)
            tensors.append(self._transform(image))
            del image
        if largest > LARGE_PIXELS:
            release_memory(self.device)
        return PreparedInputs(tensors)

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embeddings (n, dim) float32 of transformed images."""
        rows = self.forward_pass(torch.stack(list(inputs)).to(self.device)).float()
        return torch.nn.functional.normalize(rows, dim=1) if self._spec.normalize else rows


def load_timm_model(spec: ImageEncoder, weights: Path) -> Any:
    """The timm model of a spec, with as many classes as its weights have.

    Raises:
        InvalidInputError: If timm has no such model, or the weights do not fit it.
        UnsupportedFormatError: If the weights are not a safetensors file.
    """
    _check_known(spec)
    if weights.suffix != ".safetensors":
        raise UnsupportedFormatError(
            "expected weights in a .safetensors file; pickles are not supported"
        )
    try:
        state = load_file(weights)
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"the weights file {weights.name} of {spec.model} does not exist"
        ) from error
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(
            f"the weights of {spec.model} are not a valid safetensors file"
        ) from error
    model = timm.create_model(spec.model, pretrained=False)
    _resize_classifier(model, spec, state)
    mismatch = _find_mismatch(model.state_dict(), state)
    if mismatch:
        raise InvalidInputError(f"the weights do not fit {spec.model}: {mismatch}")
    model.load_state_dict(state, strict=True)
    return model


def _resize_classifier(model: Any, spec: ImageEncoder, state: dict[str, torch.Tensor]) -> None:
    """Give a model as many classes as its weights have, if timm names its classifier."""
    config = timm.get_pretrained_cfg(spec.model)
    module = config.classifier if config else None
    # A distilled model has two classifiers with the same classes.
    name = f"{module[0] if isinstance(module, tuple) else module}.weight"
    own, loaded = model.state_dict().get(name), state.get(name)
    if own is None:
        return
    if loaded is None:
        model.reset_classifier(0)
    elif own.shape[1:] == loaded.shape[1:] and len(own) != len(loaded):
        # Only if the width fits, which bounds the new classifier by the size of the file.
        model.reset_classifier(len(loaded))


def _find_mismatch(expected: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> str | None:
    """The first tensor that is missing, has another shape, or is unexpected; None if all fit."""
    for name, tensor in expected.items():
        if name not in state:
            return f"{name} is missing"
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, got {tuple(state[name].shape)}"
            return f"expected {name} of shape {shapes}"
    return next((f"{name} is unexpected" for name in state if name not in expected), None)


def timm_hub_id(spec: ImageEncoder) -> str:
    """Id of timm's pretrained weights of a model on the hub.

    Raises:
        InvalidInputError: If timm has no such model, or no weights for it on the hub.
    """
    _check_known(spec)
    config = timm.get_pretrained_cfg(spec.model)
    if config is None or not config.hf_hub_id:
        raise InvalidInputError(f"timm has no pretrained weights for {spec.model} on the hub")
    return str(config.hf_hub_id)


def _check_known(spec: ImageEncoder) -> None:
    if not timm.is_model(spec.model):
        raise InvalidInputError(f"timm has no model {spec.model}")


def image_classifier(spec: ImageEncoder, weights: Path) -> tuple[Classifier, list[str]]:
    """The classifier of a pretrained timm model, for its pooled features.

    Returns:
        A linear classifier, float32 numpy, and its labels: the names of ImageNet's classes if it
        has as many, else the indices of the classes.

    Raises:
        InvalidInputError: If the model has no linear classifier.
    """
    model = load_timm_model(spec, weights)
    head = model.get_classifier()
    if not isinstance(head, torch.nn.Linear):
        raise InvalidInputError(f"the classifier of {spec.model} is not one linear layer")
    weight = head.weight.detach().float().numpy()
    bias = torch.zeros(len(weight)) if head.bias is None else head.bias
    return Classifier(((weight, bias.detach().float().numpy()),), "identity"), _class_names(
        len(weight)
    )


def _class_names(count: int) -> list[str]:
    if count != IMAGENET_CLASSES:
        return [str(i) for i in range(count)]
    info = ImageNetInfo()
    names = [info.index_to_description(i) for i in range(count)]
    # Two classes are called crane and two maillot; their indices make the names unique.
    duplicates = {name for name in names if names.count(name) > 1}
    return [f"{name} ({i})" if name in duplicates else name for i, name in enumerate(names)]


def decode(item: Item, pointer: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file to RGB, upright; of an animation, the first frame.

    Args:
        item: Content of the file.
        pointer: JSON pointer to the item in the request.
        max_pixels: Maximum pixels of the image.

    Returns:
        The image; transparent pixels are composited on white.

    Raises:
        UnsupportedFormatError: If it is not a JPEG, PNG or WebP file.
        InputTooLargeError: If it has too many pixels or scans; it is then not decoded.
        InvalidInputError: If it is truncated, corrupt, or too elongated.
    """
    if isinstance(item, str):
        raise InvalidInputError("expected an image file", pointer=pointer)
    if item.startswith(JPEG_SIGNATURE) and item.count(SCAN) > MAX_SCANS:
        raise InputTooLargeError(
            f"expected at most {MAX_SCANS} scans in a JPEG file, got {item.count(SCAN)}",
            pointer=pointer,
            code=ErrorCode.TOO_MANY_SCANS,
        )
    try:
        image: Image.Image = Image.open(io.BytesIO(item), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise InputTooLargeError(
                f"expected at most {max_pixels} pixels (max_image_pixels), got {image.width} x "
                f"{image.height}",
                pointer=pointer,
                code=ErrorCode.TOO_MANY_PIXELS,
            )
        if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            raise InvalidInputError(
                f"expected an aspect ratio of at most {MAX_ASPECT_RATIO}, got {image.width} x "
                f"{image.height}",
                pointer=pointer,
            )
        image.load()
        image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise UnsupportedFormatError(
            f"expected a file of {', '.join(FORMATS)}", pointer=pointer
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidInputError(
            "the image file is truncated or corrupt", pointer=pointer
        ) from error
    return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: keep the upper eight bits.
        return image.point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
