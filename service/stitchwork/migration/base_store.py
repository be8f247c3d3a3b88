"""What stores have in common: samples by one pass, and being context managers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final, Self

import numpy as np

from stitchwork.errors import InvalidInputError, StitchworkError
from stitchwork.migration.store import Batch, Cursor, RecordPayload

SCAN_ROWS: Final = 1024


class BaseStore(ABC):
    """A store that may have neither revisions nor random access."""

    @abstractmethod
    def count(self) -> int:
        """The number of rows."""

    @abstractmethod
    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """All rows after a cursor, in a stable order."""

    def revision(self) -> str:
        """Nothing is known about changes."""
        return ""

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
