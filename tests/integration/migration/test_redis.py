"""Indexes of Redis search: their fields, keys and expiries, and servers without them."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import redis
from redis.commands.search.field import GeoField, NumericField, TagField, TextField, VectorField
from redis.commands.search.index_definition import IndexDefinition, IndexType

from stitchwork.errors import ConflictError, InvalidInputError, UnavailableError
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.stores import client_errors, open_store
from tests.support.moved_stores import TARGET_WIDTH, make_map, make_vectors
from tests.support.search_server import search_server
from tests.support.servers import ServerProcess

ROWS = 40
EXPIRY = 4_102_444_800_000
"""The year 2100, in milliseconds."""
VECTOR = {"TYPE": "FLOAT32", "DIM": 16, "DISTANCE_METRIC": "COSINE", "M": 8}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with search_server() as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    """A client of the server, which has no keys and no indexes."""
    with redis.Redis.from_url(url, protocol=2) as client:
        client.flushall()
        yield client


@pytest.fixture
def source(client: Any, url: str) -> str:
    """The URL of an index `docs` with fields of many types, a second vector and a binary field."""
    fields = [
        VectorField("embedding", "HNSW", VECTOR, as_name="dense"),
        VectorField("second", "FLAT", {"TYPE": "FLOAT64", "DIM": 2, "DISTANCE_METRIC": "L2"}),
        TextField("text", weight=2.0, sortable=True, no_stem=True),
        TagField("tag", separator="|", case_sensitive=True),
        NumericField("label", sortable=True, no_index=True),
        GeoField("place"),
    ]
    _create(client, "docs", fields, ["doc:"])
    for i, vector in enumerate(make_vectors(ROWS)):
        fields_ = {
            "embedding": vector.tobytes(),
            "second": np.array([i, 0.5]).tobytes(),
            "text": f"text é {i}",
            "tag": "a|B",
            "label": i,
            "place": "2.35,48.85",
        }
        client.hset(f"doc:{i}", mapping=fields_)
    client.pexpireat("doc:7", EXPIRY)
    client.set("doc:none", "a key of another type")
    return f"{url}?index=docs&column=dense"


def _create(client: Any, name: str, fields: list[Any], prefixes: list[str], **options: Any) -> None:
    options = {"index_type": IndexType.HASH, **options}
    definition = IndexDefinition(prefixes, **options)  # type: ignore[no-untyped-call]
    client.ft(name).create_index(fields, definition=definition)


def run(source: str, target: str, folder: Path) -> MoveResult:
    with open_store(source) as rows, open_store(target) as moved, client_errors(rows, moved):
        return move(rows, moved, make_map(), folder / "state", block_rows=16)


def test_index_has_the_fields_of_the_source_and_hashes_all_else(
    client: Any, url: str, source: str, tmp_path: Path
) -> None:
    client.hset("doc:3", "bytes", b"\xff\x00")
    client.hset("doc:5", "embedding", b"123")
    result = run(source, f"{url}?index=moved", tmp_path)
    assert (result.written, result.warnings) == (ROWS - 1, [])
    reject = json.loads(result.rejects.read_text())
    assert reject == {"id": "5", "reason": "expected 16 numbers, got 0"}
    before, after = (client.ft(name).info() for name in ("docs", "moved"))
    dim = before["attributes"][0].index(b"dim") + 1
    assert after["attributes"][0][dim] == TARGET_WIDTH
    after["attributes"][0][dim] = before["attributes"][0][dim]
    assert after["attributes"] == before["attributes"]
    assert (int(after["num_docs"]), int(after["hash_indexing_failures"])) == (ROWS - 1, 0)
    for i in range(ROWS):
        old, new = (client.hgetall(f"{prefix}:{i}") for prefix in ("doc", "moved"))
        row = new.pop(b"embedding", b"")
        del old[b"embedding"]
        assert new == ({} if i == 5 else old)
        assert len(row) == (0 if i == 5 else 4 * TARGET_WIDTH)
    assert client.pexpiretime("moved:7") == EXPIRY
    assert client.pexpiretime("moved:8") == -1
    vector = np.frombuffer(client.hget("moved:9", "embedding"), np.float32)
    np.testing.assert_allclose(vector, make_map().apply(make_vectors(ROWS)).rows[9], atol=1e-6)


def test_other_kinds_of_stores_have_further_vectors_as_lists(
    client: Any, url: str, source: str, tmp_path: Path
) -> None:
    run(source, f"{tmp_path}/a.jsonl", tmp_path / "a")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    row = next(row for row in rows if row["id"] == "4")
    assert len(row.pop("embedding")) == TARGET_WIDTH
    expected = {"text": "text é 4", "tag": "a|B", "label": "4", "place": "2.35,48.85"}
    assert row == {"id": "4", "second": [4.0, 0.5], **expected}
    client.hset("doc:3", "bytes", b"\xff\x00")
    with pytest.raises(InvalidInputError, match="row 3 has binary data in the field bytes"):
        run(source, f"{tmp_path}/b.jsonl", tmp_path / "b")
    back = make_map().apply(make_vectors(ROWS)).rows[:, :16]
    lines = [
        json.dumps({"id": i, "embedding": vector.tolist(), "none": None, "flag": True, "n": [i]})
        for i, vector in enumerate(back)
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    run(f"{tmp_path}/c.jsonl", f"{url}?index=arrived&column=v", tmp_path / "c")
    hash_ = client.hgetall("arrived:4")
    assert len(hash_.pop(b"v")) == 4 * TARGET_WIDTH
    assert hash_ == {b"flag": b"true", b"n": b"[4]"}
    hits = client.ft("arrived").search("*").total
    assert hits == ROWS


def test_index_with_a_filter_or_of_json_is_refused(client: Any, url: str, tmp_path: Path) -> None:
    vector = VectorField("embedding", "HNSW", VECTOR)
    _create(client, "some", [vector, NumericField("n")], ["doc:"], filter="@n > 3")
    with pytest.raises(InvalidInputError, match="all hashes with a prefix, got one with the filt"):
        run(f"{url}?index=some", f"{tmp_path}/a.jsonl", tmp_path)
    path = VectorField("$.embedding", "HNSW", VECTOR, as_name="embedding")
    _create(client, "json", [path], ["doc:"], index_type=IndexType.JSON)
    with pytest.raises(InvalidInputError, match="got one with keys of type JSON"):
        run(f"{url}?index=json", f"{tmp_path}/a.jsonl", tmp_path)


def test_keys_that_two_indexes_would_contain_are_refused(
    client: Any, url: str, source: str, tmp_path: Path
) -> None:
    client.set("moved:1", "")
    with pytest.raises(ConflictError, match="keys that begin with moved: exist"):
        run(source, f"{url}?index=moved", tmp_path)
    with pytest.raises(ConflictError, match="doc:copy:, would be in the index docs too"):
        run(source, f"{url}?index=doc:copy", tmp_path)
    _create(client, "all", [TextField("text")], [])
    with pytest.raises(ConflictError, match="other:, would be in the index all too"):
        run(source, f"{url}?index=other", tmp_path)


def test_index_of_several_vectors_needs_the_name_of_one(
    url: str, source: str, tmp_path: Path
) -> None:
    message = r"expected one field of vectors, got dense \(VECTOR\), second \(VECTOR\)"
    with pytest.raises(InvalidInputError, match=message):
        run(source.removesuffix("&column=dense"), f"{url}?index=moved", tmp_path)


def test_server_without_search_and_one_that_does_not_answer_are_named(tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="redis") as folder:
        server = ServerProcess(Path(folder), ("--save", ""))
        try:
            with pytest.raises(InvalidInputError, match="expected a server with search"):
                run(f"{server.url}?index=docs", f"{tmp_path}/a.jsonl", tmp_path)
        finally:
            server.stop()
    with pytest.raises(UnavailableError, match=r"redis://me@127\.0\.0\.1:9.*refused"):
        run("redis://me:secret@127.0.0.1:9?index=docs", f"{tmp_path}/a.jsonl", tmp_path)


def test_hashes_expire_only_when_all_are_there_and_changes_meanwhile_are_named(
    client: Any, url: str, source: str, tmp_path: Path
) -> None:
    expiries = []

    def show(done: int, _: int) -> None:
        if done == ROWS:
            expiries.append(client.pexpiretime("moved:7"))
            client.hset("doc:new", "text", "added")

    with open_store(source) as rows, open_store(f"{url}?index=moved") as moved:
        folder = tmp_path / "state"
        result = move(rows, moved, make_map(), folder, block_rows=16, progress=show)
    assert expiries == [-1]
    assert client.pexpiretime("moved:7") == EXPIRY
    assert not client.exists("stitchwork-expiries:moved")
    assert [warning for warning in result.warnings if "has changed during the move" in warning]
    assert result.written == ROWS


def test_numbers_of_json_are_texts_with_all_digits(client: Any, url: str, tmp_path: Path) -> None:
    row = f'"id": 1, "embedding": {make_vectors(1)[0].tolist()}'
    exact = "0.12345678901234567890123"
    (tmp_path / "a.jsonl").write_text(f'{{{row}, "n": {exact}, "more": [{exact}]}}')
    run(f"{tmp_path}/a.jsonl", f"{url}?index=exact", tmp_path)
    hash_ = client.hgetall("exact:1")
    assert (hash_[b"n"], hash_[b"more"]) == (exact.encode(), f"[{exact}]".encode())
