"""Corpora: inputs in one or several views, labels, and a train/test split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError
from stitchwork.resources import Modality

Indices = NDArray[np.int64]

TEST_SHARE: Final = 0.2
"""Share of the rows that is held out where a data set has no split."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The n inputs of a corpus in one form, such as one language.

    Attributes:
        modality: `text` or `image`.
        items: n texts or n image files.
        input_size: Side in pixels to which images are resized; None uses the encoder's default.
    """

    modality: Modality
    items: Sequence[str] | Sequence[bytes]
    input_size: int | None = None

    def select(self, indices: Indices) -> Self:
        """The view of some rows only."""
        return replace(self, items=[self.items[i] for i in indices])


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Parallel inputs or embeddings: row i is the same item in each.

    Attributes:
        name: Name in reports.
        labels: (n,) int64, indices into `classes`; None where there are none.
        classes: Names of the classes.
        train: Indices that anchors and heads may use.
        test: Indices held out; no index is in both.
        views: Inputs by view.
        rows: Embeddings that need no encoder, by space: (n, d) float32.
        groups: (n,) int64, finer groups than the classes; None where there are none.
        notes: Remarks for the report, such as rows that were left out.
        judgements: (len(test), len(train)) float32, how useful each document is to each query, 0
            for of no use: the training rows are documents, and the test rows queries. None where
            there are none.

    Raises:
        InvalidInputError: If views, rows, labels or groups differ in length, or the train or test
            part is empty.
    """

    name: str
    labels: Indices | None
    classes: tuple[str, ...]
    train: Indices
    test: Indices
    views: Mapping[str, View] = field(default_factory=dict)
    rows: Mapping[str, Floats] = field(default_factory=dict)
    groups: Indices | None = None
    notes: tuple[str, ...] = ()
    judgements: Floats | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(view.items) for name, view in self.views.items()}
        lengths |= {name: len(rows) for name, rows in self.rows.items()}
        lengths |= {} if self.labels is None else {"labels": len(self.labels)}
        lengths |= {} if self.groups is None else {"groups": len(self.groups)}
        if not self.views and not self.rows:
            raise InvalidInputError(f"{self.name}: expected inputs or embeddings, got none")
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise InvalidInputError(f"{self.name}: expected equal numbers of rows, got {listed}")
        for part, rows in (("train", self.train), ("test", self.test)):
            if len(rows) == 0 or rows.min() < 0 or rows.max() >= self.size:
                raise InvalidInputError(
                    f"{self.name}: expected {part} to be some of the {self.size} rows, got "
                    f"{len(rows)} indices"
                )
        shared = np.intersect1d(self.train, self.test).size
        if shared:
            raise InvalidInputError(f"{self.name}: {shared} rows are both in train and in test")
        shape = (len(self.test), len(self.train))
        if self.judgements is not None and self.judgements.shape != shape:
            raise InvalidInputError(
                f"{self.name}: expected judgements {shape}, got {self.judgements.shape}"
            )

    @property
    def size(self) -> int:
        """Number of rows, n."""
        first = next(iter(self.views.values()), None)
        return len(next(iter(self.rows.values()))) if first is None else len(first.items)

    def subsample(self, max_rows: int, seed: int = 0) -> "Corpus":
        """A stratified sample of at most this many rows of each part.

        Args:
            max_rows: Maximum number of rows of `train`, and of `test`.
            seed: Seed of the sample.

        Raises:
            InvalidInputError: If the maximum is less than 1.
        """
        if max_rows < 1:
            raise InvalidInputError(f"expected a maximum of at least 1 row, got {max_rows}")
        train, test = (
            stratified_sample(rows, self.labels, max_rows, seed) for rows in (self.train, self.test)
        )
        indices = np.concatenate([train, test])
        return Corpus(
            self.name,
            None if self.labels is None else self.labels[indices],
            self.classes,
            np.arange(len(train)),
            np.arange(len(train), len(indices)),
            {name: view.select(indices) for name, view in self.views.items()},
            {name: rows[indices] for name, rows in self.rows.items()},
            None if self.groups is None else self.groups[indices],
            self.notes,
            None
            if self.judgements is None
            else self.judgements[
                np.ix_(_positions(self.test, test), _positions(self.train, train))
            ],
        )


def _positions(values: Indices, selected: Indices) -> Indices:
    """Where each of some values is among all of them."""
    order = np.argsort(values)
    positions: Indices = order[np.searchsorted(values, selected, sorter=order)]
    return positions


def stratified_sample(rows: Indices, labels: Indices | None, max_rows: int, seed: int) -> Indices:
    """At most this many of the rows, with every class in proportion.

    Args:
        rows: Indices to choose from.
        labels: (n,) the class of every index; None for one class.
        max_rows: Maximum number of rows.
        seed: Seed of the choice.

    Returns:
        Indices in ascending order.
    """
    rng = np.random.default_rng(seed)
    shuffled = rows[rng.permutation(len(rows))]
    classes = np.zeros(len(shuffled), np.int64) if labels is None else labels[shuffled]
    # A row's position within its class, as a share of the class: the first rows in that order
    # contain the same share of every class.
    position = np.empty(len(shuffled))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        position[members] = (np.arange(len(members)) + rng.uniform(0.25, 0.75)) / len(members)
    return np.sort(shuffled[np.argsort(position, kind="stable")[:max_rows]])


def train_test_split(size: int, labels: Indices | None, seed: int = 0) -> tuple[Indices, Indices]:
    """A split with a fifth of the rows, of each class if there are labels, in the test part.

    Returns:
        Train and test indices, each in ascending order.

    Raises:
        InvalidInputError: If there are too few rows to hold one out.
    """
    if size < 2:
        raise InvalidInputError(f"expected at least two rows to split, got {size}")
    rows = np.arange(size)
    test = stratified_sample(rows, labels, max(1, round(TEST_SHARE * size)), seed)
    return np.setdiff1d(rows, test), test


def label_indices(names: Sequence[str]) -> tuple[Indices, tuple[str, ...]]:
    """Labels as indices into the sorted names of the classes, and those names."""
    classes = tuple(sorted(set(names)))
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[name] for name in names], np.int64), classes
