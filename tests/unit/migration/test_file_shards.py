"""Shards of folders of files: which files each has, and what all of them share."""

from pathlib import Path
from shutil import copytree, rmtree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.blocks import Uncovered
from stitchwork.migration.file_shards import FileShard, move_shard
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.row_texts import FieldTexts
from stitchwork.migration.space_translation import SpaceTranslation
from stitchwork.migration.stores import open_store
from tests.support.moved_stores import make_map, write_parquet

FILES = ("a.parquet", "b.parquet", "deep/c.parquet", "deep/d.parquet", "e.parquet")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of five files of different numbers of rows."""
    for number, name in enumerate(FILES):
        path = tmp_path / "old" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(path, 30 + number)
    return tmp_path / "old"


def run(
    source: Path,
    target: str,
    shard: str,
    offline_map: OfflineMap | None = None,
    *,
    uncovered: Uncovered = "keep",
    target_options: str = "id=key",
) -> list[MoveResult]:
    state = source.parent / f"{target}.migration"
    return move_shard(
        f"{source}?id=id",
        f"{source.parent}/{target}?{target_options}",
        SpaceTranslation(offline_map or make_map(), uncovered),
        state,
        FileShard.parse(shard),
        block_rows=8,
    )


def read(source: Path, target: str) -> dict[str, pa.Table]:
    folder = source.parent / target
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): pq.read_table(path) for path in paths}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_have_each_file_once(count: int) -> None:
    shares = [FileShard(index, count).select(FILES) for index in range(count)]
    assert sorted(name for share in shares for name in share) == sorted(FILES)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "1/0", "a/b", "1/2/3"])
def test_text_that_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a shard as INDEX/COUNT.*got"):
        FileShard.parse(text)


def test_shards_in_any_order_write_the_files_of_one_command(source: Path) -> None:
    whole = run(source, "whole", "0/1")
    parts = [run(source, "parts", f"{index}/3") for index in (2, 0, 1)]
    expected, actual = read(source, "whole"), read(source, "parts")
    assert set(expected) == set(actual) == set(FILES)
    for name in FILES:
        assert actual[name].equals(expected[name])
        assert actual[name].schema.metadata == expected[name].schema.metadata
        assert actual[name].column("key").equals(pq.read_table(source / name).column("id"))
    assert [len(results) for results in parts] == [1, 2, 2]
    assert sum(r.written for results in parts for r in results) == sum(r.written for r in whole)


def test_files_that_are_moved_are_skipped_and_those_that_remain_are_moved(source: Path) -> None:
    run(source, "new", "1/2")
    before = {path: path.stat().st_mtime_ns for path in (source.parent / "new").rglob("*.parquet")}
    (source.parent / "new/deep/d.parquet").unlink()
    rmtree(source.parent / "new.migration/deep/d.parquet.migration")
    del before[source.parent / "new/deep/d.parquet"]
    results = run(source, "new", "1/2")
    assert [result.resumed_at == result.rows for result in results] == [True, False]
    assert set(read(source, "new")) == {"b.parquet", "deep/d.parquet"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_later_shards_use_the_map_of_the_first_and_refuse_other_versions(source: Path) -> None:
    run(source, "new", "0/2")
    with pytest.raises(
        ConflictError, match="shards with another version of the source space: x1, now x2"
    ):
        run(source, "new", "1/2", make_map(version="x2"))
    with pytest.raises(ConflictError, match="shards with another bridge: ridge, now exp"):
        run(source, "new", "1/2", make_map("exp"))
    assert set(read(source, "new")) == set(FileShard(0, 2).select(FILES))


def test_more_shards_than_files_leave_some_without_any(source: Path) -> None:
    assert run(source, "new", "6/7") == []


def test_sources_and_targets_that_are_no_folders_are_refused(source: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"a\.parquet.*expected a folder of Parquet files"):
        run(source / "a.parquet", "new", "0/1")
    with pytest.raises(InvalidInputError, match=r"new\.parquet.*expected a folder"):
        run(source, "new.parquet", "0/1")
    with pytest.raises(InvalidInputError, match=r"expected a target outside of .*old"):
        run(source, "old/new", "0/1")


def test_shards_of_another_number_option_or_folder_are_refused(source: Path) -> None:
    run(source, "new", "0/2")
    copytree(source, source.parent / "copy")
    with pytest.raises(ConflictError, match="another number of shards: 2, now 3: files"):
        run(source, "new", "1/3")
    with pytest.raises(ConflictError, match="anchors do not cover: keep, now reject"):
        run(source, "new", "1/2", uncovered="reject")
    with pytest.raises(
        ConflictError, match=r"another source: \S*/old\?id=id, now \S*/copy\?id=id: "
    ):
        run(source.parent / "copy", "new", "1/2")
    assert set(read(source, "new")) == set(FileShard(0, 2).select(FILES))


def test_shards_without_the_field_of_texts_are_refused_before_anything_is_written(
    source: Path,
) -> None:
    state, target = source.parent / "state", source.parent / "new"
    paths, shard = (str(source), str(target)), FileShard(0, 2)
    transform = SpaceTranslation(make_map(), texts=FieldTexts("nofield"))
    with pytest.raises(InvalidInputError, match="in the field nofield, the rows have label, text"):
        move_shard(*paths, transform, state, shard)
    assert not state.exists()
    assert not target.exists()


def test_shards_of_a_folder_that_has_changed_are_refused_until_it_is_restored(source: Path) -> None:
    run(source, "new", "0/2")
    content = (source / "b.parquet").read_bytes()
    write_parquet(source / "0.parquet", 3)
    with pytest.raises(
        ConflictError, match=r"its first shard began: 0\.parquet came\. Files would"
    ):
        run(source, "new", "1/2")
    (source / "0.parquet").unlink()
    (source / "b.parquet").unlink()
    with pytest.raises(ConflictError, match=r"its first shard began: b\.parquet went"):
        run(source, "new", "1/2")
    write_parquet(source / "b.parquet", 3)
    with pytest.raises(ConflictError, match=r"its first shard began: b\.parquet changed"):
        run(source, "new", "1/2")
    (source / "b.parquet").write_bytes(content)
    run(source, "new", "1/2")
    assert set(read(source, "new")) == set(FILES)


def test_names_of_files_are_no_urls(tmp_path: Path) -> None:
    source = tmp_path / "old"
    names = {"a?column=embedding.parquet", "b#c.parquet", "x?y=z/q.parquet", "qdrant:d.parquet"}
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_parquet(source / name, 3)
    move_shard(
        str(source),
        str(tmp_path / "new"),
        SpaceTranslation(make_map()),
        tmp_path / "state",
        FileShard(0, 1),
        block_rows=8,
    )
    assert set(read(source, "new")) == names


def test_hidden_files_are_no_data_and_folders_may_be_named_as_files(tmp_path: Path) -> None:
    source = tmp_path / "old"
    names = {"x.parquet/part-0.parquet", "y.parquet/part-0.parquet", "Z.PARQUET"}
    for name in (*names, ".hidden/a.parquet", "_temporary/0/b.parquet", "_c.parquet"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_parquet(source / name, 3)
    run(source, "new", "0/1")
    assert set(read(source, "new")) == names
    with open_store(str(source)) as store:
        assert store.count() == 3 * len(names)


def test_files_without_rows_are_moved_to_files_without_rows(source: Path) -> None:
    table = pq.read_table(source / "b.parquet")
    pq.write_table(table.slice(0, 0), source / "b.parquet")
    results = run(source, "new", "1/2")
    assert [(result.rows, result.written) for result in results] == [(0, 0), (33, 33)]
    empty, other = (read(source, "new")[name] for name in ("b.parquet", "deep/d.parquet"))
    assert len(empty) == 0
    assert empty.schema.equals(other.schema, check_metadata=True)
    assert [result.resumed_at for result in run(source, "new", "1/2")] == [0, 33]


def test_first_command_that_is_refused_pins_nothing(source: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected the options id, column, got a"):
        run(source, "new", "0/2", target_options="a=b")
    write_parquet(source / "a.parquet", 3)
    table = pq.read_table(source / "a.parquet")
    column = table.schema.get_field_index("embedding")
    short = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32()))
    pq.write_table(table.set_column(column, "embedding", short), source / "a.parquet")
    with pytest.raises(
        InvalidInputError, match=r"a\.parquet.*expected vectors of 16 numbers.*got 2"
    ):
        run(source, "new", "0/2")
    assert [path.name for path in source.parent.iterdir()] == ["old"]
