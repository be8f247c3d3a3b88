"""`stitchwork migrate` with a running service."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stitchwork.cli.main import main
from stitchwork.client import Stitchwork
from tests.conftest import Pair

ROWS = 1003


def migrate(url: str, source: Path, target: Path, *options: str) -> int:
    words = [str(source), str(target), "--from", "x", "--to", "y", "--url", url, "--json"]
    return main(["migrate", *words, *options])


def write_rows(path: Path, rows: Any) -> None:
    ids = [f"doc-{i}" for i in range(len(rows))]
    pq.write_table(pa.table({"id": ids, "embedding": list(rows), "number": range(len(rows))}), path)


@pytest.mark.parametrize("bridge", ["exp", "ridge"])
def test_moved_store_has_the_rows_that_the_service_translates(
    client: Stitchwork, url: str, pair: Pair, tmp_path: Path, bridge: str, capfd: Any
) -> None:
    rows = np.resize(pair.x, (ROWS, pair.x.shape[1])).astype(np.float32)
    write_rows(tmp_path / "a.parquet", rows)
    assert migrate(url, tmp_path / "a.parquet", tmp_path / "b.parquet", "--bridge", bridge) == 0
    result = json.loads(capfd.readouterr().out)
    table = pq.read_table(tmp_path / "b.parquet")
    moved = np.array(table.column("embedding").to_pylist(), np.float32)
    expected = client.translate(rows, "x", "y", bridge)
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-4)
    assert table.column("id").to_pylist() == [f"doc-{i}" for i in range(ROWS)]
    assert table.column("number").to_pylist() == list(range(ROWS))
    assert result["versions"] == {
        "source": "x",
        "source_version": client.get("spaces", "x")["version"],
        "target": "y",
        "target_version": client.get("spaces", "y")["version"],
        "bridge": bridge,
    }
    assert result["written"] == ROWS
    assert migrate(url, tmp_path / "a.parquet", tmp_path / "b.parquet", "--bridge", bridge) == 0
    assert json.loads(capfd.readouterr().out)["resumed_at"] == ROWS


def test_move_names_an_unknown_space_and_a_missing_file(
    url: str, tmp_path: Path, capfd: Any
) -> None:
    words = [f"{tmp_path}/a.parquet", f"{tmp_path}/b.parquet", "--url", url]
    assert main(["migrate", *words, "--from", "x", "--to", "nothing"]) == 1
    assert "nothing" in capfd.readouterr().err
    assert main(["migrate", *words, "--from", "x", "--to", "y"]) == 1
    assert "a.parquet: no such file or folder" in capfd.readouterr().err
