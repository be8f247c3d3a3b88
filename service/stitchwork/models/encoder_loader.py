"""Makes encoders, and extracts classifiers, from the files of their models."""

from importlib.metadata import version
from pathlib import Path
from typing import Final, assert_never

import torch

from stitchwork import __version__
from stitchwork.models.encoder import SAMPLE_IMAGE, SAMPLE_TEXT, Encoder, PreparedInputs
from stitchwork.models.model_files import ModelFiles
from stitchwork.models.pretrained_head import PretrainedHead
from stitchwork.resources import EncoderSpec, ImageEncoder, Item, TextEncoder, VisionEncoder

LIBRARIES: Final = {
    "transformers": ("torch", "transformers", "tokenizers"),
    "transformers-vision": ("torch", "transformers", "pillow"),
    "timm": ("torch", "timm", "torchvision", "pillow"),
}
"""Distributions that compute the rows of each kind of encoder."""


class EncoderLoader:
    """Makes encoders with the options of one worker.

    Each of the libraries takes seconds to import and a hundred megabytes of memory: a worker is
    ready without them, and one that serves only texts never loads that of images.

    Args:
        device: The device that they run on.
        max_pixels: Maximum pixels of an image.
        max_tokens: Maximum tokens of a text, for models that accept more.
        compile_models: Whether models are compiled, on a CPU.
        cuda_graphs: Whether small batches are replayed as CUDA graphs, on a GPU.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        max_pixels: int,
        max_tokens: int,
        compile_models: bool,
        cuda_graphs: bool,
    ) -> None:
        self._device = device
        self._max_pixels = max_pixels
        self._max_tokens = max_tokens
        self._compile_models = compile_models
        self._cuda_graphs = cuda_graphs

    def load(self, spec: EncoderSpec, files: Path, *, may_compile: bool, prove: bool) -> Encoder:
        """The encoder of a spec.

        Args:
            spec: The encoder.
            files: The folder of a transformers model, or the weights of a timm model.
            may_compile: Whether it may be compiled.
            prove: Whether it is compared with its own library.

        Raises:
            InvalidInputError: If the spec does not fit the model.
            JobFailedError: If the model cannot be loaded, or differs from its own library.
        """
        compile_models = self._compile_models and may_compile
        match spec:
            case TextEncoder():
                from stitchwork.models.sentence_transformers_files import is_static
                from stitchwork.models.static_encoder import StaticEncoder
                from stitchwork.models.transformers_encoder import TransformersEncoder

                if is_static(files):
                    return StaticEncoder(spec, self._device, files, self._max_tokens, prove)
                return TransformersEncoder(
                    spec,
                    self._device,
                    files,
                    self._max_tokens,
                    compile_models=compile_models,
                    cuda_graphs=self._cuda_graphs,
                    prove=prove,
                )
            case ImageEncoder():
                from stitchwork.models.timm_config import with_architecture
                from stitchwork.models.timm_encoder import TimmEncoder

                return TimmEncoder(
                    with_architecture(spec, files),
                    self._device,
                    files,
                    self._max_pixels,
                    compile_models=compile_models,
                    cuda_graphs=self._cuda_graphs,
                    prove=prove,
                )
            case VisionEncoder():
                from stitchwork.models.transformers_vision_encoder import (
                    TransformersVisionEncoder,
                )

                return TransformersVisionEncoder(
                    spec,
                    self._device,
                    files,
                    self._max_pixels,
                    compile_models=compile_models,
                    cuda_graphs=self._cuda_graphs,
                    prove=prove,
                )
            case _:
                assert_never(spec)


def library_versions(spec: EncoderSpec) -> dict[str, str]:
    """Versions of what computes the rows of an encoder, by name.

    Without what names a build, such as `+cpu`: rows of builds differ no more than those of batches.
    """
    versions = {name: version(name).partition("+")[0] for name in LIBRARIES[spec.kind]}
    return {"stitchwork": __version__, **versions}


def in_float32(spec: EncoderSpec) -> EncoderSpec:
    """The encoder in float32, for what does not depend on its data type."""
    return spec.model_copy(update={"dtype": "float32"})


def pin_encoder(spec: EncoderSpec, model_files: ModelFiles) -> EncoderSpec:
    """The spec with what is in force: a commit, and what the model's own files decide.

    Args:
        spec: The encoder.
        model_files: Finds its files.
    """
    pinned = model_files.pin(in_float32(spec))
    if not (isinstance(pinned, ImageEncoder) or pinned.is_resolved):
        files = model_files.path(pinned)
        if isinstance(pinned, VisionEncoder):
            from stitchwork.models.transformers_vision_encoder import pin_vision_encoder

            pinned = pin_vision_encoder(pinned, files)
        else:
            from stitchwork.models.text_settings import pin_text_encoder

            pinned = pin_text_encoder(pinned, files)
    return pinned.model_copy(update={"dtype": spec.dtype})


def extract_classifier(spec: EncoderSpec, files: Path) -> PretrainedHead:
    """The classifier of a pretrained model.

    Args:
        spec: The model.
        files: The folder of a transformers model, or the weights of a timm model.

    Raises:
        InvalidInputError: If the model has no classifier that can be extracted.
    """
    match spec:
        case TextEncoder():
            from stitchwork.models.text_classifier import text_classifier

            return text_classifier(spec, files)
        case ImageEncoder():
            from stitchwork.models.timm_classifier import image_classifier
            from stitchwork.models.timm_config import with_architecture

            return image_classifier(with_architecture(spec, files), files)
        case VisionEncoder():
            from stitchwork.models.vision_classifier import vision_classifier

            return vision_classifier(spec, files)
        case _:
            assert_never(spec)


def sample_inputs(spec: EncoderSpec, encoder: Encoder) -> PreparedInputs:
    """An input for warming up an encoder."""
    item: Item
    match spec:
        case TextEncoder():
            item = SAMPLE_TEXT
        case ImageEncoder() | VisionEncoder():
            item = SAMPLE_IMAGE
        case _:
            assert_never(spec)
    return encoder.prepare([item], truncate=True)
