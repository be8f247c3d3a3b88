"""Moves to one target, or with one checkpoint, at the same time."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stitchwork.errors import ConflictError
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.stores import open_store
from tests.support.moved_stores import make_map, make_vectors, write_parquet

ROWS = 200


def run(
    source: Path, target: str, state: Path, between: Callable[[], object] = lambda: None
) -> MoveResult:
    """Move a store; `between` is called after each block but the last one."""

    def progress(done: int, total: int) -> None:
        if 0 < done < total:
            between()

    with open_store(str(source)) as rows, open_store(target) as moved:
        return move(rows, moved, make_map(), state, block_rows=64, progress=progress)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """Two stores, of 200 and of 300 rows."""
    write_parquet(tmp_path / "a.parquet", ROWS)
    write_parquet(tmp_path / "z.parquet", 300)
    return tmp_path / "a.parquet", tmp_path / "z.parquet"


@pytest.mark.parametrize(
    ("target", "state", "message"),
    [
        ("b.parquet", "state", "another move to .*b.parquet is running: wait for it"),
        ("./x/../b.parquet", "other", "another move to .*b.parquet is running: wait for it"),
        ("c.parquet", "state", "another move with the checkpoint .*state is running: wait for it"),
    ],
)
def test_second_move_to_a_target_or_with_a_checkpoint_is_refused(
    tmp_path: Path, sources: tuple[Path, Path], target: str, state: str, message: str
) -> None:
    def start_another() -> None:
        with pytest.raises(ConflictError, match=message):
            run(sources[1], f"{tmp_path}/{target}", tmp_path / state)

    result = run(sources[0], f"{tmp_path}/b.parquet", tmp_path / "state", start_another)
    assert (result.written, result.warnings) == (ROWS, [])
    table = pq.read_table(tmp_path / "b.parquet")
    rows = np.array(table.column("embedding").to_pylist(), np.float32)
    np.testing.assert_allclose(rows, make_map().apply(make_vectors(ROWS)).rows, atol=1e-6)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.parquet", "z.parquet", "b.parquet", "state"}


def test_refused_move_can_run_after_the_other_one(
    tmp_path: Path, sources: tuple[Path, Path]
) -> None:
    run(sources[0], f"{tmp_path}/b.parquet", tmp_path / "state")
    assert run(sources[1], f"{tmp_path}/c.parquet", tmp_path / "other").written == 300


@pytest.mark.parametrize("target", ["b.parquet", "b.jsonl", "folder/"])
def test_target_that_something_else_writes_meanwhile_is_not_replaced(
    tmp_path: Path, sources: tuple[Path, Path], target: str
) -> None:
    path = tmp_path / target

    def write() -> None:
        if target.endswith("/"):
            path.mkdir(exist_ok=True)
            (path / "foreign").write_text("foreign")
        else:
            path.write_text("foreign")

    with pytest.raises(ConflictError, match="exists: something else has written it"):
        run(sources[0], f"{tmp_path}/{target}", tmp_path / "state", write)
    foreign = path / "foreign" if path.is_dir() else path
    assert foreign.read_text() == "foreign"
    assert not list(tmp_path.glob("**/*.new"))


def test_second_name_of_a_complete_target_is_removed_on_resuming(
    tmp_path: Path, sources: tuple[Path, Path]
) -> None:
    state = tmp_path / "state"
    run(sources[0], f"{tmp_path}/b.parquet", state)
    # As a process leaves them that is killed after the target has its name.
    fields = json.loads((state / "checkpoint.json").read_text())
    fields["progress"]["is_complete"] = False
    (state / "checkpoint.json").write_text(json.dumps(fields))
    (state / "parts").mkdir()
    (tmp_path / "b.parquet.0a1b2c3d.new").hardlink_to(tmp_path / "b.parquet")
    assert run(sources[0], f"{tmp_path}/b.parquet", state).written == ROWS
    assert not [*tmp_path.glob("**/*.new"), *state.glob("parts")]


def test_locks_leave_no_files(
    tmp_path: Path, sources: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    locks = list[int]()
    run(
        sources[0],
        f"{tmp_path}/b.parquet",
        tmp_path / "state",
        lambda: locks.append(len(list(temporary.glob("*/*")))),
    )
    assert set(locks) == {1}
    assert not list(temporary.glob("*/*"))


def test_temporary_file_of_a_killed_process_is_removed_and_not_merged(
    tmp_path: Path, sources: tuple[Path, Path]
) -> None:
    for name in ("b.parquet.0a1b2c3d.new", "state/checkpoint.json.0a1b2c3d.new"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    (tmp_path / "b.parquet.mine.new").write_text("of the user")
    assert run(sources[0], f"{tmp_path}/b.parquet", tmp_path / "state").written == ROWS
    assert [path.name for path in tmp_path.glob("**/*.new")] == ["b.parquet.mine.new"]
