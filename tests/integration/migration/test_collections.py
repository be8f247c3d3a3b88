"""Collections of Qdrant, Chroma and Milvus, tables of LanceDB and indexes of Redis as stores."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitchwork.errors import ConflictError, InvalidInputError, UnavailableError
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.stores import client_errors, open_store, state_folder
from tests.support.filled_stores import KINDS, fill_store, store_url
from tests.support.interrupted_moves import check_interrupted_moves, contents
from tests.support.moved_stores import TARGET_WIDTH, make_map, make_vectors, write_parquet
from tests.support.search_server import search_server

ROWS = 203
TEXTS = [f"text {i}\nof two lines" for i in range(ROWS)]


def run(source: str, target: str, folder: Path, stop_after: int | None = None) -> MoveResult:
    def stop(done: int, total: int) -> None:
        if stop_after is not None and done >= stop_after:
            raise KeyboardInterrupt

    with (
        open_store(source) as rows,
        open_store(target) as moved,
        client_errors(rows, moved),
    ):
        return move(rows, moved, make_map(), folder, block_rows=64, progress=stop)


def by_number(url: str) -> list[tuple[Any, bytes, dict[str, Any]]]:
    """The rows of a store in the order of their labels."""
    rows = [(id_, vector, json.loads(record)) for id_, vector, record in contents(url)]
    for row in rows:
        # Redis has texts only.
        row[2]["label"] = int(row[2]["label"])
    return sorted(rows, key=lambda row: int(row[2]["label"]))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of store."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Path:
    """A folder for stores of a kind and for states of moves."""
    return tmp_path_factory.mktemp(kind)


@pytest.fixture(scope="module")
def place(kind: str, folder: Path) -> Iterator[str]:
    """Where stores of a kind are: in the folder or on a server; `docs` has rows of the space x."""
    with search_server() if kind == "redis" else nullcontext(str(folder)) as place:
        fill_store(kind, place, make_vectors(ROWS), TEXTS)
        yield place


def test_new_store_beside_the_old_one_has_its_ids_and_payloads(
    kind: str, place: str, folder: Path
) -> None:
    source, target = store_url(kind, place, "docs"), store_url(kind, place, "moved")
    before = contents(source)
    with pytest.raises(KeyboardInterrupt):
        run(source, target, folder / "state", stop_after=128)
    result = run(source, target, folder / "state")
    assert (result.resumed_at, result.written, result.warnings) == (128, ROWS, [])
    assert contents(source) == before
    rows = by_number(target)
    assert [(row[0], row[2]) for row in rows] == [(row[0], row[2]) for row in by_number(source)]
    expected = make_map().apply(make_vectors(ROWS)).rows
    moved = np.array([np.frombuffer(row[1], np.float32) for row in rows])
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    with open_store(target) as store:
        assert (store.count(), store.dimension()) == (ROWS, TARGET_WIDTH)
    with pytest.raises(ConflictError, match="exists already"):
        run(source, target, folder / "another")


def test_scan_goes_on_after_a_cursor_and_samples_follow_their_seed(kind: str, place: str) -> None:
    with open_store(store_url(kind, place, "docs")) as store:
        batches = list(store.scan(100))
        assert [len(batch) for batch in batches] == [100] * 2 + [3]
        cursor = json.loads(json.dumps(batches[0].cursor))
        ids = [list(batch.ids) for batch in store.scan(100, cursor)]
        assert ids == [list(batch.ids) for batch in batches[1:]]
        assert list(store.scan(100, json.loads(json.dumps(batches[-1].cursor)))) == []
        sample, again, other = (store.sample(40, seed) for seed in (1, 1, 2))
    assert len(sample) == 40
    assert list(sample.ids) == list(again.ids) != list(other.ids)
    numbers = [int(record["label"]) for record in sample.payload.records()]
    np.testing.assert_allclose(sample.vectors, make_vectors(ROWS)[numbers], rtol=1e-5)


def test_rows_of_a_parquet_file_arrive_with_their_columns(
    kind: str, place: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS, with_faults=True)
    target = store_url(kind, place, "arrived")
    result = run(f"{tmp_path}/a.parquet", target, tmp_path / "state")
    assert (result.rejected, result.warnings) == (3, [])
    rows = by_number(target)
    numbers = [i for i in range(ROWS) if i not in (3, 5, 7)]
    assert [row[2]["label"] for row in rows] == numbers
    assert rows[-1][2]["text"] == f"text {ROWS - 1}\nof two lines"
    ids = [row[2]["original_id"] if kind == "qdrant" else row[0] for row in rows]
    assert ids == [f"r{i}" for i in numbers]


def test_move_that_was_killed_ends_as_an_undisturbed_one(
    kind: str, place: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS, with_faults=True)
    states = tmp_path / "states"
    states.mkdir()
    # LanceDB starts a thread when it is imported, which a fork would lack.
    modules = () if kind == "lancedb" else ("parquet_store", f"{kind}_store")
    kills = 2 if kind == "lancedb" else 5
    home = place if kind == "redis" else f"{tmp_path}/{{}}"
    target = store_url(kind, home, "killed-{}" if kind == "redis" else "killed")
    source = f"{tmp_path}/a.parquet"
    check_interrupted_moves(
        source, target, states, block=80, kills=kills, seed=4, rejected=3, modules=modules
    )


def test_missing_store_is_named(kind: str, place: str, folder: Path) -> None:
    expected = f"no such {KINDS[kind]}"
    with (
        open_store(store_url(kind, place, "nothing")) as store,
        pytest.raises(InvalidInputError, match=expected),
    ):
        store.dimension()
    with pytest.raises(InvalidInputError, match=f"got no {KINDS[kind]}"):
        open_store(place if kind == "redis" else f"{kind}:{folder}/a.db")


def test_state_of_a_collection_has_its_kind_name_and_address() -> None:
    qdrant = state_folder("qdrant:a/b?collection=docs")
    assert qdrant.match("qdrant.docs.????????.migration")
    assert qdrant == state_folder("qdrant:./a/c/../b?collection=docs")
    chroma = state_folder("chroma:a/b?collection=docs")
    assert len({qdrant, chroma, state_folder("qdrant:a/c?collection=docs")}) == 3
    url = "postgresql://me:secret@host/db?table=docs&column=second"
    assert state_folder(url).match("postgresql.docs.second.????????.migration")
    assert state_folder(url) == state_folder(url.replace("secret", "other"))


def test_collection_of_several_vectors_needs_the_name_of_one(tmp_path: Path) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(tmp_path / "qdrant"))
    parameters = models.VectorParams(size=16, distance=models.Distance.DOT)
    client.create_collection("docs", {"a": parameters, "b": parameters})
    vectors: Any = {"a": make_vectors(1)[0].tolist()}
    client.upsert("docs", [models.PointStruct(id=1, vector=vectors, payload={"label": 0})])
    client.close()
    source, target = (store_url("qdrant", tmp_path, name) for name in ("docs", "moved"))
    with pytest.raises(InvalidInputError, match="its name by column=NAME, got a, b"):
        run(source, target, tmp_path / "state")
    assert run(f"{source}&column=a", target, tmp_path / "state").written == 1
    with open_store(f"{target}&column=a") as store:
        assert store.dimension() == TARGET_WIDTH


def test_server_of_qdrant_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with (
        open_store("qdrant:http://127.0.0.1:9?collection=docs") as store,
        pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9.*refused"),
        client_errors(store),
    ):
        store.count()


def test_changed_source_stops_a_move_of_a_chroma_collection(tmp_path: Path) -> None:
    import chromadb
    from chromadb.config import Settings

    source = fill_store("chroma", tmp_path, make_vectors(ROWS), TEXTS)
    target = str(tmp_path / "b.parquet")
    with pytest.raises(KeyboardInterrupt):
        run(source, target, tmp_path / "state", 64)
    settings = Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(tmp_path / "chroma"), settings)
    client.get_collection("docs", embedding_function=None).delete([f"r{i}" for i in range(10)])
    with pytest.raises(ConflictError, match=r"has changed since the move to .* began"):
        run(source, target, tmp_path / "state")


def test_points_that_were_added_stop_a_move_of_a_qdrant_collection(tmp_path: Path) -> None:
    from qdrant_client import QdrantClient, models

    source = fill_store("qdrant", tmp_path, make_vectors(ROWS), TEXTS)
    target = str(tmp_path / "b.parquet")
    with pytest.raises(KeyboardInterrupt):
        run(source, target, tmp_path / "state", 64)
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    client.upsert("docs", [models.PointStruct(id=10**9, vector=make_vectors(1)[0].tolist())])
    client.close()
    with pytest.raises(ConflictError, match=r"has changed since the move to .* began"):
        run(source, target, tmp_path / "state")
