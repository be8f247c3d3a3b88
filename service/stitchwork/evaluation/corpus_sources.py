"""Loading a corpus by name or path: a data set, a file, a folder, or parallel files."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from stitchwork.errors import InvalidInputError, UnknownResourceError
from stitchwork.evaluation import corpus_files
from stitchwork.evaluation.corpora import Corpus, View, label_indices
from stitchwork.evaluation.emoji import IMAGE_PACKAGE, LANGUAGES, emoji_corpus
from stitchwork.evaluation.image_datasets import Split, digits, fashion_mnist
from stitchwork.evaluation.judged_documents import JUDGEMENTS, read_judged_documents

FASHION_TRAIN: Final = 4000

DATASETS_BY_NAME: Final[dict[str, Callable[[int], Split]]] = {
    "digits": digits,
    "fashion-mnist": lambda seed: fashion_mnist(seed, FASHION_TRAIN),
}


def load_corpus(
    source: str,
    *,
    max_rows: int | None = None,
    languages: tuple[str, ...] = LANGUAGES,
    seed: int = 0,
) -> Corpus:
    """The corpus of a name or path.

    Args:
        source: `digits`, `fashion-mnist`; a CSV, JSONL or .npz file; a folder with `train` and
            `test` files of texts, documents with judgements, two parallel texts, the emoji
            packages, or images by class;
            parallel texts as paths joined by a comma, or the part of their paths that they share.
        max_rows: Maximum number of rows of each part; None for all.
        languages: Languages of the names of emoji.
        seed: Seed of split and sample.

    Raises:
        UnknownResourceError: If there is no such data set or path.
        InvalidInputError: If its content does not have one of these forms.
    """
    corpus = _load(source, languages, seed)
    return corpus if max_rows is None else corpus.subsample(max_rows, seed)


def _load(source: str, languages: tuple[str, ...], seed: int) -> Corpus:
    if source in DATASETS_BY_NAME:
        return _image_corpus(DATASETS_BY_NAME[source](seed))
    if "," in source:
        return corpus_files.read_parallel_texts([Path(part) for part in source.split(",")], seed)
    path = Path(source)
    if path.is_dir():
        return _load_folder(path, languages, seed)
    if path.is_file():
        if path.suffix in corpus_files.TABLE_SUFFIXES:
            return corpus_files.read_table(path, seed)
        if path.suffix == ".npz":
            return corpus_files.read_arrays(path, seed)
        suffixes = ", ".join((*corpus_files.TABLE_SUFFIXES, ".npz"))
        raise InvalidInputError(
            f"{path}: expected a file of {suffixes}, a folder, or paths joined by a comma"
        )
    files = _parallel_files(path.parent, path.name)
    if len(files) > 1:
        return corpus_files.read_parallel_texts(files, seed)
    raise UnknownResourceError(f"expected {', '.join(DATASETS_BY_NAME)} or a path, got {source}")


def _load_folder(folder: Path, languages: tuple[str, ...], seed: int) -> Corpus:
    if (folder / IMAGE_PACKAGE).is_dir():
        return emoji_corpus(folder, languages, seed)
    if (folder / JUDGEMENTS).is_file():
        return read_judged_documents(folder)
    for suffix in corpus_files.TABLE_SUFFIXES:
        train, test = (folder / f"{part}{suffix}" for part in corpus_files.PARTS)
        if train.is_file() and test.is_file():
            return corpus_files.read_split_tables(train, test)
    stems = {path.stem for path in folder.iterdir() if path.is_file() and path.suffix}
    by_stem = {stem: _parallel_files(folder, stem) for stem in sorted(stems)}
    parallel = {stem: files for stem, files in by_stem.items() if len(files) > 1}
    if len(parallel) > 1:
        candidates = ", ".join(str(folder / stem) for stem in parallel)
        raise InvalidInputError(
            f"{folder}: expected one set of parallel texts; name one of {candidates}"
        )
    if parallel:
        return corpus_files.read_parallel_texts(next(iter(parallel.values())), seed)
    return corpus_files.read_image_folders(folder, seed)


def _parallel_files(folder: Path, stem: str) -> list[Path]:
    """Files that differ only in their suffix, which names a language."""
    if not folder.is_dir():
        return []
    other_suffixes = (*corpus_files.TABLE_SUFFIXES, *corpus_files.IMAGE_SUFFIXES, ".npz", "")
    files = (path for path in folder.iterdir() if path.is_file() and path.stem == stem)
    return sorted(path for path in files if path.suffix.lower() not in other_suffixes)


def _image_corpus(images: Split) -> Corpus:
    labels, classes = label_indices([*images.train_labels, *images.test_labels])
    train_size = len(images.train)
    items = [*images.train, *images.test]
    return Corpus(
        images.name,
        labels,
        classes,
        np.arange(train_size),
        np.arange(train_size, len(items)),
        {"image": View("image", items, images.input_size)},
    )
