"""Stores that are files: their order, blocks, cursors, samples and errors."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.migration.local_engine import move
from stitchwork.migration.store import Batch
from stitchwork.migration.stores import open_store, state_folder, target_key
from tests.support.moved_stores import WIDTH, make_map, make_vectors, write_parquet

ROWS = 500


@pytest.fixture(params=["rows.parquet", "folder/", "rows.jsonl", "rows.npy"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each kind of file with the same rows."""
    name, vectors = str(request.param), make_vectors(ROWS)
    path = tmp_path / name
    if name == "rows.parquet":
        write_parquet(path, ROWS)
    elif name == "folder/":
        path.mkdir()
        table = write_parquet(tmp_path / "all.parquet", ROWS)
        for part, start in enumerate((0, 200, 430)):
            stop = (200, 430, ROWS)[part]
            pq.write_table(table.slice(start, stop - start), path / f"{part}.parquet")
    elif name == "rows.jsonl":
        rows = [
            {"id": f"r{i}", "embedding": vector.tolist(), "label": i}
            for i, vector in enumerate(vectors)
        ]
        path.write_text("\n\n".join(map(json.dumps, rows)))
    else:
        np.save(path, vectors)
        (tmp_path / "rows.ids.txt").write_text("".join(f"r{i}\n" for i in range(ROWS)))
    return f"{tmp_path}/{name}"


def test_scan_returns_all_rows_in_order_in_equal_blocks(url: str) -> None:
    vectors = make_vectors(ROWS)
    with open_store(url) as store:
        assert (store.count(), store.dimension()) == (ROWS, WIDTH)
        batches = list(store.scan(64))
    assert [len(batch) for batch in batches] == [64] * 7 + [52]
    assert [id_ for batch in batches for id_ in batch.ids] == [f"r{i}" for i in range(ROWS)]
    np.testing.assert_array_equal(np.concatenate([b.vectors for b in batches]), vectors)


def test_scan_goes_on_after_any_cursor(url: str) -> None:
    with open_store(url) as store:
        batches = list(store.scan(64))
        for i, batch in enumerate(batches):
            rest = list(store.scan(64, json.loads(json.dumps(batch.cursor))))
            assert [b.ids for b in rest] == [b.ids for b in batches[i + 1 :]]
            assert all(
                np.array_equal(b.vectors, c.vectors)
                for b, c in zip(rest, batches[i + 1 :], strict=True)
            )


def test_sample_has_rows_of_the_store_and_follows_its_seed(url: str) -> None:
    vectors = make_vectors(ROWS)

    def numbers(batch: Batch) -> list[int]:
        return [int(str(id_)[1:]) for id_ in batch.ids]

    with open_store(url) as store:
        sample, again, other = (store.sample(50, seed) for seed in (1, 1, 2))
        assert len(store.sample(10 * ROWS, 1)) == ROWS
    assert numbers(sample) == sorted(set(numbers(sample)))
    assert len(sample) == 50
    np.testing.assert_array_equal(sample.vectors, vectors[numbers(sample)])
    assert numbers(again) == numbers(sample) != numbers(other)
    for number, record in zip(numbers(sample), sample.payload.records(), strict=True):
        assert record.get("label", number) == number


def test_rows_are_numbered_where_there_are_no_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", make_vectors(5))
    with open_store(f"{tmp_path}/rows.npy") as store:
        assert [id_ for batch in store.scan(2) for id_ in batch.ids] == [0, 1, 2, 3, 4]
    pq.write_table(pa.table({"v": make_vectors(5).tolist()}), tmp_path / "rows.parquet")
    with open_store(f"{tmp_path}/rows.parquet") as store:
        assert [id_ for batch in store.scan(2, 2) for id_ in batch.ids] == [2, 3, 4]
        assert store.sample(5, 0).ids == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nothing.parquet", "no such file"),
        ("nothing.jsonl", "no such file"),
        ("nothing.npy", "no such file"),
        ("rows.txt", "expected a store as one of rows.parquet"),
        ("mystery://host/db", "expected a store as one of rows.parquet"),
        ("rows.parquet?name=x", "expected the options id, column, got name"),
        ("rows.parquet?column=text", "expected a column text of vectors"),
        ("rows.parquet?id=key", r"expected a column key of ids, got label \(int16\), embedding"),
    ],
)
def test_store_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "rows.parquet", 10)
    with pytest.raises(InvalidInputError, match=message), open_store(url) as store:
        list(store.scan(10))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "expected an object"),
        (b"{", "row 1"),
        (b'{"id": true, "embedding": [1]}', "expected a number or text as id"),
    ],
)
def test_line_that_is_no_row_is_refused_by_its_number(
    tmp_path: Path, line: bytes, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a", "embedding": [1, 2]}\n' + line)
    with (
        pytest.raises(InvalidInputError, match=rf"rows.jsonl.*row 1.*{message}|{message}"),
        open_store(str(path)) as store,
    ):
        list(store.scan(10))


def test_default_state_is_beside_the_target() -> None:
    assert state_folder("a/rows.parquet?id=key") == Path("a/rows.parquet.migration")
    assert state_folder("a/folder/") == Path("a/folder.migration")
    digest = hashlib.sha256(target_key("s3://vectors/faq").encode()).hexdigest()[:8]
    assert state_folder("s3://vectors/faq/?id=key") == Path(f"s3.{digest}.migration")


def test_folder_that_changes_during_a_move_is_named_in_a_warning(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("0", "1"):
        write_parquet(tmp_path / f"in/{name}.parquet", 20)
    for change in ("added", "removed"):
        target = tmp_path / f"{change}.parquet"

        def show(done: int, _: int, change: str = change) -> None:
            path = tmp_path / "in/2.parquet"
            if done and change == "added":
                write_parquet(path, 20)
            elif done:
                path.unlink(missing_ok=True)

        rows = f"{tmp_path}/in?id="
        with open_store(rows) as source, open_store(str(target)) as moved:
            folder = tmp_path / f"{change}.state"
            result = move(source, moved, make_map(), folder, progress=show)
        assert result.written == pq.read_table(target).num_rows
        assert "has changed during the move" in result.warnings[0]
