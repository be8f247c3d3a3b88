"""Moves a store with Ray Data, on one machine or many."""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from stitchwork import __version__
from stitchwork.errors import ConflictError, InvalidInputError, StitchworkError
from stitchwork.migration.blocks import BlockSummary, translate_block
from stitchwork.migration.checkpoints import Checkpoint
from stitchwork.migration.file_store import FileStore
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.partitions import Partition, check_row_cursors, plan_partitions
from stitchwork.migration.ray_session import cluster_cpus, ray_session, run_tasks
from stitchwork.migration.re_embedding import Embed
from stitchwork.migration.store import Batch, VectorStore

COLUMN: Final = "result"
"""Of the rows that the tasks return: one for each block, pickled."""
SCHEMA: Final = pa.schema([(COLUMN, pa.large_binary())])


@dataclass(frozen=True)
class BlockJob:
    """What the tasks of a move have in common; each process of Ray reads it once.

    Attributes:
        source: The store to read.
        target: The store to write; None if the process that began the move writes it.
        offline_map: The file of the map.
        uncovered: What happens to rows that the anchors do not cover: `keep` or `reject`.
        block_rows: Rows of a block.
        partitions: The partitions; a task has the number of one.
        release: The release of this package, which all machines must have.
    """

    source: VectorStore
    target: VectorStore | None
    offline_map: bytes
    uncovered: str
    block_rows: int
    partitions: list[Partition]
    release: str = __version__


class RayEngine:
    """Writes blocks in the tasks of Ray Data, as many at a time as the cluster has processors.

    The tasks write files of blocks themselves, to the folder of the checkpoint, which all machines
    must have under the same name. Blocks of other stores are written by the process that began the
    move. Blocks of a machine that is lost are written again by others.

    Args:
        address: Address of a cluster, `auto` for that of this machine; None starts one here, unless
            this process is connected already.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    def check_stores(self, source: VectorStore, target: VectorStore) -> None:
        """Check that tasks can read the source from any row on.

        Raises:
            InvalidInputError: If they cannot.
        """
        check_row_cursors(source)

    def write_blocks(
        self,
        source: VectorStore,
        target: VectorStore,
        offline_map: OfflineMap,
        checkpoint: Checkpoint,
        re_embed: Embed | None,
        progress: Callable[[int], None],
    ) -> None:
        """Write the blocks that a checkpoint lacks.

        Raises:
            InvalidInputError: If rows are to be embedded, which its tasks cannot.
            ConflictError: If a machine has another release of this package.
            UnavailableError: If the cluster cannot be reached.
        """
        if re_embed is not None:
            raise InvalidInputError(
                "expected no rows to embed anew with Ray: leave out --re-embed, or --engine"
            )
        move, first = checkpoint.move, checkpoint.progress.blocks
        blocks = -(-source.count() // move.block_rows)
        if first >= blocks:
            return
        with ray_session(self._address):
            job = BlockJob(
                source,
                target if isinstance(target, FileStore) else None,
                offline_map.data,
                move.uncovered,
                move.block_rows,
                plan_partitions(first, blocks, cluster_cpus()),
            )
            for result in run_tasks(len(job.partitions), write_partition, ray.put(job)):
                summary, rows = pickle.loads(result[COLUMN])  # noqa: S301 of this move's tasks
                if isinstance(summary, StitchworkError):
                    raise summary
                if rows is not None:
                    target.write(checkpoint.progress.blocks, rows)
                checkpoint.add(summary)
                progress(checkpoint.progress.rows)


def write_partition(numbers: dict[str, NDArray[np.int64]], reference: Any) -> Iterator[Any]:
    """The function of a task: translate the blocks of a partition, and write or return them.

    Args:
        numbers: The number of the partition, as a column `id`.
        reference: The job, in Ray's store of objects.

    Yields:
        For each block a table of one row: its summary and, if it is not written, its rows. An error
        is in place of the summary, since Ray would wrap it.
    """
    for number in numbers["id"].tolist():
        try:
            for summary, rows in _write(reference, number):
                yield _table((summary, rows))
        except StitchworkError as error:
            yield _table((error, None))
        except FileNotFoundError as error:
            yield _table((_missing_file(error), None))


def _write(reference: Any, number: int) -> Iterator[tuple[BlockSummary, Batch | None]]:
    job, offline_map = _read(reference)
    start, stop = job.partitions[number]
    batches = job.source.scan(job.block_rows, start * job.block_rows or None)
    for block, batch in enumerate(islice(batches, stop - start), start):
        rows, summary = translate_block(batch, offline_map, job.uncovered)
        if job.target is None:
            yield summary, rows
        else:
            job.target.write(block, rows)
            yield summary, None


@lru_cache(maxsize=1)
def _read(reference: Any) -> tuple[BlockJob, OfflineMap]:
    """The job and its map; once in each process of Ray, which runs many tasks."""
    job: BlockJob = ray.get(reference)
    if job.release != __version__:
        raise ConflictError(
            f"expected release {job.release} of stitchwork on all machines, got {__version__} on "
            f"{ray.util.get_node_ip_address()}"
        )
    return job, OfflineMap(job.offline_map)


def _missing_file(error: FileNotFoundError) -> StitchworkError:
    return InvalidInputError(
        f"{error.filename}: no such file or folder on {ray.util.get_node_ip_address()}; expected "
        "the source and the folder of the checkpoint under the same names on all machines"
    )


def _table(result: tuple[Any, Batch | None]) -> Any:
    return pa.table({COLUMN: [pickle.dumps(result)]}, SCHEMA)
