"""Tables of LanceDB with repeated ids or several columns of vectors."""

from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.stores import open_store, state_folder
from tests.support.moved_stores import make_map, make_vectors

ROWS = 90


def run(source: str, target: str, folder: Path) -> MoveResult:
    with open_store(source) as rows, open_store(target) as moved:
        return move(rows, moved, make_map(), folder / "state", block_rows=32)


def fixed(vectors: Any) -> Any:
    flat = pa.array(np.asarray(vectors, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def table_of(ids: list[str]) -> Any:
    first = np.random.default_rng(0).normal(size=(ROWS, 5))
    return pa.table({"id": ids, "first": fixed(first), "use": fixed(make_vectors(ROWS))})


def test_chosen_column_of_two_is_translated(tmp_path: Path) -> None:
    table = table_of([f"r{i}" for i in range(ROWS)])
    lancedb.connect(str(tmp_path / "db")).create_table("docs", table)
    run(f"lancedb:{tmp_path}/db?table=docs&column=use", f"lancedb:{tmp_path}/db?table=b", tmp_path)
    moved = lancedb.connect(str(tmp_path / "db")).open_table("b").to_arrow()
    assert moved.column("first").to_pylist() == table.column("first").to_pylist()
    expected = make_map().apply(make_vectors(ROWS)).rows
    np.testing.assert_allclose(moved.column("use").to_pylist(), expected, atol=1e-5)


def test_repeated_ids_of_a_source_are_refused(tmp_path: Path) -> None:
    ids = ["r1", "r1", *[f"r{i}" for i in range(2, ROWS)]]
    pq.write_table(table_of(ids), tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match=r"a\.parquet.*got 1 ids of more than one row"):
        run(f"{tmp_path}/a.parquet?column=use", f"lancedb:{tmp_path}/db?table=b", tmp_path)
    assert lancedb.connect(str(tmp_path / "db")).list_tables().tables == []


def test_repeated_and_null_ids_of_a_table_are_not_moved(tmp_path: Path) -> None:
    ids = ["r1", "r1", *[f"r{i}" for i in range(2, ROWS)]]
    database = lancedb.connect(str(tmp_path / "db"))
    database.create_table("docs", table_of(ids))
    with pytest.raises(InvalidInputError, match=r"docs.*got 1 ids of more than one row"):
        run(f"lancedb:{tmp_path}/db?table=docs&column=use", f"{tmp_path}/b.parquet", tmp_path)
    nulls = pa.table({"id": [None, *ids[1:]], "use": fixed(make_vectors(ROWS))})
    database.create_table("nulls", nulls)
    target = f"lancedb:{tmp_path}/db?table=c"
    result = run(f"lancedb:{tmp_path}/db?table=nulls", target, tmp_path / "other")
    assert (result.written, result.rejected, result.warnings) == (ROWS - 1, 1, [])
    assert '"reason":"no id; it is row 0' in result.rejects.read_text()


def test_lance_data_set_is_moved_by_its_path(tmp_path: Path) -> None:
    table = table_of([f"r{i}" for i in range(ROWS)]).drop_columns(["first"])
    lancedb.connect(str(tmp_path / "in")).create_table("docs", table)
    assert (tmp_path / "in/docs.lance").is_dir()
    result = run(f"{tmp_path}/in/docs.lance", f"{tmp_path}/out/moved.lance", tmp_path)
    assert (result.written, result.warnings) == (ROWS, [])
    moved = lancedb.connect(str(tmp_path / "out")).open_table("moved").to_arrow()
    assert moved.column("id").to_pylist() == table.column("id").to_pylist()
    expected = make_map().apply(make_vectors(ROWS)).rows
    np.testing.assert_allclose(moved.column("use").to_pylist(), expected, atol=1e-5)
    with (
        open_store(f"{tmp_path}/in/nothing.lance") as store,
        pytest.raises(InvalidInputError, match=r"nothing\.lance: no such table"),
    ):
        store.dimension()
    assert state_folder(f"{tmp_path}/out/moved.lance") == tmp_path / "out/moved.lance.migration"
