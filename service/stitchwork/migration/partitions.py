"""Partitions of the blocks of a move, which engines of several machines write at the same time."""

from typing import Final, NamedTuple

from stitchwork.errors import InvalidInputError
from stitchwork.migration.base_store import BaseStore
from stitchwork.migration.store import VectorStore

MAX_BLOCKS: Final = 8
"""Blocks of a partition, which a killed machine costs at most for each of its processors."""
PARTITIONS_PER_CPU: Final = 4
"""So that processors of different speed end at about the same time."""


class Partition(NamedTuple):
    """Blocks of a source that are one after the other.

    Attributes:
        start: Number of the first one.
        stop: Number of the one after the last.
    """

    start: int
    stop: int


def plan_partitions(first: int, stop: int, cpus: int) -> list[Partition]:
    """Partitions of the blocks that are not written yet, in order.

    Args:
        first: Number of the first block that is not written.
        stop: Number of all blocks.
        cpus: Processors that write at the same time.
    """
    size = max(1, min(MAX_BLOCKS, (stop - first) // (PARTITIONS_PER_CPU * max(1, cpus))))
    return [Partition(start, min(start + size, stop)) for start in range(first, stop, size)]


def check_row_cursors(source: VectorStore) -> None:
    """Check that scans of a source can begin at any of its blocks.

    Raises:
        InvalidInputError: If they cannot.
    """
    if not (isinstance(source, BaseStore) and source.HAS_ROW_CURSORS):
        raise InvalidInputError(
            f"{source.name}: expected a source of Parquet, Lance, JSON Lines or .npy files, which "
            "several machines read from any row on; leave out --engine to move other stores"
        )
