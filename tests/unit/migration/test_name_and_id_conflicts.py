"""Stores whose names of columns or ids conflict: what is chosen, refused and left out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.stores import open_store
from tests.support.moved_stores import TARGET_WIDTH, make_map, make_vectors

ROWS = 90


def run(folder: Path, source: str, target: str) -> MoveResult:
    with open_store(f"{folder}/{source}") as rows, open_store(f"{folder}/{target}") as moved:
        return move(rows, moved, make_map(), folder / f"{target}.state", block_rows=32)


def fixed(vectors: Any) -> Any:
    """Vectors as a column of fixed-size lists."""
    flat = pa.array(np.asarray(vectors, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, np.shape(vectors)[1])


def write_columns(folder: Path, **columns: Any) -> Path:
    """A Parquet file `a.parquet` of these columns and a column `use` of vectors of the space x."""
    path = folder / "a.parquet"
    pq.write_table(pa.table({**columns, "use": fixed(make_vectors(ROWS))}), path)
    return path


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rejects(result: MoveResult) -> dict[Any, str]:
    return {row["id"]: row["reason"] for row in read_lines(result.rejects)}


def expected_rows(count: int = ROWS) -> Any:
    return make_map().apply(make_vectors(count)).rows


IDS = [f"r{i}" for i in range(ROWS)]


@pytest.mark.parametrize("width", [5, TARGET_WIDTH])
def test_chosen_column_of_two_fixed_size_ones_is_translated(tmp_path: Path, width: int) -> None:
    first = np.random.default_rng(0).normal(size=(ROWS, width)).astype(np.float32)
    write_columns(tmp_path, id=IDS, first=fixed(first))
    run(tmp_path, "a.parquet?column=use", "b.parquet")
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.column_names == ["id", "first", "use"]
    assert table.column("first").to_pylist() == first.tolist()
    np.testing.assert_allclose(table.column("use").to_pylist(), expected_rows(), atol=1e-6)


def test_json_lines_refuse_a_payload_field_of_the_name_of_the_vectors(tmp_path: Path) -> None:
    other = [[1.0, 2.0]] * ROWS
    write_columns(tmp_path, id=IDS, embedding=other)
    with pytest.raises(InvalidInputError, match=r"r0 has a field embedding.*column=NAME"):
        run(tmp_path, "a.parquet?column=use", "b.jsonl")


def test_json_lines_write_vectors_under_the_name_that_is_chosen(tmp_path: Path) -> None:
    write_columns(tmp_path, id=IDS, embedding=[[1.0, 2.0]] * ROWS)
    run(tmp_path, "a.parquet?column=use", "b.jsonl?column=new")
    rows = read_lines(tmp_path / "b.jsonl")
    assert rows[3]["embedding"] == [1, 2]
    np.testing.assert_allclose([row["new"] for row in rows], expected_rows(), atol=1e-6)


def test_json_lines_refuse_a_payload_field_of_the_name_of_the_ids(tmp_path: Path) -> None:
    write_columns(tmp_path, id=IDS, key=[f"k{i}" for i in range(ROWS)])
    with pytest.raises(InvalidInputError, match=r"k0 has a field id.*id=NAME"):
        run(tmp_path, "a.parquet?id=key&column=use", "b.jsonl")


def test_json_lines_refuse_a_conflict_in_a_later_row(tmp_path: Path) -> None:
    vectors = make_vectors(3).tolist()
    rows = [{"id": i, "use": vector} for i, vector in enumerate(vectors)]
    write_lines(tmp_path / "a.jsonl", [*rows[:2], {**rows[2], "embedding": "text"}])
    with pytest.raises(InvalidInputError, match="row 2 has a field embedding"):
        run(tmp_path, "a.jsonl?column=use", "b.jsonl")


def test_json_lines_refuse_one_field_for_ids_and_vectors(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="different fields of ids and vectors, got x"):
        open_store(f"{tmp_path}/b.jsonl?id=x&column=x")


@pytest.mark.parametrize("option", ["column=text", "id=text", "id=new&column=new"])
def test_parquet_refuses_names_of_other_columns(tmp_path: Path, option: str) -> None:
    write_columns(tmp_path, id=IDS, text=IDS)
    with pytest.raises(InvalidInputError, match=r"columns of different names, got (text|new)"):
        run(tmp_path, "a.parquet", f"b.parquet?{option}")
    assert not (tmp_path / "b.parquet").exists()


@pytest.mark.parametrize("option", ["column=payload", "id=payload", "id=new&column=new"])
def test_parquet_refuses_one_name_for_two_new_columns(tmp_path: Path, option: str) -> None:
    rows = zip(IDS, make_vectors(ROWS).tolist(), strict=True)
    write_lines(tmp_path / "a.jsonl", [{"id": id_, "embedding": row} for id_, row in rows])
    with pytest.raises(InvalidInputError, match=r"columns of different names, got (payload|new)"):
        run(tmp_path, "a.jsonl", f"b.parquet?{option}")


def test_parquet_renames_ids_and_vectors_as_the_target_says(tmp_path: Path) -> None:
    write_columns(tmp_path, id=IDS, text=IDS)
    run(tmp_path, "a.parquet", "b.parquet?id=key&column=new")
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.column_names == ["key", "text", "new"]
    assert table.column("key").to_pylist() == IDS


def test_target_inside_the_folder_of_the_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_columns(tmp_path / "in", id=IDS)
    with pytest.raises(InvalidInputError, match="outside the folder of the source"):
        run(tmp_path, "in/", "in/b.parquet")
    assert not (tmp_path / "in/b.parquet").exists()


def test_parquet_refuses_a_name_for_ids_that_the_source_lacks(tmp_path: Path) -> None:
    write_columns(tmp_path, text=IDS)
    with pytest.raises(InvalidInputError, match="expected a column of ids"):
        run(tmp_path, "a.parquet", "b.parquet?id=key")


@pytest.mark.parametrize("target", ["b.parquet", "b.jsonl", "b.npy"])
def test_repeated_ids_are_refused_with_their_number(tmp_path: Path, target: str) -> None:
    ids = [*IDS[:-3], "r4", "r4", "r7"]
    write_columns(tmp_path, id=ids)
    with pytest.raises(InvalidInputError, match=r"got 2 ids of more than one row, in 5 rows.*'r4'"):
        run(tmp_path, "a.parquet", target)


@pytest.mark.parametrize("target", ["b.jsonl", "b.npy"])
def test_repeated_lines_of_a_file_of_ids_are_refused(tmp_path: Path, target: str) -> None:
    np.save(tmp_path / "a.npy", make_vectors(3))
    (tmp_path / "a.ids.txt").write_text("r1\nr2\nr1\n")
    with pytest.raises(InvalidInputError, match=r"got 1 ids of more than one row, in 2 rows.*'r1'"):
        run(tmp_path, "a.npy", target)


def test_rows_with_repeated_ids_move_when_they_are_numbered(tmp_path: Path) -> None:
    write_columns(tmp_path, id=["one document"] * ROWS)
    result = run(tmp_path, "a.parquet?id=", "b.parquet")
    assert result.written == ROWS
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.column("id").to_pylist() == ["one document"] * ROWS


def test_number_and_text_of_it_are_one_id(tmp_path: Path) -> None:
    rows = zip([1, "1"], make_vectors(2).tolist(), strict=True)
    write_lines(tmp_path / "a.jsonl", [{"id": id_, "embedding": row} for id_, row in rows])
    with pytest.raises(InvalidInputError, match="got 1 ids of more than one row"):
        run(tmp_path, "a.jsonl", "b.jsonl")


@pytest.mark.parametrize("target", ["b.parquet", "b.jsonl"])
def test_rows_with_null_ids_are_left_out_and_listed(tmp_path: Path, target: str) -> None:
    write_columns(tmp_path, id=[None, *IDS[1:40], None, *IDS[41:]])
    result = run(tmp_path, "a.parquet", target)
    assert (result.written, result.rejected, result.warnings) == (ROWS - 2, 2, [])
    assert rejects(result) == {
        row: f"no id; it is row {row} of the store, counted from 0" for row in (0, 40)
    }
    with open_store(f"{tmp_path}/{target}") as store:
        ids = [id_ for batch in store.scan(ROWS) for id_ in batch.ids]
    assert ids == [*IDS[1:40], *IDS[41:]]


def test_lines_without_ids_among_others_are_left_out_and_listed(tmp_path: Path) -> None:
    vectors = make_vectors(ROWS).tolist()
    rows: list[dict[str, Any]] = [{"id": i, "embedding": row} for i, row in enumerate(vectors)]
    del rows[40]["id"]
    rows[41]["id"] = None
    rows[42]["id"] = 40
    write_lines(tmp_path / "a.jsonl", rows)
    result = run(tmp_path, "a.jsonl", "b.parquet")
    assert (result.written, list(rejects(result))) == (ROWS - 2, [40, 41])
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.column("id").to_pylist() == [*range(40), 40, *range(43, ROWS)]
    moved = np.array(table.column("embedding").to_pylist())
    np.testing.assert_allclose(moved[40], expected_rows()[42], atol=1e-6)


def test_first_id_in_a_later_line_is_refused(tmp_path: Path) -> None:
    vectors = make_vectors(3).tolist()
    rows: list[dict[str, Any]] = [{"embedding": row} for row in vectors]
    rows[2]["id"] = "r2"
    write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(InvalidInputError, match="row 2 has an id, and row 0 has none"):
        run(tmp_path, "a.jsonl", "b.parquet")
    result = run(tmp_path, "a.jsonl?id=id", "c.parquet")
    assert (result.written, list(rejects(result))) == (1, [0, 1])


def test_ids_of_another_type_than_the_first_are_refused(tmp_path: Path) -> None:
    rows = zip([1, "two"], make_vectors(2).tolist(), strict=True)
    write_lines(tmp_path / "a.jsonl", [{"id": id_, "embedding": row} for id_, row in rows])
    with pytest.raises(InvalidInputError, match="ids of the type of the first one, int64"):
        run(tmp_path, "a.jsonl", "b.parquet")


def test_array_target_does_not_replace_a_file_of_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", make_vectors(3))
    ids = tmp_path / "mine.ids.txt"
    ids.write_text("a\nb\nc\n")
    for target in ("b.npy", f"b.npy?ids={ids}"):
        (tmp_path / "b.ids.txt").write_text("foreign\n")
        with pytest.raises(ConflictError, match=r"file of ids .*\.ids\.txt exists already"):
            run(tmp_path, f"a.npy?ids={ids}", target)
    assert ids.read_text() == "a\nb\nc\n"
    assert (tmp_path / "b.ids.txt").read_text() == "foreign\n"


def test_array_refuses_itself_as_file_of_ids(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="a file of ids beside the array, got itself"):
        open_store(f"{tmp_path}/b.npy?ids={tmp_path}/b.npy")


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_array_target_of_another_format_is_refused(tmp_path: Path, suffix: str) -> None:
    np.save(tmp_path / "a.npy", make_vectors(3))
    with pytest.raises(InvalidInputError, match=r"expected a target with the suffix \.npy"):
        run(tmp_path, "a.npy", f"b.{suffix}")
