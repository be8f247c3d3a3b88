"""Where the texts of rows that are embedded anew come from, and what a checkpoint keeps of that."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from stitchwork import Stitchwork
from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.re_embedding import TextEmbedder
from stitchwork.migration.row_texts import FieldTexts, FileTexts, TextReader
from stitchwork.migration.stores import open_store
from tests.support.http_responder import Response, http_responder
from tests.support.moved_stores import TARGET_WIDTH, make_map, make_vectors, write_parquet

ROWS = 100


class InterruptionError(Exception):
    """Ends a move after its first block."""


def respond(method: str, path: str, body: bytes) -> Response:
    """The responses for a space y whose encoder embeds every text as ones."""
    if method == "GET":
        space = {"id": "y", "version": "y1", "encoder": {"model": "m"}}
        return Response(json.dumps(space).encode())
    items = json.loads(body)["items"]
    for i, text in enumerate(items):
        if "refused" in text:
            problem = {"detail": f"item {i} is refused", "pointer": f"/items/{i}"}
            return Response(json.dumps({**problem, "code": "invalid_input"}).encode(), 422)
    rows = np.ones((len(items), TARGET_WIDTH), np.float32)
    return Response(save({"embeddings": rows}))


@pytest.fixture(scope="module")
def client() -> Iterator[Stitchwork]:
    with http_responder(respond) as address, Stitchwork(f"http://{address}") as stitchwork:
        yield stitchwork


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "a.parquet", ROWS, with_faults=True)
    return tmp_path


def run(
    client: Stitchwork,
    folder: Path,
    texts: TextReader,
    *,
    source: str = "a.parquet",
    block_rows: int = 40,
    is_interrupted: bool = False,
) -> MoveResult:
    def progress(done: int, total: int) -> None:
        if done and is_interrupted:
            raise InterruptionError

    embed = TextEmbedder(client, make_map().versions, texts)
    with open_store(f"{folder}/{source}") as rows, open_store(f"{folder}/b.parquet") as target:
        return move(
            rows,
            target,
            make_map(),
            folder / "state",
            re_embed=embed,
            block_rows=block_rows,
            progress=progress,
        )


def test_field_that_no_row_of_a_table_has_is_refused_before_anything_is_written(
    client: Stitchwork, folder: Path
) -> None:
    message = r"a\.parquet: expected texts in the field nofield, the rows have label, text"
    with pytest.raises(InvalidInputError, match=message):
        run(client, folder, FieldTexts("nofield", required=False))
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == ["a.parquet"]


def test_field_of_an_array_is_refused_as_it_has_none(client: Stitchwork, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", make_vectors(ROWS))
    with pytest.raises(InvalidInputError, match="in the field text, the rows have no fields"):
        run(client, tmp_path, FieldTexts("text", required=False), source="a.npy")


def test_field_that_no_row_of_json_lines_has_is_named_in_a_warning(
    client: Stitchwork, tmp_path: Path
) -> None:
    rows = [{"id": f"r{i}", "embedding": row} for i, row in enumerate(make_vectors(ROWS).tolist())]
    rows[3] |= {"embedding": None, "text": "third"}
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    result = run(client, tmp_path, FieldTexts("nofield", required=False), source="a.jsonl")
    assert (result.rejected, result.re_embedded) == (1, 0)
    assert result.warnings == [
        "1 of 100 rows were left out, as they have no text in the field nofield, "
        "a text that was refused, or no id; rejects.jsonl lists them. No row was embedded anew"
    ]


def test_rows_are_embedded_from_a_field(client: Stitchwork, folder: Path) -> None:
    result = run(client, folder, FieldTexts("text", required=False))
    assert (result.written, result.re_embedded, result.warnings) == (ROWS, 3, [])
    rows = pq.read_table(folder / "b.parquet").column("embedding").to_pylist()
    assert rows[3] == rows[5] == rows[7] == [1.0] * TARGET_WIDTH


def test_move_is_not_resumed_with_texts_of_another_field(client: Stitchwork, folder: Path) -> None:
    with pytest.raises(InterruptionError):
        run(client, folder, FieldTexts("text", required=False), is_interrupted=True)
    message = "move with another origin of texts: the field text, now the field label"
    with pytest.raises(ConflictError, match=message):
        run(client, folder, FieldTexts("label", required=False))
    assert run(client, folder, FieldTexts("text", required=False)).resumed_at == 40


def test_move_is_not_resumed_with_a_file_of_texts_that_has_changed(
    client: Stitchwork, folder: Path
) -> None:
    path = folder / "texts.jsonl"
    path.write_text('{"id": "r3", "text": "third"}\n')
    with pytest.raises(InterruptionError):
        run(client, folder, FileTexts(path, required=False), is_interrupted=True)
    content = path.read_text()
    path.write_text('{"id": "r3", "text": "another"}\n')
    message = r"origin of texts: the file with the digest \w{16}, now the file with the digest \w"
    with pytest.raises(ConflictError, match=message):
        run(client, folder, FileTexts(path, required=False))
    renamed = folder / "renamed.jsonl"
    renamed.write_text(content)
    assert run(client, folder, FileTexts(renamed, required=False)).resumed_at == 40


def test_checkpoint_without_an_origin_of_texts_is_resumed(client: Stitchwork, folder: Path) -> None:
    with pytest.raises(InterruptionError):
        run(client, folder, FieldTexts("text", required=False), is_interrupted=True)
    path = folder / "state" / "checkpoint.json"
    fields = json.loads(path.read_text())
    del fields["move"]["texts"]
    path.write_text(json.dumps(fields))
    assert run(client, folder, FieldTexts("text", required=False)).resumed_at == 40


def test_message_of_another_option_names_only_what_exists(client: Stitchwork, folder: Path) -> None:
    texts = FieldTexts("text", required=False)
    with pytest.raises(InterruptionError):
        run(client, folder, texts, is_interrupted=True)
    with pytest.raises(ConflictError) as incomplete:
        run(client, folder, texts, block_rows=64)
    assert str(incomplete.value) == (
        f"{folder}/state is of a move with another number of rows in a block: 40, now 64: rows of "
        f"both would be mixed. To begin anew, remove {folder}/state"
    )
    run(client, folder, texts)
    with pytest.raises(ConflictError) as complete:
        run(client, folder, texts, block_rows=64)
    assert f"or remove {folder}/state and {folder}/b.parquet to move again" in str(complete.value)


def test_rows_whose_texts_are_refused_are_left_out_and_the_move_goes_on(
    client: Stitchwork, folder: Path
) -> None:
    table = pq.read_table(folder / "a.parquet")
    texts = [f"refused {i}" if i in (3, 7) else "accepted" for i in range(ROWS)]
    column = table.column_names.index("text")
    pq.write_table(table.set_column(column, "text", [texts]), folder / "a.parquet")
    result = run(client, folder, FieldTexts("text", required=False))
    assert (result.written, result.rejected, result.re_embedded) == (ROWS - 2, 2, 1)
    warning = "2 of 100 rows were left out, as they have no text in the field text, a text that was"
    assert result.warnings[0].startswith(warning)
    rejects = [json.loads(line) for line in result.rejects.read_text().splitlines()]
    assert [reject["id"] for reject in rejects if "re_embedded" not in reject] == ["r3", "r7"]
    assert rejects[0]["reason"] == "no vector; its text was refused: item 0 is refused"
    assert len(pq.read_table(folder / "b.parquet")) == ROWS - 2


def test_file_of_texts_that_is_missing_or_repeats_an_id_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    with pytest.raises(InvalidInputError, match=r"texts\.jsonl: expected a file of texts"):
        FileTexts(path)
    path.write_text(
        '{"id": 7, "text": "one"}\n\n{"id": "8", "text": ""}\n{"id": "7", "text": ""}\n'
    )
    with pytest.raises(InvalidInputError, match="line 4: expected an id once, got 7 again"):
        FileTexts(path)
    path.write_text('{"id": 7, "text": "one"}\n{"id": 8}\n')
    with pytest.raises(InvalidInputError, match="line 2: expected"):
        FileTexts(path)


def test_texts_of_a_file_are_read_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"r{i}", "text": f"text {i}"}) for i in range(99)))
    texts = FileTexts(path)
    assert texts(["r98", "x", "r0", "r5"], [{}] * 4) == ["text 98", None, "text 0", "text 5"]
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ConflictError, match=r"texts\.jsonl has changed"):
        texts(["r5"], [{}])
