"""Tables of PostgreSQL with pgvector as stores."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest

from stitchwork.errors import ConflictError, InvalidInputError, UnavailableError
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.stores import client_errors, open_store
from tests.support.interrupted_moves import check_interrupted_moves
from tests.support.moved_stores import TARGET_WIDTH, WIDTH, make_map, make_vectors, write_parquet

ROWS = 503
TYPES = """
    id bigint PRIMARY KEY, title text NOT NULL, embedding vector(16), meta jsonb,
    price numeric(8, 2), span interval, tags text[], made timestamptz, code uuid, flag boolean
"""


@pytest.fixture
def url(postgresql_url: str) -> str:
    """The URL of a server with a table `docs` of rows of many types."""
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        connection.execute(f"CREATE TABLE docs ({TYPES})")
        rows = [
            (7 * i, f"title {i}\n\t\\ é", str(vector.tolist()), json.dumps({"n": i}))
            for i, vector in enumerate(make_vectors(ROWS))
        ]
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO docs VALUES (%s, %s, %s, %s, 12.30, '1 mon 2 days', "
                "ARRAY['a', NULL, 'b,c'], '2026-01-02 03:04:05.6789+02', gen_random_uuid(), true)",
                rows,
            )
    return postgresql_url


def store_url(url: str, table: str, **options: str) -> str:
    return url + "&" + "&".join(f"{k}={v}" for k, v in {"table": table, **options}.items())


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


def query(url: str, text: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(text).fetchall()


def vectors_of(url: str, table: str, column: str = "embedding") -> Any:
    rows = query(url, f"SELECT {column}::text FROM {table} ORDER BY id")
    return np.array([json.loads(row[0]) for row in rows], np.float32)


def test_new_table_has_all_columns_with_their_types_and_values(url: str, tmp_path: Path) -> None:
    before = query(url, "SELECT docs::text FROM docs ORDER BY id")
    result = run(store_url(url, "docs"), store_url(url, "moved"), tmp_path / "state")
    assert (result.rows, result.written, result.warnings) == (ROWS, ROWS, [])
    others = "id, title, meta::text, price, span::text, tags, made, code, flag"
    assert query(url, f"SELECT {others} FROM moved ORDER BY id") == query(
        url, f"SELECT {others} FROM docs ORDER BY id"
    )
    types = "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
    types += "WHERE attnum > 0 AND attname <> 'embedding' AND attrelid = '{}'::regclass ORDER BY 1"
    assert query(url, types.format("moved")) == query(url, types.format("docs"))
    expected = make_map().apply(make_vectors(ROWS)).rows
    np.testing.assert_allclose(vectors_of(url, "moved"), expected, atol=1e-6)
    assert query(url, "SELECT docs::text FROM docs ORDER BY id") == before
    stamp = json.loads(query(url, "SELECT obj_description('moved'::regclass)")[0][0])
    assert stamp == result.versions


def test_new_column_of_the_same_table_leaves_all_else(url: str, tmp_path: Path) -> None:
    others = "id, title, embedding::text, meta::text, price, span::text, tags, made, code, flag"
    before = query(url, f"SELECT {others} FROM docs ORDER BY id")
    source = store_url(url, "docs", column="embedding")
    target = store_url(url, "public.docs", column="embedding_new")
    with pytest.raises(KeyboardInterrupt):
        run(source, target, tmp_path / "state", stop_after=128)
    result = run(source, target, tmp_path / "state")
    assert (result.resumed_at, result.written, result.warnings) == (128, ROWS, [])
    assert query(url, f"SELECT {others} FROM docs ORDER BY id") == before
    expected = make_map().apply(make_vectors(ROWS)).rows
    np.testing.assert_allclose(vectors_of(url, "docs", "embedding_new"), expected, atol=1e-6)


def test_column_of_the_same_table_must_be_named(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="exists already"):
        run(store_url(url, "docs"), store_url(url, "docs"), tmp_path / "state")
    with pytest.raises(InvalidInputError, match="name both columns"):
        run(store_url(url, "docs"), store_url(url, "docs", column="b"), tmp_path / "state")


@pytest.mark.parametrize("options", [{"column": "title"}, {"id": "title"}, {"id": "embedding"}])
def test_names_of_other_columns_are_refused(
    url: str, tmp_path: Path, options: dict[str, str]
) -> None:
    with pytest.raises(InvalidInputError, match="columns of different names, got"):
        run(store_url(url, "docs"), store_url(url, "moved", **options), tmp_path / "state")
    assert query(url, "SELECT to_regclass('moved')") == [(None,)]


def test_ids_of_another_column_than_the_source_has_are_refused(url: str, tmp_path: Path) -> None:
    target = store_url(url, "docs", column="second", id="code")
    with pytest.raises(InvalidInputError, match=r"expected the ids of the source, .* got id=code"):
        run(store_url(url, "docs", column="embedding"), target, tmp_path / "state")


def test_column_of_another_table_is_refused(url: str, tmp_path: Path) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE other (id bigint PRIMARY KEY)")
    with pytest.raises(ConflictError, match="expected a new table, or that of the source"):
        run(store_url(url, "docs"), store_url(url, "other", column="b"), tmp_path / "state")


def test_rows_without_a_vector_are_left_out(url: str, tmp_path: Path) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE docs SET embedding = NULL WHERE id = 21")
    result = run(store_url(url, "docs"), store_url(url, "moved"), tmp_path / "state")
    assert json.loads(result.rejects.read_text()) == {"id": 21, "reason": "no vector"}
    assert (result.written, result.warnings) == (ROWS - 1, [])
    source, target = (
        store_url(url, "docs", column="embedding"),
        store_url(url, "docs", column="second"),
    )
    result = run(source, target, tmp_path / "second")
    assert (result.written, result.warnings) == (ROWS - 1, [])
    assert query(url, "SELECT id FROM docs WHERE second IS NULL") == [(21,)]


def test_vectors_of_several_widths_in_one_column_are_left_out(url: str, tmp_path: Path) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE loose (id text PRIMARY KEY, v vector)")
        for i, vector in enumerate(make_vectors(3)):
            text = str(vector[: 5 if i == 2 else WIDTH].tolist())
            connection.execute("INSERT INTO loose VALUES (%s, %s)", (f"k{i}", text))
    result = run(store_url(url, "loose"), store_url(url, "moved"), tmp_path / "state")
    assert json.loads(result.rejects.read_text()) == {
        "id": "k2",
        "reason": "expected 16 numbers, got 5",
    }
    assert query(url, "SELECT id FROM moved ORDER BY id") == [("k0",), ("k1",)]


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("nothing", {}, "no such table"),
        ("docs", {"id": "title"}, "expected a column title of ids, unique and NOT NULL"),
        ("docs", {"column": "title"}, "expected a column title of vectors"),
        ("keyless", {}, "expected a primary key of one column"),
    ],
)
def test_table_that_cannot_be_read_in_order_is_refused(
    url: str, tmp_path: Path, table: str, options: dict[str, str], message: str
) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE keyless (a int, b int, v vector(16), PRIMARY KEY (a, b))")
        connection.execute("INSERT INTO keyless VALUES (1, 2, %s)", [str([1] * 16)])
    with pytest.raises(InvalidInputError, match=message):
        run(store_url(url, table, **options), f"{tmp_path}/b.jsonl", tmp_path / "state")


def test_rows_go_to_parquet_and_back(url: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    run(f"{tmp_path}/a.parquet", store_url(url, "arrived"), tmp_path / "state")
    rows = query(url, "SELECT id, payload FROM arrived ORDER BY (payload->>'label')::int")
    assert [row[0] for row in rows] == [f"r{i}" for i in range(ROWS)]
    assert rows[4][1] == {"label": 4, "text": "text 4\nof two lines"}
    run(store_url(url, "docs"), f"{tmp_path}/b.jsonl", tmp_path / "other")
    first = json.loads((tmp_path / "b.jsonl").read_text().splitlines()[0])
    assert len(first.pop("embedding")) == TARGET_WIDTH
    assert first.pop("code")
    assert first == {
        "id": 0,
        "title": "title 0\n\t\\ é",
        "meta": {"n": 0},
        "price": "12.30",
        "span": "1 mon 2 days",
        "tags": '{a,NULL,"b,c"}',
        "made": first["made"],
        "flag": True,
    }


def test_sample_follows_its_seed_and_the_order_of_ids(url: str) -> None:
    with open_store(store_url(url, "docs")) as store:
        sample, again, other = (store.sample(40, seed) for seed in (1, 1, 2))
    assert len(sample) == 40
    assert sample.ids == sorted(set(sample.ids), key=int) == again.ids != other.ids
    vectors = make_vectors(ROWS)
    np.testing.assert_allclose(
        sample.vectors, vectors[[int(i) // 7 for i in sample.ids]], rtol=1e-5
    )


def test_changed_row_stops_a_move_that_has_begun(url: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(store_url(url, "docs"), store_url(url, "moved"), tmp_path / "state", stop_after=64)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE docs SET title = 'another' WHERE id = 7")
    with pytest.raises(ConflictError, match=r"has changed since the move to .* began"):
        run(store_url(url, "docs"), store_url(url, "moved"), tmp_path / "state")


def test_change_during_a_move_is_named_in_a_warning(url: str, tmp_path: Path) -> None:
    def change(done: int, total: int) -> None:
        if done == 64:
            with psycopg.connect(url) as connection:
                connection.execute("DELETE FROM docs WHERE id = 14")
                connection.execute("INSERT INTO docs (id, title) VALUES (15, 'new')")

    with (
        open_store(store_url(url, "docs")) as source,
        open_store(store_url(url, "moved")) as target,
    ):
        state = tmp_path / "state"
        result = move(source, target, make_map(), state, block_rows=64, progress=change)
    (warning,) = result.warnings
    assert "has changed during the move" in warning


TYPED: dict[str, tuple[str, Any]] = {
    "bytea": (r"'\xff00'", r"\xff00"),
    "mood": ("'sad'", "sad"),
    "pair": ("ROW(1, 'x,y')", '(1,"x,y")'),
    "positive": ("5", "5"),
    "uuid": (f"'{UUID(int=1)}'", str(UUID(int=1))),
    "int[]": ("'{1,NULL,2}'", "{1,NULL,2}"),
    "numeric": ("'1.50'", "1.50"),
    "bit(3)": ("B'101'", "101"),
    "int4range": ("'[1,5)'", "[1,5)"),
    "inet": ("'10.0.0.1/8'", "10.0.0.1/8"),
    "point": ("'(1,2)'", "(1,2)"),
    "tsvector": ("'a b'", "'a' 'b'"),
    "interval": ("'1 day'", "1 day"),
    "date": ("'infinity'", "infinity"),
    "jsonb": (
        """'{"n": [1, null], "price": 1.5, "exact": 0.12345678901234567890123}'""",
        {"n": [1, None], "price": 1.5, "exact": 0.12345678901234567890123},
    ),
    "int GENERATED ALWAYS AS (key * 2) STORED": ("DEFAULT", 2),
    "int GENERATED ALWAYS AS IDENTITY": ("DEFAULT", 1),
}
LOST: dict[str, tuple[str, str]] = {
    "float8": ("'NaN'", "a number that is not finite"),
    "jsonb": ("""'{"n": 12345678901234567890123}'""", "64-bit"),
}


@pytest.fixture
def typed(url: str) -> str:
    """The URL of a server with types of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
        connection.execute("CREATE TYPE pair AS (a int, b text)")
        connection.execute("CREATE DOMAIN positive AS int CHECK (value > 0)")
    return url


def create_typed(url: str, type_: str, value: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS typed, copied")
        connection.execute(f"CREATE TABLE typed (key int PRIMARY KEY, v vector(16), x {type_})")
        vector = make_vectors(1)[0].tolist()
        connection.execute(f"INSERT INTO typed VALUES (1, '{vector}', {value})")


def test_values_of_all_types_are_copied_and_become_json(typed: str, tmp_path: Path) -> None:
    type_of = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'x' "
    type_of += "AND attrelid = '{}'::regclass"
    for number, (type_, (value, expected)) in enumerate(TYPED.items()):
        create_typed(typed, type_, value)
        run(store_url(typed, "typed"), store_url(typed, "copied"), tmp_path / f"{number}")
        for text in ("SELECT x::text FROM {}", type_of):
            assert query(typed, text.format("copied")) == query(typed, text.format("typed")), type_
        run(store_url(typed, "typed"), f"{tmp_path}/{number}.jsonl", tmp_path / f"{number}-json")
        row = json.loads((tmp_path / f"{number}.jsonl").read_text())
        assert row["x"] == expected, type_


def test_values_that_json_would_change_are_refused_by_their_column(
    typed: str, tmp_path: Path
) -> None:
    for type_, (value, reason) in LOST.items():
        create_typed(typed, type_, value)
        with pytest.raises(InvalidInputError, match=f"row 1 has in the field x .*{reason}"):
            run(store_url(typed, "typed"), f"{tmp_path}/b.jsonl", tmp_path / "state")


def test_server_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    address = f"postgresql://me:secret@/db?host={tmp_path}&table=docs"
    with pytest.raises(UnavailableError) as error:
        open_store(address)
    assert "postgresql://me@/db" in str(error.value)
    assert "secret" not in str(error.value)


def test_move_that_was_killed_ends_as_an_undisturbed_one(url: str, tmp_path: Path) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE docs SET embedding = NULL WHERE id = 21")
    source, target = store_url(url, "docs"), store_url(url, "moved_{}")
    check_interrupted_moves(
        source, target, tmp_path, kills=7, seed=1, rejected=1, modules=["postgresql_store"]
    )
