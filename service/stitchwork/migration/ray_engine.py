"""Moves a store with Ray Data, on one machine or many."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from stitchwork import __version__
from stitchwork.errors import ConflictError, InvalidInputError, StitchworkError
from stitchwork.migration.base_store import BaseStore
from stitchwork.migration.block_results import error_table, read_result, rows_table, summary_table
from stitchwork.migration.block_transforms import BlockTransform
from stitchwork.migration.blocks import BlockSummary, written_summary
from stitchwork.migration.checkpoints import Checkpoint
from stitchwork.migration.file_store import FileStore
from stitchwork.migration.overlap import read_ahead
from stitchwork.migration.partitions import Partition, check_row_cursors, plan_partitions
from stitchwork.migration.ray_session import (
    ActorResources,
    cluster_cpus,
    ray_session,
    run_in_actors,
    run_tasks,
)
from stitchwork.migration.store import Batch, Cursor, VectorStore


@dataclass(frozen=True)
class BlockJob:
    """What the tasks of a move have in common; each process of Ray reads it once.

    Attributes:
        source: The store to read.
        target: The store to write; None if the process that began the move writes it.
        transform: Makes the rows to write.
        block_rows: Rows of a block.
        partitions: The partitions; a task has the number of one.
        cursors: The position in the source that each partition begins at.
        release: The release of this package, which all machines must have.
    """

    source: VectorStore
    target: VectorStore | None
    transform: BlockTransform
    block_rows: int
    partitions: list[Partition]
    cursors: list[Cursor]
    release: str = __version__


class RayEngine:
    """Writes blocks in the tasks of Ray Data, as many at a time as the cluster has processors.

    The tasks write files of blocks themselves, to the folder of the checkpoint, which all machines
    must have under the same name. Blocks of other stores are written by the process that began the
    move. Blocks of a machine that is lost are written again by others.

    Transforms that load a model run in actors, which load it once.

    Args:
        address: Address of a cluster, `auto` for that of this machine; None starts one here, unless
            this process is connected already.
        actors: What each actor takes; default: a processor or, if the cluster has any, a GPU.
    """

    def __init__(self, address: str | None = None, actors: ActorResources | None = None) -> None:
        self._address, self._actors = address, actors or ActorResources()

    def check(self, source: VectorStore, target: VectorStore, transform: BlockTransform) -> None:
        """Check that tasks can read the source from any row on, and apply the transform.

        Raises:
            InvalidInputError: If they cannot.
        """
        check_row_cursors(source)
        if transform.place == "caller":
            raise InvalidInputError(
                "expected no rows to embed anew with Ray: leave out --re-embed, or --engine"
            )

    def write_blocks(
        self,
        source: VectorStore,
        target: VectorStore,
        transform: BlockTransform,
        checkpoint: Checkpoint,
        progress: Callable[[int], None],
    ) -> None:
        """Write the blocks that a checkpoint lacks.

        Raises:
            ConflictError: If a machine has another release of this package.
            UnavailableError: If the cluster cannot be reached.
        """
        rows, first = checkpoint.move.block_rows, checkpoint.progress.blocks
        blocks = -(-source.count() // rows)
        if first >= blocks or not isinstance(source, BaseStore):
            return
        with ray_session(self._address):
            actors = self._actors if transform.place == "actors" else None
            workers = actors.count() if actors else cluster_cpus()
            partitions = plan_partitions(first, blocks, workers)
            cursors = source.seek([partition.start * rows for partition in partitions])
            files = target if isinstance(target, FileStore) else None
            job = BlockJob(source, files, transform, rows, partitions, cursors)
            reference, count = ray.put(job), len(partitions)
            if actors:
                results = run_in_actors(count, PartitionWriter, reference, actors)
            else:
                results = run_tasks(count, write_partition, reference)
            for result in results:
                summary, batch = read_result(result)
                if batch is not None:
                    target.write(checkpoint.progress.blocks, batch)
                    summary = written_summary(summary, target)
                checkpoint.add(summary)
                progress(checkpoint.progress.rows)


class PartitionWriter:
    """The class of an actor: its transform keeps what it has loaded.

    Args:
        reference: The job, in Ray's store of objects.
    """

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def __call__(self, numbers: dict[str, NDArray[np.int64]]) -> Iterator[Any]:
        """The same as `write_partition`."""
        yield from write_partition(numbers, self._reference)


def write_partition(numbers: dict[str, NDArray[np.int64]], reference: Any) -> Iterator[Any]:
    """The function of a task: transform the blocks of a partition, and write or return them.

    Args:
        numbers: The number of the partition, as a column `id`.
        reference: The job, in Ray's store of objects.

    Yields:
        The result of each block; the last one of a partition that fails has the error.
    """
    for number in numbers["id"].tolist():
        try:
            yield from _write(_read(reference), number)
        except StitchworkError as error:
            yield error_table(error)
        except FileNotFoundError as error:
            yield error_table(_missing_file(error))


def _write(job: BlockJob, number: int) -> Iterator[Any]:
    start, stop = job.partitions[number]
    with ExitStack() as stack:
        scan = job.source.scan(job.block_rows, job.cursors[number])
        batches: Iterator[Batch] = islice(scan, stop - start)
        if isinstance(job.source, FileStore):
            batches = stack.enter_context(read_ahead(batches))
        results = ((block, *job.transform(batch)) for block, batch in enumerate(batches, start))
        if job.target is None:
            yield from (rows_table(summary, rows, job.source) for _, rows, summary in results)
        else:
            yield from _write_files(job.target, results)


def _write_files(
    target: VectorStore, results: Iterable[tuple[int, Batch, BlockSummary]]
) -> Iterator[Any]:
    """Write blocks in a thread, each while the next one is computed; the result of each."""
    with ThreadPoolExecutor(1, "write") as thread:
        pending: tuple[Future[None], BlockSummary] | None = None
        for block, rows, summary in results:
            written, pending = pending, (thread.submit(target.write, block, rows), summary)
            if written is not None:
                yield _written(*written)
        if pending is not None:
            yield _written(*pending)


def _written(write: "Future[None]", summary: BlockSummary) -> Any:
    write.result()
    return summary_table(summary)


@lru_cache(maxsize=1)
def _read(reference: Any) -> BlockJob:
    """The job; once in each process of Ray, which runs many tasks."""
    job: BlockJob = ray.get(reference)
    if job.release != __version__:
        raise ConflictError(
            f"expected release {job.release} of stitchwork on all machines, got {__version__} on "
            f"{ray.util.get_node_ip_address()}"
        )
    return job


def _missing_file(error: FileNotFoundError) -> StitchworkError:
    return InvalidInputError(
        f"{error.filename}: no such file or folder on {ray.util.get_node_ip_address()}; expected "
        "the source and the folder of the checkpoint under the same names on all machines"
    )
