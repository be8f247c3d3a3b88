"""Reads the files of commands: lines, image files, and the weights of heads."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
from safetensors import SafetensorError, safe_open

from stitchwork.cli.table_files import SUFFIXES, TextSource, is_table, read_column
from stitchwork.client import Floats
from stitchwork.client.image_folders import IMAGE_SUFFIXES
from stitchwork.errors import InvalidInputError

STDIN: Final = "-"
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


def read_texts(source: TextSource) -> list[str]:
    """The texts of a file: one on each line, or those of a column.

    Raises:
        InvalidInputError: If the file is not of its format, or has no texts.
    """
    path, column = source.path or STDIN, source.column
    if is_table(path):
        texts = read_column(Path(path), column, "text")
    elif column is not None:
        raise InvalidInputError(
            f"expected a file of {', '.join(SUFFIXES)} with --column, got {path}"
        )
    else:
        texts = read_lines(path)
    for i, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise InvalidInputError(
                f"{path}: expected texts, got {json.dumps(text)[:40]} as the text number {i}"
            )
    if not texts:
        name = "the standard input" if path == STDIN else path
        raise InvalidInputError(f"{name} has no texts")
    return texts


def read_inputs(
    texts: TextSource, images: Sequence[str], default: str | None = None
) -> list[str] | Files | None:
    """The texts or images of a command; None for neither.

    Args:
        texts: A file of texts.
        images: Image files and folders of them.
        default: The file of texts to read where there are neither.

    Raises:
        InvalidInputError: If there are both, or if there is no image.
    """
    if texts.path and images:
        raise InvalidInputError("expected --texts or --images, got both")
    if images:
        return Files(_image_paths([Path(path) for path in images]))
    source = texts.path or default
    if source is None:
        if texts.column is not None:
            raise InvalidInputError("expected --texts with --column, got none")
        return None
    return read_texts(TextSource(source, texts.column))


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


def read_labels(path: Path, column: str | None = None) -> list[Any]:
    """Labels from a file: an .npy array or a .json list, which keep their types, or lines.

    Of a table they are those of a column.

    Raises:
        InvalidInputError: If the file is not of its format.
    """
    if is_table(path):
        return read_column(path, column, "label")
    if column is not None:
        raise InvalidInputError(
            f"expected a file of {', '.join(SUFFIXES)} with --label-column, got {path}"
        )
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
            images += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        else:
            images.append(path)
    if not images:
        raise InvalidInputError(f"expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
    return images
