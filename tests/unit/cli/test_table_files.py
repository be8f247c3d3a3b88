"""Columns of tables, which commands read texts and labels from."""

from pathlib import Path

import pytest

from stitchwork.cli.files import read_labels, read_texts
from stitchwork.cli.table_files import TextSource
from stitchwork.errors import InvalidInputError

TEXTS = [
    "the river,\nbroad and slow",
    'a "quoted" word',
    "  spaces  ",
    "été",
    "one\r\ntwo\u2028three",
]


def write_csv(path: Path, delimiter: str = ",") -> Path:
    quoted = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
    lines = [delimiter.join(("id", "text"))]
    lines += [f"{i}{delimiter}{text}" for i, text in enumerate(quoted)]
    path.write_bytes("\r\n".join(lines).encode())
    return path


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_texts_of_a_table_keep_their_line_ends(tmp_path: Path, suffix: str, delimiter: str) -> None:
    path = str(write_csv(tmp_path / f"table{suffix}", delimiter))
    assert read_texts(TextSource(path)) == TEXTS
    assert read_texts(TextSource(path, "id")) == list("01234")


def test_table_of_a_spreadsheet_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("text,x\na,b\n".encode("utf-8-sig"))
    assert read_texts(TextSource(str(path))) == ["a"]


def test_only_column_needs_no_name(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("question\na\nb\n")
    assert read_texts(TextSource(str(path))) == ["a", "b"]


def test_texts_of_json_lines_are_members_or_whole_values(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"q": "a\\nb", "n": 1}\n\n{"n": 2, "q": "\u2028c"}\n', encoding="utf-8")
    assert read_texts(TextSource(str(path), "q")) == ["a\nb", "\u2028c"]
    assert read_labels(path, "n") == [1, 2]
    path.write_text('"a"\n"b"\n')
    assert read_texts(TextSource(str(path))) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("t.csv", b"", None, "names of columns in the first line"),
        ("t.csv", b"text\n", None, "has no texts"),
        ("t.csv", b"a,b\n1,2\n", None, "expected a column 'text', got a, b; --column"),
        ("t.csv", b"a,b\n1,2\n", "c", "expected a column 'c', got a, b$"),
        ("t.csv", b"a,b\n1,2\n3\n", "a", "line 3: expected 2 values, got 1"),
        ("t.csv", b"a,b\n1,2,3\n", "a", "line 2: expected 2 values, got 3"),
        ("t.csv", b'a,b\n"1,2\n', "a", "unexpected end of data"),
        ("t.csv", b"text\n\xff\n", None, "expected UTF-8"),
        ("t.jsonl", b'{"text": "a"}\n{broken\n', None, "line 2: expected one JSON value"),
        ("t.jsonl", b'{"text": "a"}\n{"x": 1, "y": 2}\n', None, "line 2: expected a column 'text'"),
        ("t.jsonl", b'"a"\n', "text", "line 1: expected a JSON object"),
        ("t.jsonl", b'{"text": 3}\n', None, "expected texts, got 3 as the text number 1"),
        ("t.txt", b"a\n", "text", "expected a file of .csv, .tsv, .jsonl, .ndjson with --column"),
        ("t.txt", b"", None, "has no texts"),
    ],
)
def test_table_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes, column: str | None, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=message):
        read_texts(TextSource(str(path), column))
