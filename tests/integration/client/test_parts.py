"""Calls that are too large for one request, on a service with a limit of 500 rows."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from stitchwork.cli.main import main
from stitchwork.client import AsyncStitchwork, Floats, Stitchwork
from stitchwork.client.chunks import ServiceLimits, item_parts, json_item
from stitchwork.errors import InputTooLargeError, InvalidInputError, VersionMismatchError
from tests.conftest import Pair, make_pair
from tests.integration.client.conftest import MAX_ROWS

AT_MEAN = 1207


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Stitchwork]:
    with Stitchwork(url) as client:
        yield client


@pytest.fixture(scope="module")
def rows(pair: Pair) -> Floats:
    """Four parts of rows; one of them is at the mean of its space."""
    rows: Floats = make_pair(k=2, n=3 * MAX_ROWS + 1, seed=3).x
    rows[AT_MEAN] = pair.x_anchors.astype(np.float64).mean(axis=0)
    return rows


@pytest.fixture(scope="module")
def expected(client: Stitchwork, rows: Floats) -> Floats:
    """The same translation in small requests."""
    parts = [client.translate(rows[i : i + 50], "x", "y") for i in range(0, len(rows), 50)]
    return np.concatenate(parts)


def test_translation_of_many_rows_has_their_order(
    client: Stitchwork, rows: Floats, expected: Floats
) -> None:
    calls: list[tuple[int, int]] = []
    result = client.translation(rows, "x", "y", progress=lambda *call: calls.append(call))
    np.testing.assert_allclose(result.rows, expected, atol=0.01)
    assert result.undefined.tolist() == [AT_MEAN]
    assert calls == sorted(calls)
    assert [total for _, total in calls] == [len(rows)] * 4
    assert calls[-1][0] == len(rows)


def test_async_client_returns_the_same(url: str, rows: Floats, expected: Floats) -> None:
    async def run() -> tuple[Floats, list[dict[str, Any]]]:
        async with AsyncStitchwork(url) as client:
            translation = asyncio.create_task(client.translate(rows, "x", "y"))
            predictions = await client.classify("h", rows, "x")
            return await translation, predictions

    result, predictions = asyncio.run(run())
    np.testing.assert_allclose(result, expected, atol=0.01)
    assert len(predictions) == len(rows)


def test_memory_mapped_file_is_translated_into_another(
    client: Stitchwork, rows: Floats, expected: Floats, tmp_path: Path
) -> None:
    np.save(tmp_path / "in.npy", rows.astype(np.float64))
    inputs = np.load(tmp_path / "in.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(
        tmp_path / "out.npy", "w+", np.float32, (len(rows), expected.shape[1])
    )
    assert client.translate(inputs, "x", "y", out=out) is out
    out.flush()
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=0.01)


def test_predictions_of_many_rows_have_their_order(client: Stitchwork, rows: Floats) -> None:
    predictions = client.classify("h", rows, "x")
    assert [one["label"] for one in predictions[600:650]] == [
        one["label"] for one in client.classify("h", rows[600:650], "x")
    ]
    assert {one["label"] for one in predictions} == {"a", "[b]"}


def test_pointer_names_the_row_in_the_whole_call(client: Stitchwork, rows: Floats) -> None:
    broken = rows.copy()
    broken[AT_MEAN, 5] = np.nan
    with pytest.raises(InvalidInputError) as refused:
        client.translate(broken, "x", "y")
    assert refused.value.pointer == f"/embeddings/{AT_MEAN}/5"


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_array_of_another_dimension_is_refused_by_the_client(
    client: Stitchwork, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidInputError, match=r"expected rows of shape \(n, d\)"):
        client.translate(np.ones(shape, np.float32), "x", "y")


def test_no_rows_are_refused_by_the_service(client: Stitchwork) -> None:
    with pytest.raises(InvalidInputError, match="expected rows"):
        client.translate(np.ones((0, 24), np.float32), "x", "y")


def test_out_of_another_shape_is_not_written_to(client: Stitchwork, rows: Floats) -> None:
    out = np.zeros((len(rows), 1), np.float32)
    with pytest.raises(
        InvalidInputError, match=r"out: expected shape \(1501, 32\), got \(1501, 1\)"
    ):
        client.translate(rows, "x", "y", out=out)
    assert not out.any()


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, object])
def test_out_of_a_dtype_without_floats_is_not_written_to(
    client: Stitchwork, rows: Floats, dtype: type
) -> None:
    out: NDArray[Any] = np.zeros((len(rows), 32), dtype)
    with pytest.raises(InvalidInputError, match=f"out: .*float32.*, got {out.dtype}"):
        client.translate(rows, "x", "y", out=out)
    assert not out.any()


def test_parts_of_two_versions_raise(url: str, pair: Pair, rows: Floats) -> None:
    with Stitchwork(url, in_flight=1) as client:
        client.put_space("z", "S", anchors=pair.x_anchors)

        def replace(done: int, total: int) -> None:
            client.put_space("z", "S", anchors=pair.x_anchors + np.float32(done))

        with pytest.raises(VersionMismatchError, match="z was replaced"):
            client.translate(rows, "z", "y", progress=replace)


def test_call_begins_again_with_the_version_that_replaced_its_own(
    url: str, pair: Pair, rows: Floats, tmp_path: Path
) -> None:
    with Stitchwork(url, in_flight=1, restarts=1) as client:
        client.put_space("z", "S", anchors=pair.x_anchors)
        replaced = list[int]()

        def replace(done: int, total: int) -> None:
            if not replaced:
                replaced.append(done)
                client.put_space("z", "S", anchors=pair.x_anchors + np.float32(1))

        out = tmp_path / "rows.npy"
        client.translate(rows, "z", "y", progress=replace, out=out)
        assert replaced
        np.testing.assert_array_equal(np.load(out), client.translate(rows, "z", "y"))


def test_call_without_parts_over_a_limit_raises(client: Stitchwork, rows: Floats) -> None:
    with pytest.raises(InputTooLargeError, match=r"at most 500 .*\(max_rows\)") as refused:
        client.evaluate_head("x", "h", ["a"] * len(rows), embeddings=rows)
    assert getattr(refused.value, "status", None) == 413


@pytest.mark.parametrize("items", [["é" * n for n in range(40)], [b"\xff" * n for n in range(40)]])
def test_item_parts_contain_all_items_within_the_limits(items: list[Any]) -> None:
    limits = ServiceLimits(rows=1, items=7, body_bytes=64 * 1024 + 150)
    parts = list(item_parts(items, limits, [(0, len(items))], lambda: 9))
    assert [text for _, part in parts for text in part] == [json_item(item) for item in items]
    assert [start for start, _ in parts] == np.cumsum([0, *(len(p) for _, p in parts)])[
        :-1
    ].tolist()
    assert all(1 <= len(part) <= 7 for _, part in parts)
    assert all(len(part) == 1 or sum(len(t.encode()) for t in part) <= 150 for _, part in parts)


def broken(rows: Floats) -> Floats:
    """The rows, one of which is refused."""
    result = rows.copy()
    result[AT_MEAN, 5] = np.nan
    return result


def test_failed_call_has_what_arrived_and_goes_on_from_there(
    url: str, rows: Floats, expected: Floats
) -> None:
    with Stitchwork(url) as client:
        with pytest.raises(InvalidInputError) as failed:
            client.translate(broken(rows), "x", "y")
        partial = failed.value.partial
        # The part with the broken row, and the last one, which had not begun.
        assert partial.missing in ([(1000, 1501)], [(1000, 1500)])
        np.testing.assert_allclose(partial.rows[:1000], expected[:1000], atol=0.01)
        calls: list[tuple[int, int]] = []
        result = client.translation(
            rows, "x", "y", resume=partial, progress=lambda *call: calls.append(call)
        )
    np.testing.assert_allclose(result.rows, expected, atol=0.01)
    assert result.undefined.tolist() == [AT_MEAN]
    assert calls[0][0] > 1000
    assert calls[-1] == (len(rows), len(rows))


def test_failed_call_of_the_async_client_has_what_arrived(url: str, rows: Floats) -> None:
    async def run() -> list[dict[str, Any]]:
        async with AsyncStitchwork(url) as client:
            with pytest.raises(InvalidInputError) as failed:
                await client.classify("h", broken(rows), "x")
            assert failed.value.partial.count >= 1000
            return await client.classify("h", rows, "x", resume=failed.value.partial)

    with Stitchwork(url) as client:
        assert asyncio.run(run()) == client.classify("h", rows, "x")


def test_resumed_call_with_other_inputs_or_options_is_refused(url: str, rows: Floats) -> None:
    with Stitchwork(url) as client:
        with pytest.raises(InvalidInputError) as failed:
            client.translate(broken(rows), "x", "y")
        partial = failed.value.partial
        other = rows.copy()
        other[3] += 1
        with pytest.raises(InvalidInputError, match="the inputs 0 to 499, or the options, are not"):
            client.translate(other, "x", "y", resume=partial)
        with pytest.raises(InvalidInputError, match="the inputs 0 to 499, or the options, are not"):
            client.translate(rows, "x", "y", "ridge", resume=partial)
        with pytest.raises(InvalidInputError, match="expected 1501 inputs, got 7"):
            client.translate(rows[:7], "x", "y", resume=partial)


@pytest.mark.parametrize("name", ["out.npy", "out.safetensors"])
def test_command_resumes_an_incomplete_file(
    url: str,
    rows: Floats,
    expected: Floats,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    path, out = tmp_path / "in.npy", tmp_path / name
    words = ["translate", str(path), str(out), "--source", "x", "--target", "y", "--url", url]
    np.save(path, broken(rows))
    assert main([*words, "--resume"]) == 1
    assert "there is nothing to resume" in capsys.readouterr().err
    assert main(words) == 1
    error = capsys.readouterr().err
    cause, advice = error.splitlines()
    assert cause.endswith(f"(at /embeddings/{AT_MEAN}/5)")
    assert f"are in {out}.part; once that input is corrected, --resume computes" in advice
    assert not out.exists()
    np.save(path, rows)
    assert main([*words, "--resume"]) == 0
    result = np.load(out) if name.endswith("npy") else load_file(out)["embeddings"]
    np.testing.assert_allclose(result, expected, atol=0.01)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.npy", name]


def test_file_that_is_written_in_order_is_not_resumed(
    url: str, rows: Floats, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "in.npy", broken(rows))
    words = ["translate", str(tmp_path / "in.npy"), str(tmp_path / "out.npz"), "--url", url]
    assert main([*words, "--source", "x", "--target", "y"]) == 1
    assert "--resume" not in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["in.npy"]


def test_command_shows_the_predictions_that_have_arrived(
    url: str, rows: Floats, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "in.npy", broken(rows))
    words = ["classify", "h", str(tmp_path / "in.npy"), "--space", "x", "--url", url, "--json"]
    assert main(words) == 1
    output = capsys.readouterr()
    records = json.loads(output.out)
    assert [record["input"] for record in records[:1000]] == [str(i) for i in range(1000)]
    assert f"{len(records):,} of 1,501 inputs are classified; missing are" in output.err
