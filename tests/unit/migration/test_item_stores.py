"""Stores of raw inputs: what their rows are, in which order, and what is refused."""

import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.migration.base_store import BaseStore
from stitchwork.migration.item_readers import FieldItems, FolderItems, MissingItem
from stitchwork.migration.item_stores import ImageFolder, open_items
from stitchwork.migration.partitions import check_row_cursors

NAMES = ["a/1.PNG", "a/2.jpg", "b.webp", "c.jpeg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of images, and of other and hidden files."""
    for name in (*NAMES, "notes.txt", ".hidden/x.png", "a/._2.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "photos"


def test_images_of_a_folder_have_their_paths_as_ids(folder: Path) -> None:
    store = ImageFolder(folder, "photos")
    reader = FolderItems(store.path)
    check_row_cursors(store)
    assert (store.count(), store.dimension()) == (4, 0)
    batches = list(store.scan(3))
    assert [list(batch.ids) for batch in batches] == [NAMES[:3], NAMES[3:]]
    assert [list(batch.ids) for batch in store.scan(3, store.seek([2])[0])] == [NAMES[2:]]
    assert reader.read(batches[0], [2, 0]) == [b"b.webp", b"a/1.PNG"]
    (folder / "b.webp").unlink()
    missing = MissingItem("the file cannot be read: No such file or directory")
    assert reader.read(batches[0], [2, 1]) == [missing, b"a/2.jpg"]


def test_revision_of_a_folder_changes_with_its_images_only(folder: Path) -> None:
    revision = ImageFolder(folder, "photos").revision()
    (folder / "notes.txt").write_text("other")
    assert ImageFolder(folder, "photos").revision() == revision
    os.utime(folder / "b.webp", ns=(1, 1))
    assert ImageFolder(folder, "photos").revision() != revision


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"photos: expected images \(\.avif.*got none"):
        ImageFolder(tmp_path, "photos").count()
    with pytest.raises(InvalidInputError, match="photos: no such folder of images"):
        ImageFolder(tmp_path / "nothing", "photos").count()


def test_images_of_a_column_are_read_in_both_of_their_forms(tmp_path: Path) -> None:
    structs = [{"bytes": b"x", "path": "x.png"}, {"bytes": None, "path": "y.png"}, None]
    table = pa.table({"id": [1, 2, 3], "image": structs, "blob": [b"a", b"", None]})
    pq.write_table(table, tmp_path / "a.parquet")
    with open_items(f"{tmp_path}/a.parquet") as store:
        (batch,) = store.scan(10)
        missing = MissingItem("no image to embed")
        for column, first in (("image", b"x"), ("blob", b"a")):
            reader = FieldItems.choose(store, "image", column)
            assert reader.read(batch, [0, 1, 2]) == [first, missing, missing]


@pytest.mark.parametrize("url", ["a/rows.csv", "a/rows.npy", "a/rows", "s3://bucket/rows.parquet"])
def test_inputs_of_other_kinds_are_refused_by_name(url: str) -> None:
    message = rf"{url}: expected inputs on this machine, in rows\.parquet or"
    with pytest.raises(InvalidInputError, match=message):
        open_items(url)


def test_other_options_than_the_column_of_ids_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"], "text": ["b"]}), tmp_path / "a.parquet")
    with open_items(f"{tmp_path}/a.parquet?id=key") as store:
        (batch,) = store.scan(10)
        assert batch.ids == ["a"]
    with pytest.raises(InvalidInputError, match="expected the option id, got column"):
        open_items(f"{tmp_path}/a.parquet?column=text")


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "photos"])
def test_another_process_reads_the_same_rows(folder: Path, name: str) -> None:
    root = folder.parent
    table = pa.table({"id": list(range(9)), "text": [f"text {i}" for i in range(9)]})
    pq.write_table(table, root / "rows.parquet")
    (root / "rows.jsonl").write_text("".join(f'{{"id":{i},"text":"a"}}\n\n' for i in range(9)))
    store = ImageFolder(root / name, name) if name == "photos" else open_items(f"{root}/{name}")
    whole = [list(batch.ids) for batch in store.scan(2)]
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 as engines do
    assert isinstance(store, BaseStore)
    starts = store.seek(range(0, store.count(), 2))
    assert [list(next(copy.scan(2, start)).ids) for start in starts] == whole


def test_another_process_reads_the_files_that_the_first_one_has_listed(folder: Path) -> None:
    store = ImageFolder(folder, "photos")
    cursor = store.seek([1])[0]
    data = pickle.dumps(store)
    (folder / "a/0.png").write_bytes(b"")
    copy = pickle.loads(data)  # noqa: S301 as engines do
    assert list(next(copy.scan(9, cursor)).ids) == NAMES[1:]


def test_revision_of_a_folder_sees_files_that_are_added_and_removed(folder: Path) -> None:
    store = ImageFolder(folder, "photos")
    assert store.count() == len(NAMES)
    revisions = [store.revision()]
    (folder / "a/0.png").write_bytes(b"")
    revisions.append(store.revision())
    assert store.count() == len(NAMES) + 1
    for name in ("a/0.png", *NAMES):
        (folder / name).unlink()
    revisions.append(store.revision())
    assert len(set(revisions)) == len(revisions)
