"""Rows that cannot be translated: embedded anew from their texts, or left out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from stitchwork.errors import ConflictError
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.re_embedding import NO_TEXT, Embed
from stitchwork.migration.store import Id, Record
from stitchwork.migration.stores import open_store
from tests.support.moved_stores import TARGET_WIDTH, make_map, make_vectors, write_parquet

ROWS = 100


def embed(ids: Sequence[Id], records: Sequence[Record]) -> list[NDArray[np.float32] | str]:
    """The number of each row as all its coordinates; row 5 has no text."""
    numbers = [int(str(id_).removeprefix("r")) for id_ in ids]
    assert [record["text"] for record in records] == [f"text {i}\nof two lines" for i in numbers]
    return [NO_TEXT if i == 5 else np.full(TARGET_WIDTH, i, np.float32) for i in numbers]


def run(folder: Path, re_embed: Embed | None = embed) -> MoveResult:
    with open_store(f"{folder}/a.parquet") as source, open_store(f"{folder}/b.parquet") as target:
        return move(source, target, make_map(), folder / "state", re_embed=re_embed, block_rows=40)


def test_rejected_rows_with_a_text_are_embedded_in_their_places(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS, with_faults=True)
    result = run(tmp_path)
    assert (result.written, result.rejected, result.re_embedded) == (ROWS - 1, 1, 2)
    rejects = [json.loads(line) for line in result.rejects.read_text().splitlines()]
    assert rejects == [
        {"id": "r3", "reason": "no vector", "re_embedded": True},
        {"id": "r5", "reason": "expected 16 numbers, got 4; no text to embed"},
        {"id": "r7", "reason": "a number that is not finite", "re_embedded": True},
    ]
    assert "1 of 100 rows were left out, as they have no text" in result.warnings[0]
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.column("id").to_pylist() == [f"r{i}" for i in range(ROWS) if i != 5]
    rows: Any = np.array(table.column("embedding").to_pylist(), np.float32)
    assert rows[3].tolist() == [3.0] * TARGET_WIDTH
    assert rows[6].tolist() == [7.0] * TARGET_WIDTH
    others = np.delete(np.arange(ROWS), [3, 5, 7])
    expected = make_map().apply(make_vectors(ROWS)).rows[others]
    np.testing.assert_allclose(np.delete(rows, [3, 6], axis=0), expected, atol=1e-6)


def test_move_is_not_resumed_with_another_treatment_of_rejects(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS, with_faults=True)
    run(tmp_path)
    with pytest.raises(ConflictError, match="of rejected rows: embedded anew, now left out"):
        run(tmp_path, None)


def test_embeddings_of_another_width_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS, with_faults=True)
    with pytest.raises(ConflictError, match="expected embeddings of 20 numbers in the space y"):
        run(tmp_path, lambda ids, _: [np.zeros(3, np.float32) for _ in ids])
