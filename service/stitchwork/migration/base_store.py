"""What stores have in common: samples by one pass, and being context managers."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self, TypeVar

import numpy as np

from stitchwork.errors import InvalidInputError, StitchworkError
from stitchwork.migration.json_values import to_fields
from stitchwork.migration.store import Batch, Cursor, Id, Record, RecordPayload, VectorStore

T = TypeVar("T")

SCAN_ROWS: Final = 1024
NO_ID: Final = "no id"
"""How the reason of a row without an id begins."""


class BaseStore(ABC):
    """A store that may have neither revisions nor random access.

    Attributes:
        name: The store in messages, without passwords.
        requires_payload: Whether payloads are read even where a target does not write them.
    """

    name: str
    requires_payload = False
    _rounded = 0
    """Numbers of payloads that were rounded since the last call of `take_rounded`."""

    HAS_ROW_CURSORS: ClassVar[bool] = False
    """Whether scans can begin at any row, by the cursors of `seek`, in any process."""

    @abstractmethod
    def count(self) -> int:
        """The number of rows."""

    @abstractmethod
    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """All rows after a cursor, in a stable order."""

    def seek(self, rows: Sequence[int]) -> list[Cursor]:
        """The cursors of rows by their numbers, which ascend; here a cursor is the number.

        Only of stores with `HAS_ROW_CURSORS`.
        """
        return list(rows)

    def read_ids(self) -> Iterator[Sequence[Id | None]]:
        """All ids where the store does not make sure that each is there once; here it does."""
        return iter(())

    def field_names(self) -> Sequence[str] | None:
        """The fields of the payload where all rows have the same; None where rows differ."""
        return None

    def revision(self) -> str:
        """Nothing is known about changes."""
        return ""

    def take_rounded(self) -> int:
        """How many numbers of payloads were rounded to floats since the last call."""
        rounded, self._rounded = self._rounded, 0
        return rounded

    def _to_fields(self, record: Record, id_: Id) -> Record:
        """A payload as values of JSON with floats, of which those that were rounded count."""
        fields, rounded = to_fields(record, self.name, id_)
        self._rounded += rounded
        return fields

    def mark_complete(self) -> None:
        """Mark the store as complete, after its rows are counted; here, nothing marks it."""
        return

    def is_part_of(self, source: VectorStore) -> bool:
        """Whether writing to this store changes the source, such as a new column of its table."""
        return False

    def sample(self, count: int, seed: int) -> Batch:
        """Rows chosen at random, in the store's order, by one pass over it.

        Raises:
            InvalidInputError: If there are no rows.
        """
        rows = sample_indices(self.count(), count, seed)
        parts, start = list[Batch](), 0
        for batch in self.scan(SCAN_ROWS):
            inside = rows[(rows >= start) & (rows < start + len(batch))]
            if inside.size:
                parts.append(batch.select(inside - start))
            start += len(batch)
            if start > rows[-1]:
                break
        return concatenate(parts)

    @staticmethod
    def client_error(name: str, error: Exception) -> StitchworkError | None:
        """An error of the store's client as one of ours; None for any other error."""
        return None

    def close(self) -> None:
        """Release connections and files; here, none are open between calls."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sample_indices(total: int, count: int, seed: int) -> "np.typing.NDArray[np.intp]":
    """Indices of rows chosen at random, in order.

    Raises:
        InvalidInputError: If there is no row.
    """
    if not total or count < 1:
        raise InvalidInputError(f"expected rows to choose from, got {count} of {total}")
    chosen = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    return np.sort(chosen).astype(np.intp)


def check_folder(store: str, folder: Path) -> None:
    """Check that the folder of a database exists: its client would create it.

    Raises:
        InvalidInputError: If it does not.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{store}: no such folder {folder}")


def check_unique_names(store: str, names: Sequence[str]) -> None:
    """Check that the columns to write have different names.

    Raises:
        InvalidInputError: If a name is there more than once.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InvalidInputError(
            f"{store}: expected columns of different names, got {', '.join(repeated)} more than "
            "once; give the ids or vectors another name by id=NAME or column=NAME of the target"
        )


def choose_vectors(
    store: str,
    noun: str,
    wanted: str | None,
    candidates: Sequence[T],
    listing: Iterable[str],
    empty: str = "",
) -> T:
    """The only field of vectors that may be meant.

    Args:
        store: The store in messages.
        noun: What the store calls its fields.
        wanted: The name that was asked for.
        candidates: The fields of vectors, of that name if one was asked for.
        listing: All fields with their types.
        empty: What stands in their place if there are none.

    Raises:
        InvalidInputError: If it is not clear which one that is.
    """
    if len(candidates) != 1:
        expected = f"a {noun} {wanted}" if wanted else f"one {noun}"
        raise InvalidInputError(
            f"{store}: expected {expected} of vectors, got {', '.join(listing) or empty}; choose "
            "by &column=NAME"
        )
    return candidates[0]


def check_unique_ids(source: VectorStore) -> None:
    """Check that no two rows of a source have one id.

    Ids are compared as texts, and by their hashes first, which take 8 bytes a row.

    Raises:
        InvalidInputError: If an id is there more than once.
    """
    if not isinstance(source, BaseStore):
        return
    hashes = [
        np.array([hash(str(id_)) for id_ in ids if id_ is not None], np.int64)
        for ids in source.read_ids()
    ]
    values, counts = np.unique(np.concatenate([*hashes, np.empty(0, np.int64)]), return_counts=True)
    candidates = set(values[counts > 1].tolist())
    if not candidates:
        return
    rows = Counter(
        str(id_)
        for ids in source.read_ids()
        for id_ in ids
        if id_ is not None and hash(str(id_)) in candidates
    )
    repeated = {id_: count for id_, count in rows.items() if count > 1}
    if repeated:
        id_, count = max(repeated.items(), key=lambda item: item[1])
        raise InvalidInputError(
            f"{source.name}: expected an id of its own for each row, got {len(repeated)} ids of "
            f"more than one row, in {sum(repeated.values())} rows, such as {id_!r} in {count}"
        )


def row_fault(number: int) -> str:
    """The reason of a row without an id, whose number in the store takes its place."""
    return f"{NO_ID}; it is row {number} of the store, counted from 0"


def first_id(source: VectorStore) -> Id | None:
    """The id of the first valid row, whose type those of the others have."""
    for batch in source.scan(SCAN_ROWS):
        for row, id_ in enumerate(batch.ids):
            if row not in batch.faults:
                return id_
    return None


def concatenate(parts: list[Batch]) -> Batch:
    """One batch of several."""
    ids, records, faults, start = [], [], dict[int, str](), 0
    for part in parts:
        faults |= {start + row: text for row, text in part.faults.items()}
        ids += list(part.ids)
        records += part.payload.records()
        start += len(part)
    vectors = np.concatenate([part.vectors for part in parts])
    return Batch(ids, vectors, RecordPayload(records), parts[-1].cursor, faults)
