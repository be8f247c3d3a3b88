"""Samples of stores: vectors that are valid, and the texts that they are embeddings of."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.migration.row_texts import TextReader
from stitchwork.migration.store import ORIGINAL_ID, Batch, Id, RecordPayload, VectorStore

RATE_ROWS: Final = 2048
RATE_SECONDS: Final = 3.0
"""Reading and translating is timed for at least this many rows, or this long."""


@dataclass(frozen=True, slots=True, eq=False)
class StoreSample:
    """Random rows of a store.

    Attributes:
        rows: Number of rows of the store.
        ids: The id of each row.
        vectors: (m, d) float32, finite and not zero.
        texts: The text of each row; None where there is none.
        invalid: Rows of the sample that were left out, as they have no valid vector.
    """

    rows: int
    ids: list[Id]
    vectors: NDArray[np.float32]
    texts: list[str | None]
    invalid: int

    def with_texts(self) -> "StoreSample":
        """Only the rows that have a text."""
        return self.select([i for i, text in enumerate(self.texts) if text is not None])

    def available_texts(self) -> list[str]:
        """The texts of the rows that have one."""
        return [text for text in self.texts if text is not None]

    def select(self, rows: Sequence[int]) -> "StoreSample":
        """Some of the rows, by their indices."""
        return StoreSample(
            self.rows,
            [self.ids[i] for i in rows],
            self.vectors[np.asarray(rows, np.intp)],
            [self.texts[i] for i in rows],
            self.invalid,
        )


def read_sample(store: VectorStore, count: int, seed: int, texts: TextReader) -> StoreSample:
    """Read rows that are chosen at random.

    Raises:
        InvalidInputError: If none of them has a valid vector.
    """
    batch = store.sample(count, seed)
    valid = _valid(batch)
    if not valid.size:
        raise InvalidInputError(f"{store.name}: none of {len(batch)} rows has a valid vector")
    chosen = batch.select(valid)
    ids = list(chosen.ids)
    lines = texts(ids, chosen.payload.records())
    return StoreSample(store.count(), ids, chosen.vectors, lines, len(batch) - len(chosen))


def read_rows(store: VectorStore, ids: Sequence[Id]) -> dict[str, NDArray[np.float32]]:
    """The vectors of some rows by their ids as text, by one pass over the store.

    Numbers are text in some stores: 7 and "7" are the same id. Rows that it lacks are left out.
    """
    wanted, result = {str(id_) for id_ in ids}, dict[str, NDArray[np.float32]]()
    for batch in store.scan(RATE_ROWS):
        ids = _original_ids(batch)
        for row in _valid(batch):
            id_ = str(ids[row])
            if id_ in wanted:
                result[id_] = batch.vectors[row].copy()
        if len(result) == len(wanted):
            break
    return result


def measure_rate(store: VectorStore, translate: Callable[[NDArray[np.float32]], object]) -> float:
    """Rows per second that are read and translated, of the first ones."""
    done, start = 0, time.perf_counter()
    for batch in store.scan(RATE_ROWS):
        translate(batch.vectors)
        done += len(batch)
        if time.perf_counter() - start > RATE_SECONDS:
            break
    return done / max(time.perf_counter() - start, 1e-9)


def _original_ids(batch: Batch) -> Sequence[Id]:
    """The ids of rows, also where the store did not accept them as its own."""
    if not isinstance(batch.payload, RecordPayload):
        return batch.ids
    return [
        record.get(ORIGINAL_ID, id_)
        for id_, record in zip(batch.ids, batch.payload.records(), strict=True)
    ]


def _valid(batch: Batch) -> NDArray[np.intp]:
    finite = np.isfinite(batch.vectors).all(axis=1)
    valid = np.flatnonzero(finite & batch.vectors.any(axis=1))
    return np.setdiff1d(valid, np.array(list(batch.faults), np.intp))
