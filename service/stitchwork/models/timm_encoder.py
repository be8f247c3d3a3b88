"""Image encoders: timm models."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from timm.data import create_transform

from stitchwork.models.compilation import CompilablePass
from stitchwork.models.cuda_graphs import CudaGraphPass
from stitchwork.models.encoder import MAX_PIXELS, PreparedInputs, parameter_bytes
from stitchwork.models.image_files import prepare_images
from stitchwork.models.memory import to_device
from stitchwork.models.openvino_backend import ForwardPass
from stitchwork.models.parity import check_rows
from stitchwork.models.precision import torch_dtype
from stitchwork.models.timm_config import RGB, data_config, read_config
from stitchwork.models.timm_features import (
    compute_features,
    library_features,
    remove_classifier,
    sample_pixels,
)
from stitchwork.models.timm_models import load_timm_model
from stitchwork.models.timm_weights import find_weights
from stitchwork.resources import ImageEncoder, Item, Modality
from stitchwork.resources.prompts import select_prompt

SAMPLES: Final = 2
"""Inputs on which an encoder is compared with timm."""


class TimmEncoder:
    """A timm model whose embeddings are its pooled features.

    Args:
        spec: The encoder.
        device: The device it runs on.
        weights: Its safetensors file, or the folder of it.
        max_pixels: Maximum pixels of an image.
        compile_models: Whether its forward pass is to be compiled, on a CPU.
        cuda_graphs: Whether small batches are replayed as CUDA graphs, on a GPU.
        prove: Whether its embeddings are compared with timm's, and refused if they differ.
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
        prove: bool = True,
    ) -> None:
        self._spec = spec
        self._max_pixels = max_pixels
        self.device = device
        self.dtype = torch_dtype(spec)
        model = load_timm_model(spec, weights).eval()
        data = data_config(spec, read_config(spec, find_weights(weights)))
        self._mode = "RGB" if data["input_size"][0] == RGB else "L"
        self._transform: Any = create_transform(**data, is_training=False)
        pixels = sample_pixels(SAMPLES if prove else 1, data["input_size"])
        expected = library_features(spec, model, pixels) if prove else None
        remove_classifier(spec, model)
        rows = compute_features(spec, model, pixels)
        if expected is not None:
            check_rows(spec.model, "timm", rows, expected)
        self.dim = rows.shape[1]
        self.forward_pass: ForwardPass = model.to(device, memory_format=torch.channels_last)
        self._model = spec.model
        self.nbytes = parameter_bytes(model)
        if compile_models and device.type == "cpu":
            white = self._transform(Image.new(self._mode, (1, 1), "white"))
            samples = [(torch.randn(n, *white.shape),) for n in (2, 1, 3)]
            self.forward_pass = CompilablePass(model, spec.model, samples, self.dtype)
        elif cuda_graphs and device.type == "cuda":
            self.forward_pass = CudaGraphPass(model, spec.model)

    def prepare(
        self,
        items: Sequence[Item],
        *,
        truncate: bool | None = None,
        input_type: str | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> PreparedInputs:
        """Decode images and apply the transform of the model.

        Raises:
            UnsupportedFormatError: If an item is not a JPEG, PNG or WebP file.
            InputTooLargeError: If an image has too many pixels or scans.
            InvalidInputError: If a file is truncated or corrupt, or an image is too elongated, or
                the input type is another than `image`.
        """
        if input_type not in (None, "image"):
            select_prompt(self._model, {}, input_type)
        return PreparedInputs(
            prepare_images(items, self._transformed, self._max_pixels, self.device, progress)
        )

    def _transformed(self, image: Image.Image) -> torch.Tensor:
        tensor: torch.Tensor = self._transform(image.convert(self._mode))
        return tensor

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embeddings (n, dim) float32 of transformed images."""
        rows = self.forward_pass(to_device(torch.stack(list(inputs)), self.device)).float()
        return torch.nn.functional.normalize(rows, dim=1) if self._spec.normalize else rows
