"""Folders of Parquet files in object stores, here in a file system of this machine."""

from pathlib import Path

import pytest

from stitchwork.errors import ConflictError
from stitchwork.migration.local_engine import move
from stitchwork.migration.object_store import COMPLETE, ObjectStore
from stitchwork.migration.stores import open_store
from tests.support.moved_stores import make_map, write_parquet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a target whose name has a dot."""
    write_parquet(tmp_path / "a.parquet", 40)
    return tmp_path / "data.v2"


def run(folder: Path, source: str, *, removes_part: bool = False) -> None:
    address = f"file://{folder}/"
    target = ObjectStore(address, address)

    def show(done: int, _: int) -> None:
        # Object stores have no folders, file systems do.
        folder.mkdir(exist_ok=True)
        if removes_part and done == 40:
            (folder / "part-000001.parquet").unlink()

    with open_store(source) as rows:
        move(rows, target, make_map(), folder.parent / "state", block_rows=10, progress=show)


def test_folder_whose_name_has_a_dot_is_written_and_marked_as_complete(folder: Path) -> None:
    run(folder, str(folder.parent / "a.parquet"))
    with open_store(str(folder)) as moved:
        assert moved.count() == 40
    assert (folder / COMPLETE).exists()


def test_folder_that_lacks_rows_is_not_marked_as_complete(folder: Path) -> None:
    with pytest.raises(ConflictError, match="expected 40 rows, it has 30"):
        run(folder, str(folder.parent / "a.parquet"), removes_part=True)
    assert not (folder / COMPLETE).exists()


def test_hidden_objects_and_folders_named_as_files_are_no_data(tmp_path: Path) -> None:
    for name in ("x.parquet/part-0.parquet", "_temporary/0/a.parquet", ".b.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_parquet(tmp_path / name, 3)
    address = f"file://{tmp_path}/"
    assert ObjectStore(address, address).count() == 3
