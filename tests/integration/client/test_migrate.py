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


def test_shards_move_the_files_of_a_folder_once_each(
    client: Stitchwork, url: str, pair: Pair, tmp_path: Path, capfd: Any
) -> None:
    (tmp_path / "old").mkdir()
    rows = np.asarray(pair.x[:40], np.float32)
    for number in range(3):
        write_rows(tmp_path / f"old/{number}.parquet", rows[: 10 + number])
    for index, files in ((0, 2), (1, 1)):
        options = ("--shard", f"{index}/2")
        assert migrate(url, tmp_path / "old", tmp_path / "new", *options) == 0
        result = json.loads(capfd.readouterr().out)
        assert (result["shard"], result["files"]) == (f"{index}/2", files)
        assert result["versions"]["target_version"] == client.get("spaces", "y")["version"]
    for number in range(3):
        table = pq.read_table(tmp_path / f"new/{number}.parquet")
        moved = np.array(table.column("embedding").to_pylist(), np.float32)
        expected = client.translate(rows[: 10 + number], "x", "y")
        np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--address", "auto"), "--address needs --engine ray"),
        (("--engine", "ray", "--shard", "0/2"), "--shard divides the files among commands"),
    ],
)
def test_options_of_engines_that_exclude_each_other_are_a_wrong_command(
    url: str, tmp_path: Path, options: tuple[str, ...], message: str, capfd: Any
) -> None:
    assert migrate(url, tmp_path / "a.parquet", tmp_path / "b.parquet", *options) == 2
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
