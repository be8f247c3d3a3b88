"""Calls that are too large for one request, on a service that takes 500 rows at a time."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    """Four parts of rows; one of them stands at the mean of its space."""
    found: Floats = make_pair(k=2, n=3 * MAX_ROWS + 1, seed=3).x
    found[AT_MEAN] = pair.x_anchors.astype(np.float64).mean(axis=0)
    return found


@pytest.fixture(scope="module")
def wanted(client: Stitchwork, rows: Floats) -> Floats:
    """The same, as small requests give it."""
    parts = [client.translate(rows[i : i + 50], "x", "y") for i in range(0, len(rows), 50)]
    return np.concatenate(parts)


def test_many_rows_come_back_in_their_order(
    client: Stitchwork, rows: Floats, wanted: Floats
) -> None:
    told: list[tuple[int, int]] = []
    found = client.translation(rows, "x", "y", progress=lambda *now: told.append(now))
    np.testing.assert_allclose(found.rows, wanted, atol=0.01)
    assert found.undefined.tolist() == [AT_MEAN]
    assert told == sorted(told)
    assert [total for _, total in told] == [len(rows)] * 4
    assert told[-1][0] == len(rows)


def test_the_same_is_awaited(url: str, rows: Floats, wanted: Floats) -> None:
    async def run() -> tuple[Floats, list[dict[str, Any]]]:
        async with AsyncStitchwork(url) as client:
            translating = asyncio.create_task(client.translate(rows, "x", "y"))
            predictions = await client.classify("h", rows, "x")
            return await translating, predictions

    found, predictions = asyncio.run(run())
    np.testing.assert_allclose(found, wanted, atol=0.01)
    assert len(predictions) == len(rows)


def test_a_memory_mapped_file_goes_into_another(
    client: Stitchwork, rows: Floats, wanted: Floats, tmp_path: Path
) -> None:
    np.save(tmp_path / "in.npy", rows.astype(np.float64))
    given = np.load(tmp_path / "in.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(
        tmp_path / "out.npy", "w+", np.float32, (len(rows), wanted.shape[1])
    )
    assert client.translate(given, "x", "y", out=out) is out
    out.flush()
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, atol=0.01)


def test_predictions_come_back_in_their_order(client: Stitchwork, rows: Floats) -> None:
    found = client.classify("h", rows, "x")
    assert [told["label"] for told in found[600:650]] == [
        told["label"] for told in client.classify("h", rows[600:650], "x")
    ]
    assert {told["label"] for told in found} == {"a", "[b]"}


def test_a_pointer_names_the_row_among_all(client: Stitchwork, rows: Floats) -> None:
    broken = rows.copy()
    broken[AT_MEAN, 5] = np.nan
    with pytest.raises(InvalidInputError) as refused:
        client.translate(broken, "x", "y")
    assert refused.value.pointer == f"/embeddings/{AT_MEAN}/5"


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_what_are_no_rows_is_refused_here(client: Stitchwork, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"expected rows of shape \(n, d\)"):
        client.translate(np.ones(shape, np.float32), "x", "y")


def test_no_rows_are_the_services_to_refuse(client: Stitchwork) -> None:
    with pytest.raises(InvalidInputError, match="expected rows"):
        client.translate(np.ones((0, 24), np.float32), "x", "y")


def test_an_array_of_another_shape_is_not_written_to(client: Stitchwork, rows: Floats) -> None:
    out = np.zeros((len(rows), 1), np.float32)
    with pytest.raises(
        InvalidInputError, match=r"out: expected shape \(1501, 32\), got \(1501, 1\)"
    ):
        client.translate(rows, "x", "y", out=out)
    assert not out.any()


def test_parts_of_two_versions_are_not_put_together(url: str, pair: Pair, rows: Floats) -> None:
    with Stitchwork(url, in_flight=1) as client:
        client.put_space("z", "S", anchors=pair.x_anchors)

        def replace(done: int, total: int) -> None:
            client.put_space("z", "S", anchors=pair.x_anchors + np.float32(done))

        with pytest.raises(VersionMismatchError, match="z was replaced"):
            client.translate(rows, "z", "y", progress=replace)


def test_a_limit_that_parts_cannot_meet_is_told(client: Stitchwork, rows: Floats) -> None:
    with pytest.raises(InputTooLargeError, match=r"at most 500 .*\(max_rows\)") as refused:
        client.evaluate_head("x", "h", ["a"] * len(rows), embeddings=rows)
    assert getattr(refused.value, "status", None) == 413


@pytest.mark.parametrize("items", [["é" * n for n in range(40)], [b"\xff" * n for n in range(40)]])
def test_parts_of_items_are_all_of_them_and_keep_the_limits(items: list[Any]) -> None:
    limits = ServiceLimits(rows=1, items=7, body_bytes=64 * 1024 + 150)
    parts = list(item_parts(items, limits))
    assert [text for _, part in parts for text in part] == [json_item(item) for item in items]
    assert [start for start, _ in parts] == np.cumsum([0, *(len(p) for _, p in parts)])[
        :-1
    ].tolist()
    assert all(1 <= len(part) <= 7 for _, part in parts)
    assert all(len(part) == 1 or sum(len(t.encode()) for t in part) <= 150 for _, part in parts)
