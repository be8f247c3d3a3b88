"""Every type of Arrow in a payload: kept by Parquet, in JSON a value, a text or refused by name."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.migration.local_engine import move
from stitchwork.migration.stores import open_store
from tests.support.moved_stores import make_map, make_vectors

DAY = datetime.date(2024, 2, 29)
NOON = datetime.datetime(2024, 2, 29, 12, 0, 0, 5)
UTC = "2024-02-29T12:00:00.000005+00:00"
FINE = 1_001
"""Nanoseconds that microseconds lack."""
FINE_TEXT = "1970-01-01 00:00:00.000001001"
NS = pa.timestamp("ns")

VALUES: dict[str, tuple[Any, Any]] = {
    "bool": (pa.array([True]), True),
    "int64": (pa.array([-(2**63)], pa.int64()), -(2**63)),
    "uint64": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "half": (pa.array([1.5], pa.float16()), 1.5),
    "float": (pa.array([0.5], pa.float32()), 0.5),
    "large text": (pa.array(["é"], pa.large_string()), "é"),
    "text view": (pa.array(["é"], pa.string_view()), "é"),
    "dictionary": (pa.array(["a"]).dictionary_encode(), "a"),
    "decimal": (pa.array([decimal.Decimal("1.50")], pa.decimal128(5, 2)), "1.50"),
    "large decimal": (pa.array([decimal.Decimal("1.50")], pa.decimal256(50, 2)), "1.50"),
    "date": (pa.array([DAY]), "2024-02-29"),
    "date64": (pa.array([DAY], pa.date64()), "2024-02-29"),
    "time": (pa.array([datetime.time(1, 2)], pa.time64("us")), "01:02:00"),
    "seconds": (pa.array([NOON.replace(microsecond=0)], pa.timestamp("s")), "2024-02-29T12:00:00"),
    "zone": (pa.array([NOON], pa.timestamp("us", "UTC")), UTC),
    "duration": (pa.array([datetime.timedelta(days=1)]), "1 day, 0:00:00"),
    "list": (pa.array([["a", None]]), ["a", None]),
    "large list": (pa.array([["a"]], pa.large_list(pa.string())), ["a"]),
    "struct": (pa.array([{"day": DAY, "n": [1]}]), {"day": "2024-02-29", "n": [1]}),
    "map": (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())), [["a", 1]]),
    "null": (pa.nulls(1), None),
    "uuid": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)], pa.binary(16))),
        "00000000-0000-0000-0000-000000000000",
    ),
    "ns": (pa.array([FINE], NS), FINE_TEXT),
    "ns with zone": (pa.array([FINE], pa.timestamp("ns", "UTC")), FINE_TEXT + "Z"),
    "ns of a time": (pa.array([FINE], pa.time64("ns")), "00:00:00.000001001"),
    "ns of a duration": (pa.array([FINE], pa.duration("ns")), FINE),
    "ns in a list": (pa.array([[FINE, None]], pa.list_(NS)), [FINE_TEXT, None]),
    "ns in a large list": (pa.array([[FINE]], pa.large_list(NS)), [FINE_TEXT]),
    "ns in a fixed list": (pa.array([[FINE]], pa.list_(NS, 1)), [FINE_TEXT]),
    "ns in a struct": (pa.array([{"at": FINE}], pa.struct([("at", NS)])), {"at": FINE_TEXT}),
    "coarse ns in a struct": (
        pa.array([{"at": 1_000}], pa.struct([("at", NS)])),
        {"at": "1970-01-01T00:00:00.000001"},
    ),
    "ns in a map": (pa.array([[("a", FINE)]], pa.map_(pa.string(), NS)), [["a", FINE_TEXT]]),
    "ns in a dictionary": (pa.array([FINE], NS).dictionary_encode(), FINE_TEXT),
    "ns deep": (
        pa.array([[{"at": [FINE]}]], pa.list_(pa.struct([("at", pa.list_(NS))]))),
        [{"at": [FINE_TEXT]}],
    ),
}
REFUSED: dict[str, Any] = {
    "binary": pa.array([b"\xff"]),
    "binary of a size": pa.array([b"\xff"], pa.binary(1)),
    "binary view": pa.array([b"\xff"], pa.binary_view()),
    "binary in a struct": pa.array([{"a": b"\xff"}]),
    "nan": pa.array([float("nan")]),
    "half nan": pa.array([float("nan")], pa.float16()),
    "nan in a list": pa.array([[float("nan")]]),
    "interval": pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    "year 20000": pa.array([570_000_000_000], pa.timestamp("s")),
    "struct of equal names": pa.StructArray.from_arrays([pa.array([1])] * 2, ["a", "a"]),
}
WRITTEN = {"text view": pa.string_view(), "binary view": pa.binary_view()}


def run(folder: Path, column: Any, target: str) -> Path:
    vectors = pa.array(make_vectors(1).tolist())
    table = pa.table({"id": ["a"], "odd": column, "embedding": vectors})
    pq.write_table(table, folder / "a.parquet")
    with (
        open_store(f"{folder}/a.parquet?column=embedding") as source,
        open_store(f"{folder}/{target}") as moved,
    ):
        move(source, moved, make_map(), folder / f"{target}.state")
    return folder / target


@pytest.mark.parametrize("name", VALUES)
def test_value_is_moved_to_json(tmp_path: Path, name: str) -> None:
    column, expected = VALUES[name]
    assert json.loads(run(tmp_path, column, "b.jsonl").read_text())["odd"] == expected


@pytest.mark.parametrize("name", REFUSED)
def test_value_that_json_has_no_place_for_is_refused_by_its_column(
    tmp_path: Path, name: str
) -> None:
    try:
        pq.write_table(pa.table({"odd": REFUSED[name]}), tmp_path / "probe.parquet")
    except (pa.ArrowException, OSError):
        # Parquet has no such type.
        return
    with pytest.raises(InvalidInputError, match="odd"):
        run(tmp_path, REFUSED[name], "b.jsonl")


@pytest.mark.parametrize("name", [*VALUES, *REFUSED])
def test_parquet_keeps_type_and_value(tmp_path: Path, name: str) -> None:
    column = REFUSED[name] if name in REFUSED else VALUES[name][0]
    try:
        path = run(tmp_path, column, "b.parquet")
    except pa.ArrowNotImplementedError:
        assert not (tmp_path / "b.parquet").exists()
        return
    source = pq.read_table(tmp_path / "a.parquet").column("odd")
    moved = pq.read_table(path).column("odd")
    assert moved.type == source.type
    assert str(moved) == str(source)
