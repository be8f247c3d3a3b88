"""Reading corpora from files: texts, images by class, parallel texts, and embeddings."""

import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError, MalformedInputError, UnknownResourceError
from stitchwork.evaluation.corpora import Corpus, Indices, View, label_indices, train_test_split

TABLE_SUFFIXES: Final = (".csv", ".jsonl")
IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
TEXT_COLUMN: Final = "text"
LABEL_COLUMNS: Final = ("label", "category")
PARTS: Final = ("train", "test")
MAX_INCOMPLETE: Final = 0.01
"""Maximum share of rows without text or label, which are left out; real files have a few."""
RESERVED: Final = ("labels", "groups", "classes", "train", "test", "judgements")
"""Arrays of an .npz file that are not a space."""


def read_table(path: Path, seed: int = 0) -> Corpus:
    """Texts, with or without labels, in a CSV or JSONL file; a fifth is contents out.

    Args:
        path: A file with a column `text` and, for the classes, `label` or `category`.
        seed: Seed of the split.

    Raises:
        InvalidInputError: If a column is missing, or more than a few rows lack a value.
    """
    texts, names, notes = _read_table(path)
    labels, classes = (None, ()) if names is None else label_indices(names)
    train, test = train_test_split(len(texts), labels, seed)
    return Corpus(
        path.stem, labels, classes, train, test, {TEXT_COLUMN: View("text", texts)}, notes=notes
    )


def read_split_tables(train: Path, test: Path) -> Corpus:
    """Texts with a given split, as two CSV or JSONL files in one folder.

    Raises:
        InvalidInputError: If a column is missing, more than a few rows lack a value, or only one
            of the two has labels.
    """
    parts = [_read_table(path) for path in (train, test)]
    texts = [text for part, _, _ in parts for text in part]
    labelled = [names for _, names, _ in parts if names is not None]
    if len(labelled) == 1:
        raise InvalidInputError(
            f"{train.parent}: expected labels in both of its files, or in neither"
        )
    all_names = [name for names in labelled for name in names]
    labels, classes = label_indices(all_names) if labelled else (None, ())
    train_size = len(parts[0][0])
    return Corpus(
        train.parent.name,
        labels,
        classes,
        np.arange(train_size),
        np.arange(train_size, len(texts)),
        {TEXT_COLUMN: View("text", texts)},
        notes=tuple(note for _, _, notes in parts for note in notes),
    )


def read_parallel_texts(paths: Sequence[Path], seed: int = 0) -> Corpus:
    """Texts in several languages, one item a line; each file is a view, named by its suffix.

    Raises:
        InvalidInputError: If the files differ in length, share a suffix, or have an empty line.
    """
    views: dict[str, View] = {}
    for path in paths:
        lines = _read_text(path).splitlines()
        empty = next((i for i, line in enumerate(lines, 1) if not line.strip()), None)
        if empty is not None:
            raise InvalidInputError(f"{path}: line {empty} is empty")
        views[path.suffix.removeprefix(".")] = View("text", lines)
    if len(views) < 2 or "" in views:
        listed = ", ".join(path.name for path in paths)
        raise InvalidInputError(
            f"expected files with different suffixes, such as .fra, got {listed}"
        )
    size = len(next(iter(views.values())).items)
    train, test = train_test_split(size, None, seed)
    return Corpus(paths[0].stem, None, (), train, test, views)


def read_image_folders(folder: Path, seed: int = 0) -> Corpus:
    """Images in one folder for each class, or in `train` and `test` folders of such folders.

    Raises:
        InvalidInputError: If there are fewer than two classes.
    """
    parts = [folder / part for part in PARTS]
    is_split = all(part.is_dir() for part in parts)
    files = [list(_image_files(part)) for part in (parts if is_split else [folder])]
    if len({label for part in files for _, label in part}) < 2:
        raise InvalidInputError(
            f"{folder}: expected a folder of {', '.join(IMAGE_SUFFIXES)} files for each of at "
            "least two classes, a CSV or JSONL file, or two parallel texts"
        )
    images = [image for part in files for image in part]
    labels, classes = label_indices([label for _, label in images])
    if is_split:
        train, test = np.arange(len(files[0])), np.arange(len(files[0]), len(images))
    else:
        train, test = train_test_split(len(images), labels, seed)
    views = {"image": View("image", [path.read_bytes() for path, _ in images])}
    return Corpus(folder.name, labels, classes, train, test, views)


def read_arrays(path: Path, seed: int = 0) -> Corpus:
    """Embeddings (n, d) by space in an .npz file.

    Args:
        path: The file; besides the spaces it may contain `labels` and `groups` (n,), as numbers or
            names, `classes` as names of numbers, indices `train` and `test`, and with these
            `judgements` (len(test), len(train)) as numbers.
        seed: Seed of the split, where the file has none.

    Raises:
        MalformedInputError: If it is not an .npz file of plain arrays.
        InvalidInputError: If the arrays do not match each other.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as npz:
            contents: dict[str, NDArray[Any]] = dict(npz.items())
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise MalformedInputError(f"{path}: expected an .npz file of plain arrays") from error
    rows = {name: array for name, array in contents.items() if name not in RESERVED}
    for name, array in rows.items():
        if array.ndim != 2 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InvalidInputError(
                f"{path}: expected finite embeddings (n, d) as {name}, got {array.dtype} "
                f"{array.shape}"
            )
    labels, classes = _column(contents, "labels", path)
    groups, _ = _column(contents, "groups", path)
    if not rows:
        raise InvalidInputError(f"{path}: expected an array of embeddings for each space, got none")
    if ("train" in contents) != ("test" in contents):
        raise InvalidInputError(f"{path}: expected both train and test, or neither")
    size = len(next(iter(rows.values())))
    if "train" in contents:
        train, test = (contents[part].astype(np.int64) for part in PARTS)
    else:
        train, test = train_test_split(
            size, labels if labels is None or len(labels) == size else None, seed
        )
    return Corpus(
        path.stem,
        labels,
        classes,
        train,
        test,
        rows={name: array.astype(np.float32) for name, array in rows.items()},
        groups=groups,
        judgements=_judgements(contents, path),
    )


def _judgements(contents: Mapping[str, NDArray[Any]], path: Path) -> Floats | None:
    gains = contents.get("judgements")
    if gains is None:
        return None
    if "train" not in contents or gains.dtype.kind not in "fiu" or not (gains >= 0).all():
        raise InvalidInputError(
            f"{path}: expected judgements of 0 or more for given train and test, got {gains.dtype} "
            f"{gains.shape}"
        )
    return gains.astype(np.float32)


def _column(
    contents: Mapping[str, NDArray[Any]], name: str, path: Path
) -> tuple[Indices | None, tuple[str, ...]]:
    column = contents.get(name)
    if column is None:
        return None, ()
    if column.ndim != 1 or column.dtype.kind not in "iuU":
        raise InvalidInputError(
            f"{path}: expected {name} (n,) as whole numbers or names, got {column.dtype} "
            f"{column.shape}"
        )
    if column.dtype.kind == "U":
        return label_indices([str(value) for value in column])
    if name == "labels" and "classes" in contents:
        classes = tuple(str(value) for value in contents["classes"])
        if column.min(initial=0) < 0 or column.max(initial=0) >= len(classes):
            raise InvalidInputError(
                f"{path}: expected labels below {len(classes)}, one for each class"
            )
        return column.astype(np.int64), classes
    values, indices = np.unique(column, return_inverse=True)
    return indices.astype(np.int64), tuple(str(value) for value in values)


def _image_files(folder: Path) -> Iterator[tuple[Path, str]]:
    for subfolder in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted(subfolder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                yield path, subfolder.name


def _read_table(path: Path) -> tuple[list[str], list[str] | None, tuple[str, ...]]:
    """Texts, labels if there is such a column, and notes on rows that were left out."""
    rows = list(_rows(path))
    if not rows:
        raise InvalidInputError(f"{path}: expected at least one row, got none")
    columns = [str(name) for name in rows[0][1]]
    if TEXT_COLUMN not in columns:
        raise InvalidInputError(
            f"{path}: expected a column {TEXT_COLUMN}, got {', '.join(columns)}"
        )
    label = next((name for name in LABEL_COLUMNS if name in columns), None)
    required = [TEXT_COLUMN] if label is None else [TEXT_COLUMN, label]
    incomplete = [
        (line, column)
        for line, row in rows
        if (column := next((c for c in required if not _cell(row, c)), None))
    ]
    if len(incomplete) > MAX_INCOMPLETE * len(rows):
        line, column = incomplete[0]
        raise InvalidInputError(
            f"{path}: line {line} has no {column}, as in {len(incomplete)} of {len(rows)} rows"
        )
    incomplete_lines = {line for line, _ in incomplete}
    complete = [row for line, row in rows if line not in incomplete_lines]
    notes = (f"{path.name}: {len(incomplete)} of {len(rows)} rows are incomplete and left out",)
    return (
        [_cell(row, TEXT_COLUMN) for row in complete],
        None if label is None else [_cell(row, label) for row in complete],
        notes if incomplete else (),
    )


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a CSV or JSONL file, each with its line number."""
    text = _read_text(path)
    if path.suffix == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        for row in reader:
            yield reader.line_num, row
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise MalformedInputError(f"{path}: line {number} is not JSON") from error
        if not isinstance(value, dict):
            raise MalformedInputError(f"{path}: line {number} is not a JSON object")
        yield number, value


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise UnknownResourceError(f"there is no file {path}")
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedInputError(f"{path}: expected UTF-8 text") from error
