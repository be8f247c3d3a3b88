"""Image encoders: transformers models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from stitchwork.errors import InvalidInputError
from stitchwork.models.compilation import CompilablePass
from stitchwork.models.cuda_graphs import CudaGraphPass
from stitchwork.models.encoder import MAX_PIXELS, PreparedInputs, parameter_bytes
from stitchwork.models.folder_checks import check_folder
from stitchwork.models.image_files import prepare_images
from stitchwork.models.matryoshka import output_width, resolve_dimensions
from stitchwork.models.memory import is_out_of_memory, to_device
from stitchwork.models.openvino_backend import ForwardPass
from stitchwork.models.parity import check_rows, reference_rows
from stitchwork.models.pooling import build_modules
from stitchwork.models.precision import torch_dtype
from stitchwork.models.sentence_transformers_files import (
    SentenceTransformersFiles,
    read_files,
)
from stitchwork.models.vision_models import VisionModel, load_vision_model
from stitchwork.models.vision_preprocessing import VisionPreprocessor
from stitchwork.resources import Item, Modality, VisionEncoder
from stitchwork.resources.prompts import select_prompt

SAMPLES: Final = 3
SAMPLE_SEED: Final = 0
SAMPLE_SIDE: Final = 80


class TransformersVisionEncoder:
    """A transformers model that embeds images as its library does, or the image tower of one.

    Args:
        spec: The encoder.
        device: The device it runs on.
        folder: The folder of its files.
        max_pixels: Maximum pixels of an image.
        compile_models: Whether its forward pass is to be compiled, on a CPU.
        cuda_graphs: Whether small batches are replayed as CUDA graphs, on a GPU.
        prove: Whether its embeddings are compared with the library's, and refused if they differ.

    Attributes:
        spec: The encoder, completed by the model's files.
        options: Arguments of the model besides its inputs.
    """

    modality: Modality = "image"

    def __init__(
        self,
        spec: VisionEncoder,
        device: torch.device,
        folder: Path,
        max_pixels: int = MAX_PIXELS,
        compile_models: bool = True,
        cuda_graphs: bool = False,
        prove: bool = True,
    ) -> None:
        self._max_pixels = max_pixels
        self.device = device
        self.dtype = torch_dtype(spec)
        spec, files = _complete(spec, folder)
        check_folder(spec.model, files.model_folder)
        self._preprocessor = VisionPreprocessor(spec, files.model_folder)
        images = sample_images()
        fields = self._preprocessor.batch([self._preprocessor.prepare(images[0])])
        resizes = not self._preprocessor.has_own_size
        spec, model = load_vision_model(spec, files.model_folder, fields, resizes)
        self.spec = self._resolved(spec)
        plain = VisionModel(model, torch.nn.Identity(), self.spec, False, resizes)
        with torch.no_grad():
            width = _width(self.spec, plain, fields, self._preprocessor.side)
        modules, width = build_modules(spec.model, files.modules, width)
        self.dim = output_width(spec, width)
        pooled = VisionModel(model, modules, self.spec, self._preprocessor.has_patches, resizes)
        self.options = pooled.options
        self.nbytes = parameter_bytes(pooled)
        prepared = [self._preprocessor.prepare(image) for image in images]
        if prove:
            self._check_parity(pooled, prepared)
        self.forward_pass: ForwardPass = pooled.to(device)
        # The sizes of an image's patches decide what is computed, which tracing would keep.
        is_traceable = not self._preprocessor.has_patches
        if compile_models and device.type == "cpu" and is_traceable:
            batches = [(torch.stack((prepared * 2)[:n]),) for n in (2, 1, 3)]
            self.forward_pass = CompilablePass(pooled, spec.model, batches, self.dtype)
        elif cuda_graphs and device.type == "cuda" and is_traceable:
            self.forward_pass = CudaGraphPass(pooled, spec.model)

    def prepare(
        self,
        items: Sequence[Item],
        *,
        truncate: bool | None = None,
        input_type: str | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> PreparedInputs:
        """Decode images and apply the image processor of the model.

        Raises:
            UnsupportedFormatError: If an item is not an image file of a supported format.
            InputTooLargeError: If an image has too many pixels or scans.
            InvalidInputError: If a file is truncated or corrupt, or an image is too elongated, or
                the input type is another than `image`.
        """
        if input_type not in (None, self.modality):
            select_prompt(self.spec.model, {}, input_type)
        return PreparedInputs(
            prepare_images(
                items, self._preprocessor.prepare, self._max_pixels, self.device, progress
            )
        )

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embeddings (n, dim) float32 of prepared images."""
        return self.forward_pass(to_device(torch.stack(list(inputs)), self.device)).float()

    @torch.no_grad()
    def _check_parity(self, pooled: VisionModel, prepared: Sequence[torch.Tensor]) -> None:
        """Compare rows with those of the library's model, an image at a time."""
        fields = [self._preprocessor.batch([image]) for image in prepared]
        if pooled.token_modes:
            states = [pooled.hidden_states(**image)[0] for image in fields]
            expected = reference_rows(states, pooled.token_modes, 0)
        else:
            expected = torch.cat([pooled.rows(**image) for image in fields])
        rows = pooled(torch.stack(list(prepared)))
        check_rows(self.spec.model, "transformers", rows, pooled.embeddings(expected))

    def _resolved(self, spec: VisionEncoder) -> VisionEncoder:
        """The spec with the preprocessing in force."""
        return spec.model_copy(
            update={
                "mean": self._preprocessor.mean,
                "std": self._preprocessor.std,
                "input_size": self._preprocessor.side,
            }
        )


def pin_vision_encoder(spec: VisionEncoder, folder: Path) -> VisionEncoder:
    """The declaration completed by the model's files.

    Raises:
        InvalidInputError: If the declaration does not fit the model.
        JobFailedError: If the files cannot be followed.
    """
    device = torch.device("cpu")
    return TransformersVisionEncoder(spec, device, folder, compile_models=False, prove=False).spec


def sample_images() -> list[Image.Image]:
    """RGB images for comparisons, the same each time, of several sizes."""
    rng = np.random.default_rng(SAMPLE_SEED)
    sizes = [(SAMPLE_SIDE + 16 * i, SAMPLE_SIDE, 3) for i in range(SAMPLES)]
    return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


def _complete(spec: VisionEncoder, folder: Path) -> tuple[VisionEncoder, SentenceTransformersFiles]:
    """The declaration completed by the files of sentence-transformers, and these files."""
    files = read_files(spec.model, folder, "image")
    names = tuple(module.name for module in files.modules)
    if spec.modules == ():
        files = replace(files, modules=())
    elif spec.modules not in (None, names):
        raise InvalidInputError(
            f"modules: expected {list(names)}, as the files of {spec.model} say, or none, got "
            f"{list(spec.modules or ())}"
        )
    own = files.pooling[0] if len(files.pooling) == 1 else files.pooling or None
    resolved = spec.model_copy(
        update={
            "pooling": own if spec.pooling is None else spec.pooling,
            "normalize": files.normalize if spec.normalize is None else spec.normalize,
            "modules": tuple(module.name for module in files.modules),
        }
    )
    return resolve_dimensions(resolved, folder, files.model_folder), files


def _width(
    spec: VisionEncoder, model: VisionModel, fields: Mapping[str, torch.Tensor], side: int | None
) -> int:
    """The width of pooled rows.

    Raises:
        InvalidInputError: If the model cannot embed images of this size.
    """
    try:
        return model.rows(**fields).shape[1]
    except (RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        message = " ".join(str(error).split())
        raise InvalidInputError(
            f"{spec.model} cannot embed images of {side} pixels: {message}"
        ) from error
