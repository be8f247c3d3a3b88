"""Weights of timm models: safetensors files, prefixes of their names, and how they fit a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from stitchwork.errors import InvalidInputError, UnsupportedFormatError

State = Mapping[str, torch.Tensor]

SUFFIX: Final = ".safetensors"
FILE_NAME: Final = "model.safetensors"
PREFIXES: Final = (
    "module.",
    "_orig_mod.",
    "model.",
    "state_dict.",
    "state_dict_ema.",
    "model_ema.",
)
"""What DataParallel, torch.compile, Lightning and timm's training put before each name."""
AVERAGING_COUNT: Final = "n_averaged"
"""The counter that torch's AveragedModel stores beside the weights; no model uses it."""
MAX_NAMES: Final = 8
"""Tensors of a kind that an error names; it counts the others."""


def find_weights(path: Path) -> Path:
    """The safetensors file of a path: the file itself, or the one in a folder.

    Raises:
        UnsupportedFormatError: If there are only files of another format.
        InvalidInputError: If a folder has no weights, or several files without a
            `model.safetensors`.
    """
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"))
        if path / FILE_NAME in files:
            return path / FILE_NAME
        if len(files) != 1:
            others = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pth"))
            if others and not files:
                raise UnsupportedFormatError(
                    f"expected a {SUFFIX} file in the folder {path.name}, got "
                    f"{join_names(others)}; pickles are not supported"
                )
            raise InvalidInputError(
                f"expected {FILE_NAME} or one {SUFFIX} file in the folder {path.name}, "
                f"got {len(files)}"
            )
        return files[0]
    if path.suffix != SUFFIX:
        raise UnsupportedFormatError(
            f"expected weights in a {SUFFIX} file; pickles are not supported"
        )
    return path


def read_weights(path: Path, model: str) -> State:
    """The tensors of a safetensors file, in private memory.

    Raises:
        InvalidInputError: If the file does not exist or is not valid.
    """
    try:
        # A mapped file would change the weights, or end the process, when it is written to.
        return load_file(path, backend="pread")
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"the weights file {path.name} of {model} does not exist"
        ) from error
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(
            f"the weights of {model} are not a valid safetensors file"
        ) from error


def strip_prefixes(state: State, expected: State) -> State:
    """Weights without the prefixes that wrappers put before all names.

    A prefix is stripped only if every name has it and none of the names is one of the model's.

    Args:
        state: The weights.
        expected: The weights of the model.
    """
    while state and not state.keys() & expected.keys():
        names = state.keys() - {AVERAGING_COUNT}
        common = next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None)
        if common is None or not names:
            return state
        state = {name.removeprefix(common): state[name] for name in state if name in names}
    return state


def find_mismatch(state: State, expected: State) -> str | None:
    """How weights differ from those that a model expects; None if all fit.

    Returns:
        The missing and unexpected tensors and those of another shape, by name, and the cause if a
        prefix is known.
    """
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"expected {name} of shape {tuple(tensor.shape)}, got {tuple(state[name].shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({join_names(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({join_names(unexpected)})")
    if shapes:
        parts.append(f"{len(shapes)} of another shape ({join_names(shapes)})")
    prefixes = [p for p in PREFIXES if any(name.startswith(p) for name in unexpected)]
    if missing and prefixes:
        parts.append(
            f"names begin with {' and '.join(prefixes)}: save one set of weights, without the "
            "prefix of the module that wraps the model"
        )
    return "; ".join(parts) or None


def join_names(names: Sequence[str]) -> str:
    """The first names of a list, and the number of the others."""
    rest = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")
