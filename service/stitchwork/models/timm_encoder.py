"""Images, by timm models; the only file that imports timm."""

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
from stitchwork.models.openvino_backend import ForwardPass, compile_if_faster
from stitchwork.resources import ImageEncoder, Item, Modality

FORMATS: Final = ("JPEG", "PNG", "WEBP")
JPEG: Final = b"\xff\xd8"
LARGE_PIXELS: Final = 16_000_000
"""The memory that a larger image took is not kept for the next one."""
MAX_SCANS: Final = 100
"""A progressive JPEG has about ten, and each costs a pass over all pixels however few its bytes."""
SCAN: Final = b"\xff\xda"
"""Begins a scan; within its data 0xff is always followed by something else."""
MAX_ASPECT_RATIO: Final = 32
"""The short side is scaled to what the model takes, and the long side with it."""
IMAGENET_CLASSES: Final = 1000

# `decode` bounds the pixels before any is made; Pillow's own bound would hold below a raised one.
Image.MAX_IMAGE_PIXELS = None


class TimmEncoder:
    """A timm model that gives its pooled features.

    Args:
        spec: What it is.
        device: Where it runs.
        weights: Its safetensors file.
        max_pixels: Pixels that an image may have.
        compile_models: Whether its pass may be compiled, on a CPU.
        cuda_graphs: Whether small batches are replayed from recordings, on a GPU.
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
        model = load(spec, weights)
        model.reset_classifier(0)
        override = {"input_size": (3, spec.input_size, spec.input_size)} if spec.input_size else {}
        self._transform: Any = create_transform(
            **resolve_data_config(override, model=model), is_training=False
        )
        self._pass: ForwardPass = model.eval().to(device, memory_format=torch.channels_last)
        self.dim = int(model.num_features)
        self.nbytes = parameter_bytes(model)
        if compile_models and device.type == "cpu":
            white = self._transform(Image.new("RGB", (1, 1), "white"))
            samples = [(torch.randn(n, *white.shape),) for n in (2, 1, 3)]
            self._pass = compile_if_faster(model, spec.model, samples)
        elif cuda_graphs and device.type == "cuda":
            self._pass = CudaGraphPass(model, spec.model)

    def prepare(self, items: Sequence[Item], *, truncate: bool | None = None) -> PreparedInputs:
        """Decode images and bring them into the form that the model takes.

        Raises:
            UnsupportedFormatError: If an item is not a JPEG, PNG or WebP file.
            InputTooLargeError: If it has more pixels than are taken.
            InvalidInputError: If it is cut or damaged.
        """
        tensors, most = [], 0
        # One at a time: decoded pixels are far larger than what the model takes.
        for i, item in enumerate(items):
            image = decode(item, f"/items/{i}", self._max_pixels)
            most = max(most, image.width * image.height)
            tensors.append(self._transform(image))
            del image
        if most > LARGE_PIXELS:
            release_memory(self.device)
        return PreparedInputs(tensors)

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embeddings (n, dim) float32 of transformed images."""
        rows = self._pass(torch.stack(list(inputs)).to(self.device)).float()
        return torch.nn.functional.normalize(rows, dim=1) if self._spec.normalize else rows


def load(spec: ImageEncoder, weights: Path) -> Any:
    """The timm model of a spec, with a classifier of as many classes as its weights have.

    Raises:
        InvalidInputError: If timm has no such model, or the weights are not its own.
        UnsupportedFormatError: If the weights are not safetensors.
    """
    _check_known(spec)
    if weights.suffix != ".safetensors":
        raise UnsupportedFormatError(
            "expected weights in a .safetensors file; pickles are never read"
        )
    try:
        state = load_file(weights)
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"there is no file {weights.name} with weights of {spec.model}"
        ) from error
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(
            f"the weights of {spec.model} cannot be read as safetensors"
        ) from error
    model = timm.create_model(spec.model, pretrained=False)
    _classify_as(state, spec, model)
    wrong = _misfit(model.state_dict(), state)
    if wrong:
        raise InvalidInputError(f"the weights are not those of {spec.model}: {wrong}")
    model.load_state_dict(state, strict=True)
    return model


def _classify_as(state: dict[str, torch.Tensor], spec: ImageEncoder, model: Any) -> None:
    """Give a model the classes of weights, where timm says what it calls its classifier."""
    config = timm.get_pretrained_cfg(spec.model)
    called = config.classifier if config else None
    # A distilled model has two, of as many classes.
    name = f"{called[0] if isinstance(called, tuple) else called}.weight"
    own, given = model.state_dict().get(name), state.get(name)
    if own is None:
        return
    if given is None:
        model.reset_classifier(0)
    elif own.shape[1:] == given.shape[1:] and len(own) != len(given):
        # Of the right width, so that it is no larger than the file that was read.
        model.reset_classifier(len(given))


def _misfit(expected: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> str | None:
    """The first tensor that is missing, of another shape, or of no use; None if all fit."""
    for name, tensor in expected.items():
        if name not in state:
            return f"it has no {name}"
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, got {tuple(state[name].shape)}"
            return f"expected {name} of shape {shapes}"
    return next((f"it has a {name}" for name in state if name not in expected), None)


def timm_hub_id(spec: ImageEncoder) -> str:
    """Where the hub keeps timm's own weights of a model.

    Raises:
        InvalidInputError: If timm has no such model, or no weights of it there.
    """
    _check_known(spec)
    config = timm.get_pretrained_cfg(spec.model)
    if config is None or not config.hf_hub_id:
        raise InvalidInputError(f"timm has no pretrained safetensors for {spec.model} on its hub")
    return str(config.hf_hub_id)


def _check_known(spec: ImageEncoder) -> None:
    if not timm.is_model(spec.model):
        raise InvalidInputError(f"timm has no model {spec.model}")


def image_classifier(spec: ImageEncoder, weights: Path) -> tuple[Classifier, list[str]]:
    """The classifier of a pretrained timm model, for its pooled features.

    Returns:
        A linear classifier, float32 numpy, and its labels: ImageNet's names where it has its
        classes, else their numbers.

    Raises:
        InvalidInputError: If the model has no linear classifier.
    """
    model = load(spec, weights)
    head = model.get_classifier()
    if not isinstance(head, torch.nn.Linear):
        raise InvalidInputError(f"the classifier of {spec.model} is not one linear layer")
    weight = head.weight.detach().float().numpy()
    bias = torch.zeros(len(weight)) if head.bias is None else head.bias
    return Classifier(((weight, bias.detach().float().numpy()),), "identity"), _names(len(weight))


def _names(count: int) -> list[str]:
    if count != IMAGENET_CLASSES:
        return [str(i) for i in range(count)]
    known = ImageNetInfo()
    names = [known.index_to_description(i) for i in range(count)]
    # Two classes are called crane, and two maillot; their numbers tell them apart.
    doubled = {name for name in names if names.count(name) > 1}
    return [f"{name} ({i})" if name in doubled else name for i, name in enumerate(names)]


def decode(item: Item, pointer: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image file as RGB pixels, upright; the first frame of an animation.

    Args:
        item: The bytes of the file.
        pointer: Where it stands in the request.
        max_pixels: Pixels that it may have.

    Returns:
        The image; transparency is laid on white.

    Raises:
        UnsupportedFormatError: If it is not a JPEG, PNG or WebP file.
        InputTooLargeError: If it has more pixels than are taken; they are not decoded.
        InvalidInputError: If it is cut or damaged.
    """
    if isinstance(item, str):
        raise InvalidInputError("expected an image file", pointer=pointer)
    if item.startswith(JPEG) and item.count(SCAN) > MAX_SCANS:
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
                f"expected sides within a ratio of {MAX_ASPECT_RATIO}, got {image.width} x "
                f"{image.height}",
                pointer=pointer,
            )
        image.load()
        # The decoded copy is let go of as soon as there is an upright one.
        image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise UnsupportedFormatError(
            f"expected a file of {', '.join(FORMATS)}", pointer=pointer
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidInputError("the image file is cut or damaged", pointer=pointer) from error
    return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: the upper eight bits are what a screen would show.
        return image.point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", layer.size, (255, 255, 255))
        white.paste(layer, mask=layer)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
