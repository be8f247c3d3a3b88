"""Payloads as JSON, and files of JSON lines with values that JSON has no place for."""

import datetime
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.migration.json_values import (
    decode_json,
    encode_json,
    exact_number,
    to_fields,
    to_json,
)
from stitchwork.migration.local_engine import move
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.stores import open_store
from tests.support.moved_stores import make_map, make_vectors

ROWS = 40


class Timestamp(datetime.datetime):
    """A type of another library, as pandas has it."""


def run(folder: Path, source: str, target: str) -> MoveResult:
    with open_store(f"{folder}/{source}") as rows, open_store(f"{folder}/{target}") as moved:
        return move(rows, moved, make_map(), folder / f"{target}.state", block_rows=16)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 1, 2, 3), "2024-02-29T01:02:03"),
        (Timestamp(2024, 2, 29), "2024-02-29T00:00:00"),
        (datetime.timedelta(days=1), "1 day, 0:00:00"),
        (Decimal("1.50"), "1.50"),
        (uuid.UUID(int=7), str(uuid.UUID(int=7))),
        ([1, None, {"a": 2.5}], [1, None, {"a": 2.5}]),
        (None, None),
    ],
)
def test_values_of_standard_types_become_json(value: Any, expected: Any) -> None:
    assert json.loads(to_json({"field": value}, "store", "r1")) == {"field": expected}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xff\x00", "2 bytes of binary data"),
        ([b"\xff"], "1 bytes of binary data"),
        (float("nan"), "a number that is not finite"),
        ({"a": [1.0, float("-inf")]}, "a number that is not finite"),
        (2**70, "64-bit"),
        (object(), "a value of the type object"),
    ],
)
def test_value_that_json_has_no_place_for_is_refused_by_its_field(value: Any, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"store: row r1 .* field odd .*{reason}"):
        to_json({"text": "a", "none": None, "odd": value}, "store", "r1")


@pytest.mark.parametrize(
    "values", [[b"\xff\x00"] * ROWS, [float("nan")] * ROWS], ids=["binary", "nan"]
)
def test_json_lines_refuse_what_they_would_change(tmp_path: Path, values: list[Any]) -> None:
    columns = {"id": range(ROWS), "odd": values, "embedding": make_vectors(ROWS).tolist()}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match=r"b\.jsonl: row 0 has in the field odd"):
        run(tmp_path, "a.parquet", "b.jsonl")
    run(tmp_path, "a.parquet", "c.parquet")
    assert pq.read_table(tmp_path / "c.parquet").column("odd").type == pa.array(values).type


def test_nanoseconds_are_moved_as_texts_where_python_lacks_them(tmp_path: Path) -> None:
    columns = {"id": [0, 1], "embedding": make_vectors(2).tolist()}
    times = pa.array([1_000, 1_001], pa.int64()).cast(pa.timestamp("ns"))
    coarse = pa.array([1_000, 2_000], pa.int64()).cast(pa.timestamp("ns"))
    table = pa.table({**columns, "fine": times, "coarse": coarse})
    pq.write_table(table, tmp_path / "a.parquet")
    run(tmp_path, "a.parquet", "b.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [row["fine"] for row in rows] == [
        "1970-01-01 00:00:00.000001000",
        "1970-01-01 00:00:00.000001001",
    ]
    assert [row["coarse"] for row in rows] == [
        "1970-01-01T00:00:00.000001",
        "1970-01-01T00:00:00.000002",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1", 0.1),
        ("1.50", 1.5),
        ("0.30000000000000004", 0.30000000000000004),
        ("1e3", 1000.0),
        ("0.12345678901234567890123", Decimal("0.12345678901234567890123")),
        ("0.1000000000000000055", Decimal("0.1000000000000000055")),
        ("1e400", Decimal("1e400")),
    ],
)
def test_number_that_a_float_would_round_is_a_decimal(text: str, expected: float | Decimal) -> None:
    number = exact_number(text)
    assert number == expected
    assert isinstance(number, type(expected))


def test_numbers_of_lines_are_moved_exactly_or_refused(tmp_path: Path) -> None:
    vector = json.dumps(make_vectors(1)[0].tolist())
    numbers = '"price": 1.5, "more": [{"exact": 0.12345678901234567890123}]'
    (tmp_path / "a.jsonl").write_text(f'{{"id": 1, {numbers}, "embedding": {vector}}}')
    run(tmp_path, "a.jsonl", "b.jsonl")
    row = json.loads((tmp_path / "b.jsonl").read_text())
    assert (row["price"], row["more"]) == (1.5, [{"exact": 0.12345678901234567890123}])
    assert '[{"exact":0.12345678901234567890123}]' in (tmp_path / "b.jsonl").read_text()
    (tmp_path / "large.jsonl").write_text(f'{{"id": 1, "n": {10**30}, "embedding": {vector}}}')
    with pytest.raises(InvalidInputError, match="row 1 has in the field n"):
        run(tmp_path, "large.jsonl", "c.jsonl")


def test_lines_with_nan_in_a_vector_are_left_out_and_listed(tmp_path: Path) -> None:
    vectors = make_vectors(ROWS).tolist()
    vectors[0][2], vectors[3][2] = float("nan"), float("inf")
    lines = [json.dumps({"id": i, "embedding": row}) for i, row in enumerate(vectors)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    result = run(tmp_path, "a.jsonl", "b.parquet")
    rejects = [json.loads(line) for line in result.rejects.read_text().splitlines()]
    assert rejects == [{"id": i, "reason": "a number that is not finite"} for i in (0, 3)]


def test_lines_have_the_commonest_width(tmp_path: Path) -> None:
    vectors = [[1.0, 2.0], *make_vectors(ROWS).tolist()]
    lines = [json.dumps({"id": i, "embedding": row}) for i, row in enumerate(vectors)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    result = run(tmp_path, "a.jsonl", "b.parquet")
    assert (result.written, result.rejected) == (ROWS, 1)
    assert json.loads(result.rejects.read_text()) == {
        "id": 0,
        "reason": "expected 16 numbers, got 2",
    }


def test_folder_of_files_with_different_columns_is_refused_by_the_file(tmp_path: Path) -> None:
    vectors = np.asarray(make_vectors(2)).tolist()
    (tmp_path / "in").mkdir()
    table = pa.table({"id": ["a", "b"], "embedding": vectors})
    pq.write_table(table, tmp_path / "in/1.parquet")
    pq.write_table(table.append_column("text", pa.array(["x", "y"])), tmp_path / "in/2.parquet")
    with pytest.raises(InvalidInputError, match=r"columns of 1\.parquet .*2\.parquet: .*text"):
        run(tmp_path, "in/", "b.parquet")


def test_number_that_a_float_rounds_keeps_its_type_and_is_counted() -> None:
    record = decode_json('{"a": 0.12345678901234567890123, "b": [1.5, 0.10000000000000000555]}')
    columns = {"c": Decimal("1.50"), "d": datetime.date(2024, 2, 29)}
    fields, rounded = to_fields({**record, **columns}, "store", 1)
    expected = {"a": 0.12345678901234568, "b": [1.5, 0.1], "c": "1.50", "d": "2024-02-29"}
    assert (fields, rounded) == (expected, 2)
    with pytest.raises(InvalidInputError, match=r"row 1 has in the field a .* range of floats"):
        to_fields(decode_json('{"a": 1e400}'), "store", 1)


def test_values_of_json_arrive_in_another_process_as_they_are() -> None:
    text = '{"a": [0.12345678901234567890123, 1e400, 0.5], "b": {"n": [NaN, -Infinity, null, %d]}}'
    value = decode_json(text % 10**30)
    arrived = decode_json(encode_json(value))
    assert repr(arrived) == repr(value)
    assert isinstance(arrived["a"][0], Decimal)
