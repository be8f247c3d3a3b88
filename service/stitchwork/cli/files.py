"""Reads the files of commands: lines, image files, and the weights of heads."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
from safetensors import SafetensorError, safe_open

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError

IMAGES: Final = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jpeg",
    ".jpg",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
)


HEAD_FIELDS: Final = (
    "labels",
    "layers",
    "activation",
    "problem_type",
    "thresholds",
    "temperature",
)
"""Fields of a head that the metadata of a safetensors file may have."""


def check_folder(path: Path) -> None:
    """Check that the folder of a file exists.

    Raises:
        InvalidInputError: If it does not.
    """
    if not path.parent.is_dir():
        raise InvalidInputError(f"the folder {path.parent} does not exist")


class Files(Sequence[bytes]):
    """The contents of files, each read when it is accessed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int, /) -> bytes: ...
    @overload
    def __getitem__(self, index: slice, /) -> "Files": ...
    def __getitem__(self, index: int | slice, /) -> "bytes | Files":
        """The bytes of one file."""
        if isinstance(index, slice):
            return Files(self.paths[index])
        return self.paths[index].read_bytes()


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file, or of the standard input.

    Raises:
        InvalidInputError: If it is not UTF-8.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: expected UTF-8 texts, one on each line") from error
    # `splitlines` would split at characters that may be part of a text.
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def read_inputs(
    texts: str | None, images: Sequence[str], default: str | None = None
) -> list[str] | Files | None:
    """The texts or images of a command; None for neither.

    Args:
        texts: A file with a text on each line.
        images: Image files and folders of them.
        default: The file of texts to read where there are neither.

    Raises:
        InvalidInputError: If there are both, or if there is no image.
    """
    if texts and images:
        raise InvalidInputError("expected --texts or --images, got both")
    if images:
        return Files(_image_paths([Path(path) for path in images]))
    source = texts or default
    return None if source is None else read_lines(source)


def read_tensors(path: Path) -> tuple[dict[str, Floats], dict[str, Any]]:
    """The tensors of a safetensors file, and the fields of a head in its metadata.

    Raises:
        InvalidInputError: If it is not a safetensors file.
    """
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InvalidInputError(f"{path}: expected a safetensors file: {error}") from error
    fields = {name: _json_or_text(metadata[name]) for name in HEAD_FIELDS if name in metadata}
    return arrays, fields


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def read_labels(path: Path) -> list[Any]:
    """Labels from a file: an .npy array or a .json list, which keep their types, or lines.

    Raises:
        InvalidInputError: If the file is not of its format.
    """
    if path.suffix == ".json":
        try:
            labels = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise InvalidInputError(f"{path}: expected a JSON list: {error}") from error
        if not isinstance(labels, list):
            raise InvalidInputError(f"{path}: expected a JSON list")
        return labels
    if path.suffix != ".npy":
        return list(read_lines(path))
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidInputError(f"{path}: expected an .npy file of labels: {error}") from error
    values: list[Any] = array.tolist()
    return values


def input_names(inputs: Sequence[str] | Files) -> list[str]:
    """A name for each input in a table: an image's path, a text itself."""
    if isinstance(inputs, Files):
        return [str(path) for path in inputs.paths]
    return list(inputs)


def _image_paths(paths: Sequence[Path]) -> list[Path]:
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            images += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
        else:
            images.append(path)
    if not images:
        raise InvalidInputError(f"expected images ({', '.join(IMAGES)}), found none")
    return images
