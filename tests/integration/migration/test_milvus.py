"""Collections of Milvus Lite: their fields, indexes and partitions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_lite.server_manager import server_manager_instance
from pymilvus import DataType, MilvusClient

from stitchwork.errors import InvalidInputError, UnavailableError
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.stores import client_errors, open_store
from tests.support.moved_stores import TARGET_WIDTH, make_map, make_vectors

ROWS = 40
SHORT_PAGE_ROWS = 7


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a database."""
    return str(tmp_path_factory.mktemp("milvus") / "milvus.db")


@pytest.fixture(scope="module")
def client(path: str) -> Iterator[Any]:
    """A client of the database, which other clients of this process share; `docs` has rows."""
    client = MilvusClient(path)
    create(client, "docs")
    yield client
    client.close()
    server_manager_instance.release_server(path)


def create(client: Any, name: str) -> None:
    """A collection of rows with fields of many types, and a second and a sparse vector."""
    schema = MilvusClient.create_schema()
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=16)
    schema.add_field("second", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_field("score", DataType.DOUBLE, nullable=True)
    schema.add_field("more", DataType.JSON)
    array: Any = {"element_type": DataType.INT64, "max_capacity": 4}
    schema.add_field("tags", DataType.ARRAY, **array)
    indexes = client.prepare_index_params()
    hnsw = {"M": 8, "efConstruction": 64}
    indexes.add_index("dense", index_type="HNSW", metric_type="L2", params=hnsw)
    indexes.add_index("second", index_type="AUTOINDEX", metric_type="COSINE")
    indexes.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=indexes)
    rows = [
        {
            "key": 3 * i - 20,
            "dense": vector,
            "second": [i, 0.5],
            "words": {i: 0.5, i + 1: 0.25},
            "score": None if i == 2 else i / 3,
            "more": {"n": [i, None]},
            "tags": [i, 7],
        }
        for i, vector in enumerate(make_vectors(ROWS))
    ]
    client.insert(name, rows)


def run(source: str, target: str, folder: Path) -> MoveResult:
    with open_store(source) as rows, open_store(target) as moved, client_errors(rows, moved):
        return move(rows, moved, make_map(), folder / "state", block_rows=16)


def rows_of(client: Any, name: str) -> list[dict[str, Any]]:
    client.load_collection(name)
    rows = client.query(name, filter="key > -1000", output_fields=["*"])
    return sorted(({**row} for row in rows), key=lambda row: row["key"])


def test_collection_has_the_fields_and_indexes_of_the_source(
    client: Any, path: str, tmp_path: Path
) -> None:
    url = f"milvus:{path}?collection="
    before = rows_of(client, "docs")
    result = run(f"{url}docs&column=dense", f"{url}moved", tmp_path)
    assert (result.written, result.warnings) == (ROWS, [])
    assert rows_of(client, "docs") == before
    rows = rows_of(client, "moved")
    vectors = np.array([row.pop("dense") for row in rows], np.float32)
    expected = make_map().apply(make_vectors(ROWS)).rows
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    for row in before:
        del row["dense"]
    assert rows == before
    old, new = (client.describe_collection(name) for name in ("docs", "moved"))
    assert new["fields"][1]["params"] == {"dim": TARGET_WIDTH}
    new["fields"][1]["params"] = old["fields"][1]["params"]
    assert new["fields"] == old["fields"]
    for name in ("dense", "second", "words"):
        first, second = (
            client.describe_index(collection, name) for collection in ("docs", "moved")
        )
        assert first == second
    hits = client.search("moved", [expected[9].tolist()], anns_field="dense", limit=1)
    assert hits[0][0]["key"] == 3 * 9 - 20


def test_other_kinds_of_stores_have_all_fields(client: Any, path: str, tmp_path: Path) -> None:
    run(f"milvus:{path}?collection=docs&column=dense", f"{tmp_path}/a.jsonl", tmp_path)
    row = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[4])
    assert len(row.pop("embedding")) == TARGET_WIDTH
    assert row == {
        "id": -8,
        "second": [4.0, 0.5],
        "words": {"indices": [4, 5], "values": [0.5, 0.25]},
        "score": 4 / 3,
        "more": {"n": [4, None]},
        "tags": [4, 7],
    }


def test_scan_of_several_pages_has_all_rows_in_the_order_of_ids(client: Any, path: str) -> None:
    schema = MilvusClient.create_schema()
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=16)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=2)
    client.create_collection("long", schema=schema)
    keys = [f'{7919 * i % 3000:04}"' for i in range(3000)]
    client.insert("long", [{"key": key, "dense": [i, 1]} for i, key in enumerate(keys)])
    with open_store(f"milvus:{path}?collection=long") as store:
        for size in (700, 2048):
            batches = list(store.scan(size))
            assert [id_ for batch in batches for id_ in batch.ids] == sorted(keys)
            assert len(batches[0]) == size
            rest = [id_ for batch in store.scan(size, batches[0].cursor) for id_ in batch.ids]
            assert rest == sorted(keys)[size:]


def test_collections_that_would_lose_something_are_refused(
    client: Any, path: str, tmp_path: Path
) -> None:
    url = f"milvus:{path}?collection="
    message = r"expected one field of vectors, got key \(INT64\), dense \(FLOAT_VECTOR\)"
    with pytest.raises(InvalidInputError, match=message):
        run(f"{url}docs", f"{url}other", tmp_path)
    schema = MilvusClient.create_schema()
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=16)
    client.create_collection("parted", schema=schema)
    client.create_partition("parted", "second")
    with pytest.raises(InvalidInputError, match="got the partitions _default, second"):
        run(f"{url}parted", f"{url}other", tmp_path)
    rows = [{"id": 1, "embedding": make_vectors(1)[0].tolist(), "key": 7}]
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(InvalidInputError, match="row 1 has a field key beside that of the target"):
        run(f"{tmp_path}/a.jsonl", f"{url}other&column=key", tmp_path / "b")


def test_addresses_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"Milvus Lite, which ends in \.db"):
        open_store(f"milvus:{tmp_path}/milvus?collection=docs")
    (tmp_path / "old.db").touch()
    with pytest.raises(InvalidInputError, match="database of Milvus Lite 3, got a file"):
        open_store(f"milvus:{tmp_path}/old.db?collection=docs")
    source = f"milvus:{tmp_path}/none.db?collection=docs"
    with pytest.raises(InvalidInputError, match="no such collection"):
        run(source, f"{tmp_path}/a.jsonl", tmp_path)
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        run("milvus:http://127.0.0.1:9?collection=docs", f"{tmp_path}/a.jsonl", tmp_path)


class ShortPages:
    """A client whose pages have a few rows, as those that a server limits by their bytes.

    Args:
        client: The client.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def query(self, *arguments: Any, limit: int | None = None, **options: Any) -> Any:
        limits = {} if limit is None else {"limit": min(limit, SHORT_PAGE_ROWS)}
        return self._client.query(*arguments, **limits, **options)


def test_scan_goes_on_after_a_page_with_fewer_rows(client: Any, path: str) -> None:
    create(client, "short")
    with open_store(f"milvus:{path}?collection=short&column=dense") as store:
        expected = [id_ for batch in store.scan(16) for id_ in batch.ids]
        vars(store)["_client"] = ShortPages(vars(store)["_client"])
        assert [id_ for batch in store.scan(16) for id_ in batch.ids] == expected
        assert len(expected) == ROWS


def test_dynamic_field_of_the_name_of_the_vectors_is_refused(
    client: Any, path: str, tmp_path: Path
) -> None:
    client.create_collection(
        "dynamic", dimension=16, primary_field_name="key", vector_field_name="v"
    )
    client.insert("dynamic", [{"key": 1, "v": make_vectors(1)[0], "w": "text"}])
    url = f"milvus:{path}?collection="
    with pytest.raises(InvalidInputError, match="row 1 has a field w beside that of the target"):
        run(f"{url}dynamic", f"{url}renamed&column=w", tmp_path)


def test_address_of_another_scheme_is_refused_without_its_password() -> None:
    with pytest.raises(InvalidInputError, match="one of http, https, tcp") as refusal:
        open_store("milvus:ftp://me:secret@127.0.0.1:9?collection=docs")
    assert "secret" not in str(refusal.value)
