"""Samples of stores: vectors that are valid, and the texts that they are embeddings of."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.migration.store import (
    ORIGINAL_ID,
    Batch,
    Id,
    Record,
    RecordPayload,
    VectorStore,
)

RATE_ROWS: Final = 2048
RATE_SECONDS: Final = 3.0
"""Reading and translating is timed for at least this many rows, or this long."""

TextReader: TypeAlias = Callable[[Sequence[Id], Sequence[Record]], list[str | None]]
"""The text of each row, by its id and its payload; None where there is none."""


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


def no_texts() -> TextReader:
    """A reader for stores without texts."""
    return lambda ids, records: [None] * len(ids)


def texts_of_field(field: str, *, required: bool = True) -> TextReader:
    """A reader of a field of the payload.

    Args:
        field: The field.
        required: Whether some of the rows that are read at a time must have a text.

    Raises:
        InvalidInputError: When it reads rows none of which has a text in that field.
    """

    def read(ids: Sequence[Id], records: Sequence[Record]) -> list[str | None]:
        lines = [_text(record.get(field)) for record in records]
        if required and records and not any(lines):
            available = sorted({name for record in records for name in record})
            raise InvalidInputError(
                f"expected texts in the field {field}, got none; the rows have "
                f"{', '.join(available) or 'no fields'}"
            )
        return lines

    return read


def texts_of_file(path: Path, *, required: bool = True) -> TextReader:
    """A reader of a file with `{"id": …, "text": …}` on each line.

    Args:
        path: The file.
        required: Whether some of the rows that are read at a time must have a text.

    Raises:
        InvalidInputError: When a line is no such object, or there is no text for any row.
    """

    def read(ids: Sequence[Id], records: Sequence[Record]) -> list[str | None]:
        places: Mapping[str, int] = {str(id_): i for i, id_ in enumerate(ids)}
        lines: list[str | None] = [None] * len(ids)
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    fields = orjson.loads(line)
                    place, text = places.get(str(fields["id"])), fields["text"]
                except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                    raise InvalidInputError(
                        f'{path}, line {number}: expected {{"id": …, "text": …}}'
                    ) from error
                if place is not None:
                    lines[place] = _text(text)
        if required and ids and not any(lines):
            raise InvalidInputError(f"{path}: expected the ids of the store, such as {ids[0]}")
        return lines

    return read


def _original_ids(batch: Batch) -> Sequence[Id]:
    """The ids of rows, also where the store did not accept them as its own."""
    if not isinstance(batch.payload, RecordPayload):
        return batch.ids
    return [
        record.get(ORIGINAL_ID, id_)
        for id_, record in zip(batch.ids, batch.payload.records(), strict=True)
    ]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _valid(batch: Batch) -> NDArray[np.intp]:
    finite = np.isfinite(batch.vectors).all(axis=1)
    valid = np.flatnonzero(finite & batch.vectors.any(axis=1))
    return np.setdiff1d(valid, np.array(list(batch.faults), np.intp))
