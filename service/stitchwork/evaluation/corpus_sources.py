"""From what a command line says to a corpus: a name, a file, a folder, or files side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from stitchwork.errors import InvalidInputError, UnknownResourceError
from stitchwork.evaluation import corpus_files
from stitchwork.evaluation.corpora import Corpus, View, numbered
from stitchwork.evaluation.emoji import LANGUAGES, PICTURES, emoji
from stitchwork.evaluation.image_datasets import Split, digits, fashion_mnist

FASHION_TRAIN: Final = 4000

NAMED: Final[dict[str, Callable[[int], Split]]] = {
    "digits": digits,
    "fashion-mnist": lambda seed: fashion_mnist(seed, FASHION_TRAIN),
}


def corpus(
    source: str,
    *,
    most: int | None = None,
    languages: tuple[str, ...] = LANGUAGES,
    seed: int = 0,
) -> Corpus:
    """The corpus that a name or path means.

    Args:
        source: `digits`, `fashion-mnist`; a CSV, JSONL or .npz file; a folder with `train` and
            `test` files of texts, two parallel texts, the emoji packages, or images by class;
            parallel texts as paths joined by a comma, or the part of their paths that they share.
        most: Rows of each part that stay; None keeps all.
        languages: Of the names of emoji.
        seed: Of split and choice.

    Raises:
        UnknownResourceError: If there is nothing of that name.
        InvalidInputError: If what is there does not have the form that was expected.
    """
    found = _find(source, languages, seed)
    return found if most is None else found.capped(most, seed)


def _find(source: str, languages: tuple[str, ...], seed: int) -> Corpus:
    if source in NAMED:
        return _images(NAMED[source](seed))
    if "," in source:
        return corpus_files.parallel([Path(part) for part in source.split(",")], seed)
    path = Path(source)
    if path.is_dir():
        return _folder(path, languages, seed)
    if path.is_file():
        if path.suffix in corpus_files.TABLES:
            return corpus_files.table(path, seed)
        if path.suffix == ".npz":
            return corpus_files.arrays(path, seed)
        known = ", ".join((*corpus_files.TABLES, ".npz"))
        raise InvalidInputError(
            f"{path}: expected a file of {known}, a folder, or paths with a comma"
        )
    beside = _parallel(path.parent, path.name)
    if len(beside) > 1:
        return corpus_files.parallel(beside, seed)
    raise UnknownResourceError(f"expected {', '.join(NAMED)} or a path, got {source}")


def _folder(folder: Path, languages: tuple[str, ...], seed: int) -> Corpus:
    if (folder / PICTURES).is_dir():
        return emoji(folder, languages, seed)
    for suffix in corpus_files.TABLES:
        train, test = (folder / f"{part}{suffix}" for part in corpus_files.PARTS)
        if train.is_file() and test.is_file():
            return corpus_files.tables(train, test)
    stems = {path.stem for path in folder.iterdir() if path.is_file() and path.suffix}
    pairs = {stem: beside for stem in sorted(stems) if len(beside := _parallel(folder, stem)) > 1}
    if len(pairs) > 1:
        told = ", ".join(str(folder / stem) for stem in pairs)
        raise InvalidInputError(f"{folder}: expected one set of parallel texts; name one of {told}")
    if pairs:
        return corpus_files.parallel(next(iter(pairs.values())), seed)
    return corpus_files.images(folder, seed)


def _parallel(folder: Path, stem: str) -> list[Path]:
    """Files that differ only in their suffix, which names a language."""
    if not folder.is_dir():
        return []
    other = (*corpus_files.TABLES, *corpus_files.PICTURES, ".npz", "")
    found = (path for path in folder.iterdir() if path.is_file() and path.stem == stem)
    return sorted(path for path in found if path.suffix.lower() not in other)


def _images(found: Split) -> Corpus:
    labels, classes = numbered([*found.train_labels, *found.test_labels])
    middle = len(found.train)
    items = [*found.train, *found.test]
    return Corpus(
        found.name,
        labels,
        classes,
        np.arange(middle),
        np.arange(middle, len(items)),
        {"image": View("image", items, found.input_size)},
    )
