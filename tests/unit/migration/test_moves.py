"""Moves of stores on this machine: what is written, left out and refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.blocks import Uncovered
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.stores import open_store, state_folder
from tests.support.moved_stores import TARGET_WIDTH, make_map, make_vectors, write_parquet

ROWS = 300


def run(
    source: Path, target: Path | str, offline_map: OfflineMap, *, uncovered: Uncovered = "keep"
) -> MoveResult:
    with open_store(str(source)) as rows, open_store(str(target)) as moved:
        state = state_folder(str(target))
        return move(rows, moved, offline_map, state, uncovered=uncovered, block_rows=64)


def test_parquet_keeps_its_columns_in_their_order_and_names_the_versions(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", ROWS)
    before = (tmp_path / "a.parquet").read_bytes()
    result = run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.column_names == source.column_names
    for name in ("label", "id", "text"):
        assert table.column(name).equals(source.column(name))
        assert table.schema.field(name).type == source.schema.field(name).type
    rows = np.array(table.column("embedding").to_pylist(), np.float32)
    np.testing.assert_allclose(rows, make_map().apply(make_vectors(ROWS)).rows, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    stamp = json.loads(table.schema.metadata[b"stitchwork"])
    assert stamp == make_map().versions._asdict() == result.versions
    assert (tmp_path / "a.parquet").read_bytes() == before
    assert (result.rows, result.written, result.rejected) == (ROWS, ROWS, 0)


def test_rows_without_a_valid_vector_are_listed_and_left_out(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS, with_faults=True)
    result = run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())
    rejects = [json.loads(line) for line in result.rejects.read_text().splitlines()]
    assert {reject["id"]: reject["reason"] for reject in rejects} == {
        "r3": "no vector",
        "r5": "expected 16 numbers, got 4",
        "r7": "a number that is not finite",
    }
    ids = pq.read_table(tmp_path / "b.parquet").column("id").to_pylist()
    assert ids == [f"r{i}" for i in range(ROWS) if i not in (3, 5, 7)]


def test_rows_that_are_not_covered_are_counted_or_left_out(tmp_path: Path) -> None:
    vectors = make_vectors(ROWS)
    vectors[10:20] = 5 * np.random.default_rng(3).normal(size=(10, 16))
    np.save(tmp_path / "a.npy", vectors)
    covered = make_map().apply(vectors).covered
    outside = np.flatnonzero(~covered).tolist()
    assert outside
    result = run(tmp_path / "a.npy", tmp_path / "b.npy", make_map())
    assert (result.written, result.uncovered) == (ROWS, len(outside))
    assert f"{len(outside)} of {ROWS} rows are not covered" in result.warnings[0]
    result = run(tmp_path / "a.npy", tmp_path / "c.npy", make_map(), uncovered="reject")
    rejects = [json.loads(line) for line in result.rejects.read_text().splitlines()]
    assert [reject["id"] for reject in rejects] == outside
    assert (result.rejected, result.uncovered, result.warnings) == (len(outside), 0, [])
    assert np.load(tmp_path / "c.npy").shape == (ROWS - len(outside), TARGET_WIDTH)
    ids = (tmp_path / "c.ids.txt").read_text().split()
    assert ids == [str(i) for i in range(ROWS) if i not in outside]


def test_finished_move_is_not_repeated(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())
    written = (tmp_path / "b.parquet").stat().st_mtime_ns
    result = run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())
    assert (result.resumed_at, result.written) == (ROWS, ROWS)
    assert (tmp_path / "b.parquet").stat().st_mtime_ns == written


def test_existing_target_is_refused_and_not_changed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    (tmp_path / "b.parquet").write_text("something else")
    with pytest.raises(ConflictError, match=r"b\.parquet exists already"):
        run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())
    assert (tmp_path / "b.parquet").read_text() == "something else"


def begin(tmp_path: Path) -> None:
    """Begin a move that stops after its first block."""
    source = tmp_path / "a.parquet"
    write_parquet(source, ROWS)

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    target = f"{tmp_path}/b.parquet"
    with (
        open_store(str(source)) as rows,
        open_store(target) as moved,
        pytest.raises(KeyboardInterrupt),
    ):
        move(rows, moved, make_map(), state_folder(target), block_rows=64, progress=stop)


def test_replaced_space_stops_a_move_that_has_begun(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(ConflictError, match="another version of the source space: x1, now x2"):
        run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map(version="x2"))


def test_another_bridge_stops_a_move_that_has_begun(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(ConflictError, match="another bridge: ridge, now exp"):
        run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map("exp"))


def test_source_that_changed_stops_a_move_that_has_begun(tmp_path: Path) -> None:
    begin(tmp_path)
    write_parquet(tmp_path / "a.parquet", ROWS + 1)
    message = r"a\.parquet has changed since the move to .*b\.parquet began: rows of both"
    with pytest.raises(ConflictError, match=message):
        run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())


def test_store_of_another_width_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 5), np.float32))
    with pytest.raises(InvalidInputError, match=r"expected vectors of 16 numbers.*space x.*got 5"):
        run(tmp_path / "a.npy", tmp_path / "b.npy", make_map())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy"]


def test_array_file_refuses_payloads_by_the_names_of_their_fields(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    with pytest.raises(InvalidInputError, match="no place for label, text"):
        run(tmp_path / "a.parquet", tmp_path / "b.npy", make_map())


def test_payloads_go_from_parquet_to_json_lines_and_back(tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "a.parquet", ROWS)
    run(tmp_path / "a.parquet", tmp_path / "b.jsonl", make_map())
    rows = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == table.column("text").to_pylist()
    assert {len(row["embedding"]) for row in rows} == {TARGET_WIDTH}
    with open_store(f"{tmp_path}/b.jsonl") as store:
        assert next(store.scan(2)).payload.records()[1] == {
            "label": 1,
            "text": "text 1\nof two lines",
        }


def test_folder_of_parquet_files_becomes_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in/1.parquet", ROWS)
    run(tmp_path / "in", f"{tmp_path}/out/", make_map())
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"part-{block:06d}.parquet" for block in range(5)]
    assert pq.read_table(tmp_path / "out").num_rows == ROWS


def test_rows_of_another_length_than_the_anchors_are_counted_in_one_warning(tmp_path: Path) -> None:
    vectors = make_vectors(ROWS)
    vectors[100:250] *= 40
    np.save(tmp_path / "a.npy", vectors)
    result = run(tmp_path / "a.npy", tmp_path / "b.npy", make_map())
    (warning,) = [text for text in result.warnings if "length" in text]
    assert (result.written, result.mismatched) == (ROWS, 150)
    assert warning.startswith(
        "the lengths of 150 of 300 rows do not fit the space x; in the first block with such rows, "
        "28 of 64 embeddings have length"
    )
    assert "the anchors of space x" in warning


def test_normalised_rows_are_named_as_such(tmp_path: Path) -> None:
    vectors = make_vectors(ROWS)
    np.save(tmp_path / "a.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    result = run(tmp_path / "a.npy", tmp_path / "b.npy", make_map())
    assert result.mismatched == ROWS
    assert "were they normalised, such as by a vector store?" in " ".join(result.warnings)


def test_rows_of_zeros_are_left_out_and_listed(tmp_path: Path) -> None:
    vectors = make_vectors(ROWS)
    vectors[[5, 77]] = 0
    np.save(tmp_path / "a.npy", vectors)
    result = run(tmp_path / "a.npy", tmp_path / "b.npy", make_map())
    rejects = [json.loads(line) for line in result.rejects.read_text().splitlines()]
    assert [(reject["id"], reject["reason"]) for reject in rejects] == [
        (5, "all its numbers are zero"),
        (77, "all its numbers are zero"),
    ]
    assert (result.written, result.mismatched, result.warnings) == (ROWS - 2, 0, [])
    assert len(np.load(tmp_path / "b.npy")) == ROWS - 2


def test_other_spellings_of_source_and_target_resume_the_same_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = run(Path("a.parquet"), "./b.parquet", make_map())
    assert (result.resumed_at, result.written) == (64, ROWS)
    write_parquet(tmp_path / "c.parquet", ROWS)
    with pytest.raises(ConflictError, match=r"another source: .*a\.parquet, now c\.parquet"):
        run(Path("c.parquet"), "b.parquet", make_map())


def test_complete_move_is_not_called_incomplete(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())
    with pytest.raises(ConflictError, match="That move is complete") as caught:
        run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map("exp"))
    assert "incomplete" not in str(caught.value)


def test_lost_part_is_an_error_and_the_move_stays_incomplete(tmp_path: Path) -> None:
    begin(tmp_path)
    state = tmp_path / "b.parquet.migration"
    next((state / "parts").iterdir()).unlink()
    for _ in range(2):
        with pytest.raises(ConflictError, match="expected 300 rows, it has 236") as caught:
            run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())
        assert f"parts in {state}" in str(caught.value)
        assert not json.loads((state / "checkpoint.json").read_text())["progress"]["is_complete"]


def test_rows_removed_from_a_complete_target_are_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    run(tmp_path / "a.parquet", tmp_path / "b.jsonl", make_map())
    lines = (tmp_path / "b.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_text("".join(lines[:-7]))
    with pytest.raises(ConflictError, match=r"expected 300 rows.* it has 293: rows were removed"):
        run(tmp_path / "a.parquet", tmp_path / "b.jsonl", make_map())
    (tmp_path / "b.jsonl").write_text("".join([*lines, lines[0].replace("r0", "new")]))
    (warning,) = run(tmp_path / "a.parquet", tmp_path / "b.jsonl", make_map()).warnings
    assert "has 301 rows, and the move wrote 300: rows were added since" in warning


def test_target_removed_after_a_complete_move_names_the_checkpoint(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())
    (tmp_path / "b.parquet").unlink()
    message = r"b\.parquet does not exist.*b\.parquet\.migration the move to it is complete"
    with pytest.raises(ConflictError, match=message):
        run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())


@pytest.mark.parametrize("content", [b"", b'{"format": 1,', b"[]", b'{"format": 99}'])
def test_corrupt_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    begin(tmp_path)
    (tmp_path / "b.parquet.migration/checkpoint.json").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"checkpoint\.json: expected the checkpoint of a"):
        run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_map())


def test_corrected_command_begins_anew(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    (tmp_path / "lines.jsonl").write_text('{"id": "a", "embedding": "no vector"}\n')
    for source in ("a.parquet?column=nothing", "a.parquet?id=nothing", "lines.jsonl"):
        with pytest.raises(InvalidInputError):
            run(tmp_path / source, tmp_path / "b.npy", make_map())
    with pytest.raises(InvalidInputError, match="no place for label, text"):
        run(tmp_path / "a.parquet", tmp_path / "b.npy", make_map())
    assert {path.name for path in tmp_path.iterdir()} == {"a.parquet", "lines.jsonl"}
    np.save(tmp_path / "a.npy", make_vectors(ROWS))
    assert run(tmp_path / "a.npy", tmp_path / "b.npy", make_map()).written == ROWS
