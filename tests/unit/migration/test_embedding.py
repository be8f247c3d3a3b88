"""Stores of texts that get embeddings: what is written, left out, resumed and refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.embedding import MAX_PROBE_REQUESTS, SAMPLE_TEXT, Embedding, find_probe
from stitchwork.migration.file_shards import FileShard, move_shard
from stitchwork.migration.item_readers import FieldItems
from stitchwork.migration.item_stores import open_items, open_items_file
from stitchwork.migration.local_engine import StoreMove
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.space_encoder import Probe, SpaceEncoder
from stitchwork.migration.stores import open_store, state_folder
from stitchwork.resources import TextEncoder
from tests.support.space_encoders import (
    DIMENSION,
    MAX_TOKENS,
    PROBE_TEXTS,
    embed,
    make_encoder,
    save_model,
)

ROWS = 100
LONG = "word " * (2 * MAX_TOKENS)
TEXTS = [f"the word {i} was longer" for i in range(ROWS)]
FAULTS = {3: None, 40: " ", 55: LONG}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    """The encoder of the space."""
    return save_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def encoder(spec: TextEncoder) -> SpaceEncoder:
    """The encoder of the space in this process."""
    return make_encoder(spec)


@pytest.fixture(scope="module")
def expected(spec: TextEncoder) -> Any:
    """(n, 32) embeddings of the texts."""
    return embed(spec, TEXTS)


def write_texts(path: Path, texts: list[str | None]) -> Any:
    """A Parquet file of texts with ids and numbers; its table."""
    columns = {"id": [f"r{i}" for i in range(len(texts))], "body": texts, "n": range(len(texts))}
    table = pa.table({**columns, "n": pa.array(columns["n"], pa.int16())})
    pq.write_table(table, path, row_group_size=40)
    return table


def run(source: Path, target: Path, encoder: SpaceEncoder, **options: Any) -> MoveResult:
    with open_items(str(source)) as items, open_store(str(target)) as rows:
        reader = FieldItems.choose(items, "text", None)
        embedding = Embedding(encoder, reader)
        return StoreMove(items, rows, embedding, state_folder(str(target)), 16, **options).run()


def rejects(result: MoveResult) -> dict[str, str]:
    lines = [json.loads(line) for line in result.rejects.read_text().splitlines()]
    return {line["id"]: line["reason"] for line in lines}


def vectors(path: Path) -> Any:
    return np.array(pq.read_table(path).column("embedding").to_pylist(), np.float32)


def test_rows_get_the_embeddings_of_their_texts_beside_their_columns(
    encoder: SpaceEncoder, expected: Any, tmp_path: Path
) -> None:
    table = write_texts(tmp_path / "a.parquet", list(TEXTS))
    result = run(tmp_path / "a.parquet", tmp_path / "b.parquet", encoder)
    assert (result.rows, result.written, result.rejected, result.warnings) == (ROWS, ROWS, 0, [])
    moved = pq.read_table(tmp_path / "b.parquet")
    assert moved.drop_columns(["embedding"]).equals(table)
    assert moved.schema.field("embedding").type == pa.list_(pa.float32(), DIMENSION)
    np.testing.assert_allclose(vectors(tmp_path / "b.parquet"), expected, atol=1e-5)
    stamp = json.loads(moved.schema.metadata[b"stitchwork"])
    assert stamp == result.versions == {"space": "s", "version": "s1"}


def test_rows_without_a_valid_text_are_listed_and_left_out(
    encoder: SpaceEncoder, expected: Any, tmp_path: Path
) -> None:
    texts = [FAULTS.get(i, text) for i, text in enumerate(TEXTS)]
    write_texts(tmp_path / "a.parquet", texts)
    result = run(tmp_path / "a.parquet", tmp_path / "b.parquet", encoder)
    reasons = rejects(result)
    assert reasons.keys() == {"r3", "r40", "r55"}
    assert reasons["r3"] == reasons["r40"] == "no text to embed"
    assert f"at most {MAX_TOKENS} tokens" in reasons["r55"]
    assert result.warnings == [
        "3 of 100 rows were left out, as they could not be embedded; rejects.jsonl lists them"
    ]
    others = [i for i in range(ROWS) if i not in FAULTS]
    np.testing.assert_allclose(vectors(tmp_path / "b.parquet"), expected[others], atol=1e-5)
    ids = pq.read_table(tmp_path / "b.parquet").column("id").to_pylist()
    assert ids == [f"r{i}" for i in others]


def test_truncated_texts_are_counted_in_a_warning(spec: TextEncoder, tmp_path: Path) -> None:
    write_texts(tmp_path / "a.parquet", [*TEXTS[:20], LONG])
    encoder = make_encoder(spec, truncate=True)
    result = run(tmp_path / "a.parquet", tmp_path / "b.parquet", encoder)
    assert (result.written, rejects(result)) == (21, {})
    assert "the texts of 1 of 21 rows were truncated" in result.warnings[0]
    row = embed(spec, [LONG], truncate=True)[0]
    np.testing.assert_allclose(vectors(tmp_path / "b.parquet")[20], row, atol=1e-5)


def test_command_that_was_interrupted_goes_on_after_its_last_block(
    encoder: SpaceEncoder, expected: Any, tmp_path: Path
) -> None:
    write_texts(tmp_path / "a.parquet", [FAULTS.get(i, text) for i, text in enumerate(TEXTS)])

    def interrupt(done: int, total: int) -> None:
        if done >= ROWS // 2:
            raise KeyboardInterrupt

    paths = (tmp_path / "a.parquet", tmp_path / "b.parquet")
    with pytest.raises(KeyboardInterrupt):
        run(*paths, encoder, progress=interrupt)
    assert not (tmp_path / "b.parquet").exists()
    result = run(*paths, encoder)
    assert 0 < result.resumed_at < ROWS
    assert rejects(result).keys() == {"r3", "r40", "r55"}
    others = [i for i in range(ROWS) if i not in FAULTS]
    np.testing.assert_allclose(vectors(tmp_path / "b.parquet"), expected[others], atol=1e-5)
    before = (tmp_path / "b.parquet").stat().st_mtime_ns
    assert run(*paths, encoder).resumed_at == ROWS
    assert (tmp_path / "b.parquet").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": "s2"}, "another version of the space: s1, now s2"),
        ({"truncate": True}, "origin of texts: the field body, now the field body, truncated"),
        ({"input_type": "query"}, "now the field body, of the type query"),
    ],
)
def test_command_is_not_resumed_with_another_version_or_option(
    spec: TextEncoder, encoder: SpaceEncoder, tmp_path: Path, fields: Any, message: str
) -> None:
    write_texts(tmp_path / "a.parquet", list(TEXTS[:20]))
    run(tmp_path / "a.parquet", tmp_path / "b.parquet", encoder)
    with pytest.raises(ConflictError, match=message):
        run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_encoder(spec, **fields))


def test_lines_of_json_get_embeddings_and_keep_their_fields(
    encoder: SpaceEncoder, expected: Any, tmp_path: Path
) -> None:
    lines = [{"id": i, "text": text, "tags": [i]} for i, text in enumerate(TEXTS[:20])]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    run(tmp_path / "a.jsonl", tmp_path / "b.jsonl", encoder)
    moved = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    rows = [line.pop("embedding") for line in moved]
    assert moved == lines
    np.testing.assert_allclose(np.array(rows, np.float32), expected[:20], atol=1e-5)


def test_shards_embed_each_file_of_a_folder_once(
    encoder: SpaceEncoder, expected: Any, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    for number in range(3):
        write_texts(tmp_path / f"old/{number}.parquet", list(TEXTS[number * 10 :][:10]))
    paths = (str(tmp_path / "old"), str(tmp_path / "new"))
    for index in (1, 0):
        embedding = Embedding(encoder, FieldItems("body", "text"))
        move_shard(
            *paths,
            embedding,
            tmp_path / "state",
            FileShard(index, 2),
            block_rows=4,
            open_source=open_items_file,
        )
    for number in range(3):
        rows = vectors(tmp_path / f"new/{number}.parquet")
        np.testing.assert_allclose(rows, expected[number * 10 :][:10], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"files_digest": "0" * 32}, "expected files of digest 0{32}, got"),
        ({"dimension": 16}, "expected embeddings of 16 numbers, got 32"),
        (
            {"probe": Probe(PROBE_TEXTS, np.ones((2, DIMENSION), np.float32))},
            "expected the rows of the service within 0.001 of their lengths",
        ),
        ({"probe": Probe((LONG,), np.ones((1, DIMENSION), np.float32))}, "cannot embed an input"),
    ],
)
def test_encoder_that_is_not_that_of_the_space_is_refused(
    spec: TextEncoder, tmp_path: Path, fields: Any, message: str
) -> None:
    write_texts(tmp_path / "a.parquet", list(TEXTS[:20]))
    with pytest.raises(ConflictError, match=f"is not the encoder of the space s: .*{message}"):
        run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_encoder(spec, **fields))
    assert not (tmp_path / "b.parquet").exists()
    assert not (tmp_path / "b.parquet.migration").exists()


def test_column_that_has_no_texts_is_refused_by_name(tmp_path: Path) -> None:
    table = pa.table({"id": [1], "title": ["a"], "body": ["b"], "image": [b"c"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with open_items(f"{tmp_path}/a.parquet") as items:
        assert FieldItems.choose(items, "text", "body") == FieldItems("body", "text")
        assert FieldItems.choose(items, "image", None) == FieldItems("image", "image")
        listed = r"title \(texts\), body \(texts\), image \(images\)"
        with pytest.raises(InvalidInputError, match=f"column 'text' of texts, got {listed}; --col"):
            FieldItems.choose(items, "text", None)
        with pytest.raises(InvalidInputError, match=f"column 'image' of texts, got {listed}$"):
            FieldItems.choose(items, "text", "image")


def test_encoder_that_accepts_other_lengths_than_the_service_is_refused(
    spec: TextEncoder, tmp_path: Path
) -> None:
    write_texts(tmp_path / "a.parquet", list(TEXTS[:20]))
    probe = make_encoder(spec).probe._replace(max_tokens=2 * MAX_TOKENS)
    message = f"at most {2 * MAX_TOKENS} tokens, .*, got {MAX_TOKENS} .*MAX_TEXT_TOKENS"
    with pytest.raises(ConflictError, match=message):
        run(tmp_path / "a.parquet", tmp_path / "b.parquet", make_encoder(spec, probe=probe))


def test_probe_is_of_the_first_inputs_that_the_service_accepts(tmp_path: Path) -> None:
    texts = [None] * 100 + ["refused"] * 10 + [f"text {i}" for i in range(10)]
    write_texts(tmp_path / "a.parquet", texts)
    row = np.zeros(2, np.float32)

    def accept(items: list[Any]) -> list[Any]:
        return ["too long" if item == "refused" else row for item in items]

    with open_items(f"{tmp_path}/a.parquet") as items:
        pairs = find_probe(items, FieldItems("body", "text"), accept)
    assert [item for item, _ in pairs] == [f"text {i}" for i in range(4)]


def test_probe_of_inputs_that_the_service_refuses_is_a_sentence_or_refused(tmp_path: Path) -> None:
    table = pa.table({"id": range(100), "body": ["refused"] * 100, "image": [b"none"] * 100})
    pq.write_table(table, tmp_path / "a.parquet")
    requests = list[list[Any]]()
    row = np.zeros(2, np.float32)

    def accept(items: list[Any]) -> list[Any]:
        requests.append(items)
        return ["refused" if item in ("refused", b"none") else row for item in items]

    with open_items(f"{tmp_path}/a.parquet") as items:
        assert find_probe(items, FieldItems("body", "text"), accept) == [(SAMPLE_TEXT, row)]
        assert len(requests) == MAX_PROBE_REQUESTS + 1
        with pytest.raises(InvalidInputError, match="expected images that the service embeds"):
            find_probe(items, FieldItems("image", "image"), accept)
