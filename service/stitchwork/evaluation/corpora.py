"""What an evaluation runs on: inputs in one or several views, labels, and a split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError
from stitchwork.resources import Modality

Indices = NDArray[np.int64]

HELD_OUT: Final = 0.2
"""Share of the rows that is held out where a data set brings no split of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The n inputs of a corpus in one form, such as one language.

    Attributes:
        modality: `text` or `image`.
        items: n texts or n image files.
        input_size: Side in pixels at which encoders should see images; None takes their own.
    """

    modality: Modality
    items: Sequence[str] | Sequence[bytes]
    input_size: int | None = None

    def at(self, rows: Indices) -> "View":
        """The view of some rows only."""
        return View(self.modality, [self.items[i] for i in rows], self.input_size)


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Inputs, or ready embeddings, that are parallel: row i is the same thing in each.

    Attributes:
        name: What reports call it.
        labels: (n,) int64, indices into `classes`; None where there are none.
        classes: Their names.
        train: Indices that anchors and heads may come from.
        test: Indices held out; no index is in both.
        views: Inputs by view.
        rows: Embeddings that came ready, by space: (n, d) float32.
        groups: (n,) int64, finer groups than the classes; None where there are none.
        notes: What a reader of the results should know, such as rows that were left out.

    Raises:
        InvalidInputError: If views, rows, labels or groups differ in length, or there is nothing to
            learn from or nothing held out.
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

    def __post_init__(self) -> None:
        lengths = {name: len(view.items) for name, view in self.views.items()}
        lengths |= {name: len(rows) for name, rows in self.rows.items()}
        lengths |= {} if self.labels is None else {"labels": len(self.labels)}
        lengths |= {} if self.groups is None else {"groups": len(self.groups)}
        if not self.views and not self.rows:
            raise InvalidInputError(f"{self.name}: expected inputs or embeddings, got none")
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise InvalidInputError(f"{self.name}: expected as many rows in each, got {told}")
        for part, rows in (("train", self.train), ("test", self.test)):
            if len(rows) == 0 or rows.min() < 0 or rows.max() >= self.size:
                raise InvalidInputError(
                    f"{self.name}: expected {part} to be some of the {self.size} rows, got "
                    f"{len(rows)} indices"
                )
        shared = np.intersect1d(self.train, self.test).size
        if shared:
            raise InvalidInputError(f"{self.name}: {shared} rows are both in train and in test")

    @property
    def size(self) -> int:
        """The number of rows, n."""
        first = next(iter(self.views.values()), None)
        return len(next(iter(self.rows.values()))) if first is None else len(first.items)

    def capped(self, most: int, seed: int = 0) -> "Corpus":
        """With at most this many rows in each part, every class keeping its share.

        Args:
            most: Rows of `train`, and of `test`, that stay.
            seed: Of the choice.

        Raises:
            InvalidInputError: If nothing would stay.
        """
        if most < 1:
            raise InvalidInputError(f"expected to keep at least one row, got {most}")
        train, test = (evenly(rows, self.labels, most, seed) for rows in (self.train, self.test))
        kept = np.concatenate([train, test])
        return Corpus(
            self.name,
            None if self.labels is None else self.labels[kept],
            self.classes,
            np.arange(len(train)),
            np.arange(len(train), len(kept)),
            {name: view.at(kept) for name, view in self.views.items()},
            {name: rows[kept] for name, rows in self.rows.items()},
            None if self.groups is None else self.groups[kept],
            self.notes,
        )


def evenly(rows: Indices, labels: Indices | None, most: int, seed: int) -> Indices:
    """At most so many of the rows, in an order that the seed decides, classes keeping their shares.

    Args:
        rows: Indices to choose from.
        labels: (n,) the class of every index; None for one class.
        most: How many.
        seed: Of choice and order.
    """
    rng = np.random.default_rng(seed)
    mixed = rows[rng.permutation(len(rows))]
    of = np.zeros(len(mixed), np.int64) if labels is None else labels[mixed]
    # A row's place within its class, as a share of the class: the first `most` of that order hold
    # the same share of every class.
    place = np.empty(len(mixed))
    for label in np.unique(of):
        mine = np.flatnonzero(of == label)
        place[mine] = (np.arange(len(mine)) + rng.uniform(0.25, 0.75)) / len(mine)
    return np.sort(mixed[np.argsort(place, kind="stable")[:most]])


def split(size: int, labels: Indices | None, seed: int = 0) -> tuple[Indices, Indices]:
    """A fifth of the rows held out, of each class if there are labels.

    Returns:
        Indices to learn from and indices held out, each in ascending order.

    Raises:
        InvalidInputError: If there are too few rows to hold one out.
    """
    if size < 2:
        raise InvalidInputError(f"expected at least two rows to split, got {size}")
    everything = np.arange(size)
    test = evenly(everything, labels, max(1, round(HELD_OUT * size)), seed)
    return np.setdiff1d(everything, test), test


def numbered(names: Sequence[str]) -> tuple[Indices, tuple[str, ...]]:
    """Labels as indices into the sorted names of the classes, and those names."""
    classes = tuple(sorted(set(names)))
    place = {name: i for i, name in enumerate(classes)}
    return np.array([place[name] for name in names], np.int64), classes
