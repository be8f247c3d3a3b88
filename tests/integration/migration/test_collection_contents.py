"""What collections have beside one vector and a flat payload, and their folders and servers."""

import datetime
import socket
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chromadb.config import Settings
from qdrant_client import QdrantClient, models

from stitchwork.errors import InvalidInputError, UnavailableError
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.stores import client_errors, open_store
from tests.support.moved_stores import TARGET_WIDTH, make_map, make_vectors

ROWS = 40


def run(source: str, target: str, folder: Path, stop_after: int | None = None) -> MoveResult:
    def stop(done: int, total: int) -> None:
        if stop_after is not None and done >= stop_after:
            raise KeyboardInterrupt

    with open_store(source) as rows, open_store(target) as moved, client_errors(rows, moved):
        return move(rows, moved, make_map(), folder / "state", block_rows=16, progress=stop)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection whose points have three vectors."""
    folder = tmp_path_factory.mktemp("qdrant")
    client = QdrantClient(path=str(folder / "db"))
    dense = models.VectorParams(size=16, distance=models.Distance.DOT)
    image = models.VectorParams(size=3, distance=models.Distance.EUCLID)
    sparse = {"words": models.SparseVectorParams()}
    client.create_collection("docs", {"text": dense, "image": image}, sparse_vectors_config=sparse)
    client.create_collection("one", {"text": dense})
    for i, vector in enumerate(make_vectors(ROWS).tolist()):
        words = models.SparseVector(indices=[i, i + 1], values=[0.5, 0.25])
        vectors: Any = {"text": vector, "image": [i, 1, 2], "words": words}
        point = models.PointStruct(id=i, vector=vectors, payload={"label": i})
        client.upsert("docs", [point])
        named: Any = {"text": vector}
        client.upsert("one", [models.PointStruct(id=i, vector=named, payload={"label": i})])
    client.close()
    return folder


def test_further_vectors_of_points_are_moved_as_they_are(folder: Path, tmp_path: Path) -> None:
    source = f"qdrant:{folder}/db?collection=docs&column=text"
    target = f"qdrant:{tmp_path}/db?collection=b"
    with pytest.raises(KeyboardInterrupt):
        run(source, target, tmp_path, stop_after=16)
    assert run(source, target, tmp_path).written == ROWS
    client = QdrantClient(path=str(tmp_path / "db"))
    params = client.get_collection("b").config.params
    points = client.scroll("b", limit=ROWS, with_vectors=True)[0]
    client.close()
    vectors: Any = params.vectors
    assert (vectors["text"].size, vectors["image"].size) == (TARGET_WIDTH, 3)
    assert vectors["image"].distance == models.Distance.EUCLID
    rows: list[Any] = [point.vector for point in points]
    np.testing.assert_allclose([row["image"] for row in rows], [[i, 1, 2] for i in range(ROWS)])
    assert [row["words"].indices for row in rows] == [[i, i + 1] for i in range(ROWS)]
    expected = make_map().apply(make_vectors(ROWS)).rows
    np.testing.assert_allclose([row["text"] for row in rows], expected, atol=1e-5)


def test_further_vectors_become_fields_of_other_stores(folder: Path, tmp_path: Path) -> None:
    source = f"qdrant:{folder}/db?collection=docs&column=text"
    run(source, f"{tmp_path}/b.jsonl", tmp_path)
    with open_store(f"{tmp_path}/b.jsonl") as store:
        record = next(store.scan(8)).payload.records()[5]
    words = {"indices": [5, 6], "values": [0.5, 0.25]}
    assert record == {"label": 5, "image": [5, 1, 2], "words": words}


def test_target_vector_of_the_name_of_another_is_refused(folder: Path, tmp_path: Path) -> None:
    source = f"qdrant:{folder}/db?collection=docs&column=text"
    with pytest.raises(InvalidInputError, match="different names, got image"):
        run(source, f"qdrant:{tmp_path}/db?collection=b&column=image", tmp_path)


def test_only_named_vector_of_a_collection_is_the_default(folder: Path, tmp_path: Path) -> None:
    result = run(f"qdrant:{folder}/db?collection=one", f"{tmp_path}/b.jsonl", tmp_path)
    assert (result.written, result.rejected) == (ROWS, 0)


def test_field_of_the_name_of_original_ids_is_refused(tmp_path: Path) -> None:
    columns = {"id": ["a"], "original_id": ["b"], "embedding": make_vectors(1).tolist()}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match="row a has a field original_id"):
        run(f"{tmp_path}/a.parquet", f"qdrant:{tmp_path}/db?collection=b", tmp_path)


@pytest.mark.parametrize("kind", ["chroma", "qdrant"])
@pytest.mark.parametrize("value", [b"\xff\x00", float("nan")], ids=["binary", "nan"])
def test_collection_refuses_what_it_would_change(tmp_path: Path, kind: str, value: Any) -> None:
    columns = {"id": [1], "odd": [value], "embedding": make_vectors(1).tolist()}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match="row 1 has in the field odd"):
        run(f"{tmp_path}/a.parquet", f"{kind}:{tmp_path}/db?collection=docs", tmp_path)


@pytest.mark.parametrize(("name", "value"), [("chroma:document", "a"), ("big", 2**63)])
def test_field_that_chroma_would_change_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    type_ = pa.uint64() if name == "big" else pa.string()
    columns = {"id": [1], name: pa.array([value], type_), "embedding": make_vectors(1).tolist()}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match=f"row 1 has a field {name} that Chroma does not"):
        run(f"{tmp_path}/a.parquet", f"chroma:{tmp_path}/db?collection=docs", tmp_path)


def test_dates_are_texts_in_chroma(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    columns = {"id": ["a"], "day": [day], "tags": [["x", "y"]]}
    table = pa.table({**columns, "embedding": make_vectors(1).tolist()})
    pq.write_table(table, tmp_path / "a.parquet")
    run(f"{tmp_path}/a.parquet", f"chroma:{tmp_path}/db?collection=docs", tmp_path)
    client = chromadb.PersistentClient(tmp_path / "db", Settings(anonymized_telemetry=False))
    metadata = client.get_collection("docs", embedding_function=None).get()["metadatas"]
    assert metadata == [{"day": "2024-02-29", "tags": '["x","y"]'}]


@pytest.mark.parametrize(
    "url", ["chroma:{}?collection=a", "qdrant:{}?collection=a", "lancedb:{}?table=a"]
)
def test_folder_of_a_source_is_not_created(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "typing-error"
    with (
        open_store(url.format(folder)) as store,
        pytest.raises(InvalidInputError, match=r"typing-error.*no such"),
    ):
        store.dimension()
    with (
        open_store(url.format(folder)) as store,
        pytest.raises(InvalidInputError, match=r"typing-error.*no such"),
    ):
        store.count()
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["chroma", "qdrant"])
def test_server_that_cannot_be_reached_is_named(kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with (
            open_store(f"{kind}:http://127.0.0.1:{port}?collection=docs") as store,
            pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{port}"),
            client_errors(store),
        ):
            store.count()


@pytest.mark.parametrize("kind", ["chroma", "qdrant"])
def test_numbers_of_more_digits_are_floats_and_counted_in_a_warning(
    tmp_path: Path, kind: str
) -> None:
    numbers = ["0.5", "0.12345678901234567890123", "0.10000000000000001"]
    rows = zip(numbers, make_vectors(3).tolist(), strict=True)
    lines = [f'{{"id": {i}, "n": {n}, "embedding": {v}}}' for i, (n, v) in enumerate(rows)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    target = f"{kind}:{tmp_path}/db?collection=docs"
    with pytest.raises(KeyboardInterrupt):
        run(f"{tmp_path}/a.jsonl", target, tmp_path, stop_after=2)
    result = run(f"{tmp_path}/a.jsonl", target, tmp_path)
    (warning,) = result.warnings
    assert warning.startswith("2 numbers in payloads were rounded to floats of 64 bits: ")
    with open_store(target) as store:
        records = [record for batch in store.scan(10) for record in batch.payload.records()]
    assert [record["n"] for record in records] == [0.5, 0.12345678901234568, 0.1]
