"""Moves that are killed at any point go on, and end as undisturbed ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stitchwork.migration.store import Batch
from stitchwork.migration.stores import open_store
from tests.support import killed_moves
from tests.support.moved_stores import make_map, write_parquet

ROWS, BLOCK, KILLS = 1003, 128, 10


def contents(url: str) -> list[tuple[object, bytes, str]]:
    with open_store(url) as store:
        return [row for batch in store.scan(300) for row in rows_of(batch)]


def rows_of(batch: Batch) -> list[tuple[object, bytes, str]]:
    vectors = [vector.tobytes() for vector in batch.vectors]
    payloads = [json.dumps(record) for record in batch.payload.records()]
    return list(zip(batch.ids, vectors, payloads, strict=True))


@pytest.mark.parametrize("target", ["rows-{}.parquet", "rows-{}/", "rows-{}.jsonl"])
def test_move_that_was_killed_ends_as_an_undisturbed_one(tmp_path: Path, target: str) -> None:
    write_parquet(tmp_path / "source.parquet", ROWS, with_faults=True)
    (tmp_path / "map").write_bytes(make_map().data)
    folder = tmp_path / "work"
    folder.mkdir()
    arguments = [tmp_path / "source.parquet", f"{folder}/{target}", tmp_path / "map", folder]
    program = [sys.executable, "-P", killed_moves.__file__, *arguments, BLOCK, KILLS, 1]
    run = subprocess.run([*map(str, program)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert len(report["killed"]) >= KILLS
    assert set(report["killed"]) == set(report["events"])
    expected = contents(f"{folder}/{target}".replace("{}", "0"))
    assert len(expected) == ROWS - 3
    rejects = (folder / "state-0/rejects.jsonl").read_text()
    for number in range(1, len(report["killed"]) + 1):
        assert contents(f"{folder}/{target}".replace("{}", str(number))) == expected
        state = folder / f"state-{number}"
        assert (state / "rejects.jsonl").read_text() == rejects
        assert not list(state.glob("parts*"))
