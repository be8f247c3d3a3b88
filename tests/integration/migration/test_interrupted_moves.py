"""Moves that are killed at any point go on, and end as undisturbed ones."""

from pathlib import Path

import pytest

from tests.support.interrupted_moves import check_interrupted_moves
from tests.support.moved_stores import write_parquet


@pytest.mark.parametrize(("target", "kills"), [("rows-{}.parquet", 10), ("rows-{}/", 5)])
def test_move_that_was_killed_ends_as_an_undisturbed_one(
    tmp_path: Path, target: str, kills: int
) -> None:
    write_parquet(tmp_path / "source.parquet", 1003, with_faults=True)
    folder = tmp_path / "work"
    folder.mkdir()
    source = f"{tmp_path}/source.parquet"
    check_interrupted_moves(
        source, f"{folder}/{target}", folder, kills=kills, seed=kills, rejected=3
    )
