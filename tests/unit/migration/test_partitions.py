"""Partitions of blocks, and the stores whose blocks can be read in any order."""

from pathlib import Path

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.migration.base_store import BaseStore
from stitchwork.migration.partitions import MAX_BLOCKS, check_row_cursors, plan_partitions
from stitchwork.migration.stores import open_store
from tests.support.moved_stores import write_parquet


@pytest.mark.parametrize("first", [0, 5, 99])
@pytest.mark.parametrize("stop", [100, 101, 1000])
@pytest.mark.parametrize("cpus", [1, 2, 64])
def test_partitions_have_each_block_that_is_not_written_once(
    first: int, stop: int, cpus: int
) -> None:
    partitions = plan_partitions(first, stop, cpus)
    blocks = [block for start, end in partitions for block in range(start, end)]
    assert blocks == list(range(first, stop))
    sizes = [end - start for start, end in partitions]
    assert max(sizes) <= MAX_BLOCKS
    assert len(partitions) >= min(stop - first, 4 * cpus)


def test_store_that_is_read_from_its_beginning_only_is_refused_by_name(tmp_path: Path) -> None:
    with open_store(f"qdrant:{tmp_path}/db?collection=docs") as store:
        message = r"collection=docs: expected a source of Parquet, Lance, JSON Lines or \.npy files"
        with pytest.raises(InvalidInputError, match=message):
            check_row_cursors(store)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.npy", "rows.jsonl"])
def test_scan_from_a_row_on_reads_the_blocks_of_a_whole_scan(tmp_path: Path, name: str) -> None:
    write_parquet(tmp_path / "rows.parquet", 300)
    np.save(tmp_path / "rows.npy", np.arange(900, dtype=np.float32).reshape(300, 3))
    lines = [f'{{"id": {i}, "embedding": [{i}.5, 1], "text": "é"}}\n\n' for i in range(300)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with open_store(str(tmp_path / name)) as store:
        check_row_cursors(store)
        assert isinstance(store, BaseStore)
        whole = list(store.scan(64))
        starts = store.seek(range(64, 300, 64))
        for cursor, expected in zip(starts, whole[1:], strict=True):
            batch = next(store.scan(64, cursor))
            assert list(batch.ids) == list(expected.ids)
            assert batch.vectors.tobytes() == expected.vectors.tobytes()
            assert batch.payload.records() == expected.payload.records()
            assert batch.cursor == expected.cursor
