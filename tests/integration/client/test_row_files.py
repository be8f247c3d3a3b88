"""Files and arrays of embeddings of every format, by the client and the command line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from stitchwork.cli.main import main
from stitchwork.client import Floats, Stitchwork
from stitchwork.client.row_files import open_rows
from stitchwork.errors import InvalidInputError
from tests.conftest import Pair, make_pair
from tests.integration.client.conftest import MAX_ROWS

COUNT = 3 * MAX_ROWS + 1
TOLERANCE = {"bfloat16": 0.2, "float16": 0.02, "int8": 0.2}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Stitchwork]:
    with Stitchwork(url) as client:
        yield client


@pytest.fixture(scope="module")
def rows() -> Floats:
    return make_pair(k=2, n=COUNT, seed=3).x


@pytest.fixture(scope="module")
def expected(client: Stitchwork, rows: Floats) -> Floats:
    return client.translate(rows, "x", "y")


def quantised(rows: Floats, axis: int | None) -> tuple[Any, Any]:
    """Int8 rows and their scale: one for all, for each column (axis 0) or each row (axis 1)."""
    scale = np.abs(rows).max(axis=axis, keepdims=axis is not None) / 127
    values = np.round(rows / scale).astype(np.int8)
    return values, (scale[0] if axis == 0 else scale).astype(np.float32)


def save(path: Path, rows: Any) -> None:
    """An .npy file, whatever its name: numpy adds a suffix to a path."""
    with path.open("wb") as file:
        np.save(file, rows)


def save_archive(path: Path, write: Callable[..., Any] = np.savez, **arrays: Any) -> None:
    """An .npz file, whatever its name."""
    with path.open("wb") as file:
        write(file, **arrays)


def write_list_column(path: Path, rows: Floats) -> None:
    """A Parquet file as pandas writes it: lists of float64, with columns beside them."""
    columns = {
        "id": [f"doc {i}" for i in range(len(rows))],
        "vector": pa.array(rows.astype(np.float64).tolist()),
        "length": np.arange(len(rows)),
    }
    pq.write_table(pa.table(columns), path, row_group_size=400)


def write_fixed_column(path: Path, rows: Any) -> None:
    flat = pa.array(rows.ravel())
    table = pa.table({"e": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])})
    pq.write_table(table, path, row_group_size=len(rows), compression="zstd")


WRITERS: dict[str, Callable[[Path, Floats], Any]] = {
    "npy": save,
    "npy float64": lambda path, rows: save(path, rows.astype(np.float64)),
    "npy fortran": lambda path, rows: save(path, np.asfortranarray(rows)),
    "npz": lambda path, rows: save_archive(path, e=rows),
    "npz compressed": lambda path, rows: save_archive(
        path, np.savez_compressed, embeddings=rows, labels=np.arange(3)
    ),
    "npz fortran": lambda path, rows: save_archive(path, e=np.asfortranarray(rows)),
    "safetensors": lambda path, rows: save_file({"embeddings": rows}, path),
    "safetensors float64": lambda path, rows: save_file({"e": rows.astype(np.float64)}, path),
    "safetensors float16": lambda path, rows: save_file({"e": rows.astype(np.float16)}, path),
    "safetensors bfloat16": lambda path, rows: save_torch(
        {"e": torch.from_numpy(rows).bfloat16()}, path
    ),
    "parquet of lists": write_list_column,
    "parquet of one row group": write_fixed_column,
    "parquet float16": lambda path, rows: write_fixed_column(path, rows.astype(np.float16)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_file_of_any_format_is_translated_as_its_rows(
    client: Stitchwork, rows: Floats, expected: Floats, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "rows"
    WRITERS[name](path, rows)
    tolerance = next((value for type_, value in TOLERANCE.items() if type_ in name), 0.001)
    result = client.translate(path, "x", "y")
    np.testing.assert_allclose(result, expected, atol=tolerance * np.abs(expected).max())
    predictions = client.classify("h", str(path), "x")
    assert len(predictions) == COUNT


@pytest.mark.parametrize("name", ["npz compressed", "parquet of lists", "npy", "safetensors"])
def test_parts_of_a_file_are_read_in_any_order(rows: Floats, tmp_path: Path, name: str) -> None:
    path = tmp_path / "rows"
    WRITERS[name](path, rows)
    opened = open_rows(path)
    assert opened.shape == rows.shape
    for start, stop in ((700, 900), (0, 10), (1400, COUNT), (5, 1300), (COUNT, COUNT), (3, 3)):
        np.testing.assert_array_equal(opened[start:stop], rows[start:stop])


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_int8_with_a_scale_is_translated_as_its_product(
    client: Stitchwork, rows: Floats, tmp_path: Path, axis: int | None
) -> None:
    values, scale = quantised(rows, axis)
    expected = client.translate(values * scale, "x", "y")
    for source in (values, torch.from_numpy(values)):
        np.testing.assert_allclose(client.translate(source, "x", "y", scale=scale), expected, 1e-4)
    np.savez(tmp_path / "rows.npz", embeddings=values, scale=scale)
    save_file({"embeddings": values, "scale": np.atleast_1d(scale)}, tmp_path / "rows.safetensors")
    for name in ("rows.npz", "rows.safetensors"):
        np.testing.assert_allclose(client.translate(tmp_path / name, "x", "y"), expected, 1e-4)
    write_fixed_column(tmp_path / "rows.parquet", values)
    translated = client.translate(tmp_path / "rows.parquet", "x", "y", scale=scale)
    np.testing.assert_allclose(translated, expected, 1e-4)
    assert client.classify("h", values, "x", scale=scale) == client.classify(
        "h", tmp_path / "rows.npz", "x"
    )


@pytest.mark.parametrize(
    "convert",
    [
        lambda rows: rows.astype(ml_dtypes.bfloat16),
        lambda rows: torch.from_numpy(rows).bfloat16(),
        lambda rows: torch.from_numpy(rows).double(),
        lambda rows: rows[:40].tolist(),
        lambda rows: np.longdouble(rows),
    ],
    ids=["bfloat16", "torch bfloat16", "torch float64", "lists", "longdouble"],
)
def test_arrays_of_other_floats_are_translated(
    client: Stitchwork, rows: Floats, expected: Floats, convert: Callable[[Floats], Any]
) -> None:
    result = client.translate(convert(rows), "x", "y")
    limit = 0.2 * np.abs(expected).max()
    np.testing.assert_allclose(result, expected[: len(result)], atol=limit)


ONES = np.ones((3, 24))
OVERFLOW = np.where(np.arange(72).reshape(3, 24) == 30, 1e300, 1.0)
REFUSED: dict[str, tuple[Any, str]] = {
    "uint8 image": (ONES.astype(np.uint8), "got uint8"),
    "int8 without scale": (ONES.astype(np.int8), "got int8 without one"),
    "int64": (ONES.astype(np.int64), "got int64"),
    "boolean": (ONES.astype(bool), "got bool"),
    "complex": (ONES.astype(complex), "got complex128"),
    "object": (ONES.astype(object), "got object"),
    "text": (ONES.astype(str), "got <U"),
    "structure": (np.zeros((3, 24), "f4,f4"), "got [('f0'"),
    "overflow": (OVERFLOW, "expected numbers that float32 can hold, got 1e+300"),
    "nan": (np.where(ONES == 1, np.nan, 0), "expected finite numbers"),
    "infinity": (np.where(ONES == 1, np.inf, 0), "expected finite numbers"),
    "torch integers": (torch.ones(3, 24, dtype=torch.int32), "got torch.int32"),
    "list of texts": ([["1.5", "2"]], "expected rows of numbers, got <U"),
    "list of null": ([[1.0, None]], "expected rows of numbers, got object"),
    "list of booleans": ([[True, False]], "expected rows of numbers, got bool"),
    "ragged list": ([[1.0, 2.0], [3.0]], "expected rows of equal length"),
    "one dimension": (np.ones(24), "expected rows of shape (n, d), got (24,)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_of_other_types_are_refused_alike_by_every_method(
    client: Stitchwork, name: str
) -> None:
    value, message = REFUSED[name]
    calls: list[Callable[[], Any]] = [
        lambda: client.translate(value, "x", "y"),
        lambda: client.classify("h", value, "x"),
        lambda: client.choose_anchors(value, 3),
        lambda: client.put_space("refused", "T", anchors=value),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError) as raised:
            call()
        assert message in raised.value.message
    if name == "overflow":
        assert raised.value.pointer == "/embeddings/1/6"


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (np.ones(7), "scale: expected shape (), (24,) or (3, 1), got (7,)"),
        (0.0, "scale: expected positive finite numbers"),
        (float("nan"), "scale: expected positive finite numbers"),
        ("a", "scale: expected numbers, got 'a'"),
    ],
)
def test_wrong_scale_is_refused(client: Stitchwork, scale: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        client.translate(ONES.astype(np.int8), "x", "y", scale=scale)
    assert raised.value.message == message
    with pytest.raises(InvalidInputError, match="scale: expected int8 rows, got float64"):
        client.translate(ONES, "x", "y", scale=0.5)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: save(path, ONES.astype(np.uint8)),
            "expected floats, or int8 with a scale, got uint8",
        ),
        (lambda path: save(path, np.ones(3)), "expected rows (n, d), got shape (3,)"),
        (lambda path: save_archive(path, a=ONES, b=ONES), "expected one array, or one of"),
        (lambda path: save_file({"e": ONES.astype(np.int64)}, path), "in e, got I64 of shape"),
        (lambda path: path.write_bytes(b"\1\2\3"), "expected an .npy, .npz, safetensors or Parq"),
        (lambda path: path.write_bytes(b"PAR1 and more"), "expected a Parquet file"),
        (lambda path: path.write_bytes(b"PK\3\4 and more"), "expected an .npz file of numbers"),
        (
            lambda path: pq.write_table(pa.table({"a": [[1.0]], "b": [[1.0]]}), path),
            "expected one column of vectors, got a (list<element: double>), b",
        ),
        (
            lambda path: pq.write_table(pa.table({"a": [[1.0], [1.0, 2.0]]}), path),
            "expected vectors of 1 numbers in a, got a null or another length from row 1 on",
        ),
        (
            lambda path: pq.write_table(pa.table({"a": [[1.0], None]}), path),
            "got a null or another length from row 1 on",
        ),
        (
            lambda path: pq.write_table(pa.table({"a": [[1, 2]]}), path),
            "expected floats, or int8 with a scale, got int64",
        ),
    ],
)
def test_file_of_something_else_is_refused(
    client: Stitchwork, tmp_path: Path, write: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "rows"
    write(path)
    with pytest.raises(InvalidInputError) as raised:
        client.translate(path, "x", "y")
    assert message in raised.value.message


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "parquet"])
@pytest.mark.parametrize("source", ["parquet of lists", "safetensors bfloat16"])
def test_translate_command_writes_the_format_of_the_name(
    rows: Floats,
    expected: Floats,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
    source: str,
) -> None:
    monkeypatch.setenv("STITCHWORK_URL", url)
    path, out = tmp_path / "rows", tmp_path / f"out.{suffix}"
    WRITERS[source](path, rows)
    words = ["translate", str(path), str(out), "--source", "x", "--target", "y", "--json"]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["rows"], record["width_out"]) == (COUNT, expected.shape[1])
    readers: dict[str, Callable[[], Any]] = {
        "npy": lambda: np.load(out),
        "npz": lambda: np.load(out)["embeddings"],
        "safetensors": lambda: load_file(out)["embeddings"],
        "parquet": lambda: np.stack(
            pq.read_table(out)["vector" if "lists" in source else "embedding"].to_numpy()
        ),
    }
    result = readers[suffix]()
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=0.2 * np.abs(expected).max())
    if suffix == "parquet" and "lists" in source:
        table = pq.read_table(out)
        assert table["id"].to_pylist() == [f"doc {i}" for i in range(COUNT)]
        assert table["length"].to_pylist() == list(range(COUNT))
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"out.{suffix}", "rows"]


def test_client_writes_a_file_of_the_format_of_its_name(
    client: Stitchwork, rows: Floats, expected: Floats, tmp_path: Path
) -> None:
    client.translate(rows, "x", "y", out=tmp_path / "out.npz")
    result = np.load(tmp_path / "out.npz")["embeddings"]
    np.testing.assert_allclose(result, expected, atol=0.01)
    with pytest.raises(InvalidInputError, match="expected a name that ends in"):
        client.translate(rows, "x", "y", out=tmp_path / "out.csv")
    with pytest.raises(InvalidInputError, match="got uint8"):
        client.translate(ONES.astype(np.uint8), "x", "y", out=tmp_path / "other.npy")
    assert [file.name for file in tmp_path.iterdir()] == ["out.npz"]


def test_options_of_the_command_select_a_column_and_a_scale(
    rows: Floats,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STITCHWORK_URL", url)
    path, out = tmp_path / "rows.parquet", tmp_path / "out.npy"
    columns = {"a": pa.array(rows.tolist()), "b": pa.array((2 * rows).tolist())}
    pq.write_table(pa.table(columns), path)
    words = ["translate", str(path), str(out), "--source", "x", "--target", "y"]
    assert main([*words, "--column", "b"]) == 0
    with Stitchwork(url) as client:
        expected = client.translate(2 * rows, "x", "y")
        np.testing.assert_allclose(np.load(out), expected, atol=0.01)
        values, _ = quantised(rows, None)
        np.save(tmp_path / "q.npy", values)
        words[1] = str(tmp_path / "q.npy")
        assert main([*words, "--scale", "0.25"]) == 0
        scaled = client.translate(values * np.float32(0.25), "x", "y")
        np.testing.assert_allclose(np.load(out), scaled, atol=0.01)
    capsys.readouterr()
    assert main(words) == 1
    assert "int8 without one" in capsys.readouterr().err


def test_space_is_registered_by_a_parquet_file(
    client: Stitchwork, pair: Pair, tmp_path: Path
) -> None:
    path = tmp_path / "anchors.parquet"
    write_fixed_column(path, pair.x_anchors)
    record = client.put_space("x-of-parquet", "S", anchors=path)
    assert record["version"] == client.get("spaces", "x")["version"]
    client.delete("spaces", "x-of-parquet")
