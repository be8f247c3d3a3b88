"""Corpora out of files: texts, images by class, parallel lines, and embeddings."""

import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError, MalformedInputError, UnknownResourceError
from stitchwork.evaluation.corpora import Corpus, Indices, View, numbered, split

TABLES: Final = (".csv", ".jsonl")
PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
TEXT: Final = "text"
LABELS: Final = ("label", "category")
PARTS: Final = ("train", "test")
MOST_INCOMPLETE: Final = 0.01
"""Share of rows without text or label up to which they are left out, as real files have a few."""
RESERVED: Final = ("labels", "groups", "classes", "train", "test")
"""Arrays of an .npz file that are not a space."""


def table(path: Path, seed: int = 0) -> Corpus:
    """Texts with labels in a CSV or JSONL file; a fifth is held out.

    Args:
        path: A file with `text` and, for the classes, `label` or `category`.
        seed: Of the split.

    Raises:
        InvalidInputError: If a column is missing, or more than a few rows lack a value.
    """
    texts, names, notes = _read_table(path)
    labels, classes = (None, ()) if names is None else numbered(names)
    train, test = split(len(texts), labels, seed)
    return Corpus(path.stem, labels, classes, train, test, {TEXT: View("text", texts)}, notes=notes)


def tables(train: Path, test: Path) -> Corpus:
    """Texts with labels that come split, as two CSV or JSONL files in one folder.

    Raises:
        InvalidInputError: If a column is missing, more than a few rows lack a value, or only one
        of the
            two has labels.
    """
    parts = [_read_table(path) for path in (train, test)]
    texts = [text for found, _, _ in parts for text in found]
    named = [names for _, names, _ in parts if names is not None]
    if len(named) == 1:
        raise InvalidInputError(
            f"{train.parent}: expected labels in both of its files, or in neither"
        )
    labels, classes = numbered([n for names in named for n in names]) if named else (None, ())
    middle = len(parts[0][0])
    return Corpus(
        train.parent.name,
        labels,
        classes,
        np.arange(middle),
        np.arange(middle, len(texts)),
        {TEXT: View("text", texts)},
        notes=tuple(note for _, _, notes in parts for note in notes),
    )


def parallel(paths: Sequence[Path], seed: int = 0) -> Corpus:
    """Texts in several languages, line by line; each file is one view, named by its suffix.

    Raises:
        InvalidInputError: If the files differ in length, share a suffix, or have an empty line.
    """
    views: dict[str, View] = {}
    for path in paths:
        lines = _read(path).splitlines()
        empty = next((i for i, line in enumerate(lines, 1) if not line.strip()), None)
        if empty is not None:
            raise InvalidInputError(f"{path}: line {empty} is empty")
        views[path.suffix.removeprefix(".")] = View("text", lines)
    if len(views) < 2 or "" in views:
        told = ", ".join(path.name for path in paths)
        raise InvalidInputError(
            f"expected files with suffixes of their own, such as .fra, got {told}"
        )
    size = len(next(iter(views.values())).items)
    train, test = split(size, None, seed)
    return Corpus(paths[0].stem, None, (), train, test, views)


def images(folder: Path, seed: int = 0) -> Corpus:
    """Images in one folder for each class, or in `train` and `test` with such folders.

    Raises:
        InvalidInputError: If there are fewer than two classes.
    """
    parts = [folder / part for part in PARTS]
    is_split = all(part.is_dir() for part in parts)
    found = [list(_pictures(part)) for part in (parts if is_split else [folder])]
    if len({label for part in found for _, label in part}) < 2:
        raise InvalidInputError(
            f"{folder}: expected a folder of {', '.join(PICTURES)} files for each of at least two "
            "classes, a CSV or JSONL file, or two parallel texts"
        )
    both = [picture for part in found for picture in part]
    labels, classes = numbered([label for _, label in both])
    if is_split:
        train, test = np.arange(len(found[0])), np.arange(len(found[0]), len(both))
    else:
        train, test = split(len(both), labels, seed)
    views = {"image": View("image", [path.read_bytes() for path, _ in both])}
    return Corpus(folder.name, labels, classes, train, test, views)


def arrays(path: Path, seed: int = 0) -> Corpus:
    """Embeddings (n, d) by space in an .npz file.

    Args:
        path: The file; beside the spaces it may hold `labels` and `groups` (n,), as numbers or
            names, `classes` to name numbers, and indices `train` and `test`.
        seed: Of the split, where the file has none.

    Raises:
        MalformedInputError: If it is not an .npz file of plain arrays.
        InvalidInputError: If the arrays do not fit each other.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as npz:
            held: dict[str, NDArray[Any]] = dict(npz.items())
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise MalformedInputError(f"{path}: expected an .npz file of plain arrays") from error
    rows = {name: array for name, array in held.items() if name not in RESERVED}
    for name, array in rows.items():
        if array.ndim != 2 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InvalidInputError(
                f"{path}: expected finite embeddings (n, d) as {name}, got {array.dtype} "
                f"{array.shape}"
            )
    labels, classes = _column(held, "labels", path)
    groups, _ = _column(held, "groups", path)
    if not rows:
        raise InvalidInputError(f"{path}: expected an array of embeddings for each space, got none")
    if ("train" in held) != ("test" in held):
        raise InvalidInputError(f"{path}: expected both train and test, or neither")
    size = len(next(iter(rows.values())))
    if "train" in held:
        train, test = (held[part].astype(np.int64) for part in PARTS)
    else:
        train, test = split(size, labels if labels is None or len(labels) == size else None, seed)
    return Corpus(
        path.stem,
        labels,
        classes,
        train,
        test,
        rows={name: array.astype(np.float32) for name, array in rows.items()},
        groups=groups,
    )


def _column(
    held: Mapping[str, NDArray[Any]], name: str, path: Path
) -> tuple[Indices | None, tuple[str, ...]]:
    column = held.get(name)
    if column is None:
        return None, ()
    if column.ndim != 1 or column.dtype.kind not in "iuU":
        raise InvalidInputError(
            f"{path}: expected {name} (n,) as whole numbers or names, got {column.dtype} "
            f"{column.shape}"
        )
    if column.dtype.kind == "U":
        return numbered([str(value) for value in column])
    if name == "labels" and "classes" in held:
        classes = tuple(str(value) for value in held["classes"])
        if column.min(initial=0) < 0 or column.max(initial=0) >= len(classes):
            raise InvalidInputError(
                f"{path}: expected labels below {len(classes)}, one for each class"
            )
        return column.astype(np.int64), classes
    known, places = np.unique(column, return_inverse=True)
    return places.astype(np.int64), tuple(str(value) for value in known)


def _pictures(folder: Path) -> Iterator[tuple[Path, str]]:
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted(inner.iterdir()):
            if path.suffix.lower() in PICTURES:
                yield path, inner.name


def _read_table(path: Path) -> tuple[list[str], list[str] | None, tuple[str, ...]]:
    """Texts, labels where there is a column of them, and what was left out."""
    rows = list(_rows(path))
    if not rows:
        raise InvalidInputError(f"{path}: expected at least one row, got none")
    columns = [str(name) for name in rows[0][1]]
    if TEXT not in columns:
        raise InvalidInputError(f"{path}: expected a column {TEXT}, got {', '.join(columns)}")
    label = next((name for name in LABELS if name in columns), None)
    wanted = [TEXT] if label is None else [TEXT, label]
    cut = [
        (line, column)
        for line, row in rows
        if (column := next((c for c in wanted if not _cell(row, c)), None))
    ]
    if len(cut) > MOST_INCOMPLETE * len(rows):
        line, column = cut[0]
        raise InvalidInputError(
            f"{path}: line {line} has no {column}, and so it is in {len(cut)} of {len(rows)} rows"
        )
    left = {line for line, _ in cut}
    kept = [row for line, row in rows if line not in left]
    notes = (f"{path.name}: {len(cut)} of {len(rows)} rows are incomplete and left out",)
    return (
        [_cell(row, TEXT) for row in kept],
        None if label is None else [_cell(row, label) for row in kept],
        notes if cut else (),
    )


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a CSV or JSONL file, each with the number of its line."""
    text = _read(path)
    if path.suffix == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        for row in reader:
            yield reader.line_num, row
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            told = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise MalformedInputError(f"{path}: line {number} is not JSON") from error
        if not isinstance(told, dict):
            raise MalformedInputError(f"{path}: line {number} is not a JSON object")
        yield number, told


def _read(path: Path) -> str:
    if not path.is_file():
        raise UnknownResourceError(f"there is no file {path}")
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedInputError(f"{path}: expected UTF-8 text") from error
