"""The protocol of stores of vectors, and the batches that go from one to another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import StitchworkError

Id: TypeAlias = int | str
Cursor: TypeAlias = Any
"""A position in a store, as JSON; None is the beginning."""
Record: TypeAlias = dict[str, Any]
ORIGINAL_ID: Final = "original_id"
"""Field of the payload for an id that a store does not accept."""


class Payload(Protocol):
    """What a store has beside the ids and vectors of some rows."""

    def records(self) -> list[Record]:
        """The fields of each row, as values of JSON or of a standard type such as datetime."""

    def select(self, rows: NDArray[np.intp]) -> "Payload":
        """The payload of some of the rows, by their indices."""


@dataclass(frozen=True, slots=True)
class RecordPayload:
    """Fields that may differ from row to row.

    Attributes:
        fields: The fields of each row.
    """

    fields: Sequence[Record]

    def records(self) -> list[Record]:
        """The fields of each row."""
        return list(self.fields)

    def select(self, rows: NDArray[np.intp]) -> "RecordPayload":
        """The payload of some of the rows, by their indices."""
        return RecordPayload([self.fields[row] for row in rows])


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some rows of a store, one after the other in its order.

    Attributes:
        ids: The id of each row.
        vectors: (n, d) float32.
        payload: What else the store has of the rows.
        cursor: The position after the last row.
        faults: Rows without a valid vector, by their indices, each with the reason; `vectors` is
            zero there.
    """

    ids: Sequence[Id]
    vectors: NDArray[np.float32]
    payload: Payload
    cursor: Cursor = None
    faults: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: NDArray[np.intp]) -> "Batch":
        """Some of the rows, by their indices; rows with faults keep them."""
        positions = {int(row): i for i, row in enumerate(rows)}
        faults = {positions[row]: text for row, text in self.faults.items() if row in positions}
        ids = [self.ids[row] for row in rows]
        return Batch(ids, self.vectors[rows], self.payload.select(rows), self.cursor, faults)


class VectorStore(Protocol):
    """A table, collection or file of rows with ids, vectors and payload.

    The methods up to `sample` read; the others write to a store that did not exist before.

    Attributes:
        name: The store in messages, without passwords.
    """

    name: str

    def revision(self) -> str:
        """A text that changes with the content; empty if the store has none."""

    def count(self) -> int:
        """The number of rows."""

    def dimension(self) -> int:
        """The width of the vectors, d."""

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """All rows after a cursor, in an order that is the same each time.

        Args:
            size: Rows of each batch; only the last one may have fewer.
            cursor: The position to begin at.
        """

    def sample(self, count: int, seed: int) -> Batch:
        """Rows chosen at random, in the store's order: all of them if there are fewer."""

    def exists(self) -> bool:
        """Whether there is something under the store's name already."""

    def create(
        self, source: "VectorStore", dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Create the store like another, with vectors of another width.

        Called again when a move is resumed: what exists then is the store itself.

        Args:
            source: The store whose configuration and columns it takes over, as far as it can.
            dimension: The width of its vectors.
            folder: An existing folder on this machine for what is not complete.
            stamp: Names and versions to store with the rows, where the store has a place for them.
        """

    def write(self, block: int, batch: Batch) -> None:
        """Write the rows of a block; writing the same block again changes nothing.

        Args:
            block: Number of the block, from 0.
            batch: Its rows; there may be none.
        """

    def finish(self) -> None:
        """Complete the store after its last block; calling it again changes nothing."""

    @staticmethod
    def client_error(name: str, error: Exception) -> StitchworkError | None:
        """An error of the store's client as one of ours; None for any other error."""

    def close(self) -> None:
        """Release connections and files."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
