"""Arrays that no single value could hold: cut, kept and read back."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stitchwork.errors import CorruptDataError
from stitchwork.redis import chunked_arrays
from stitchwork.redis.client import Check, RedisClient
from stitchwork.resources import Arrays
from tests.support import machine

ARRAYS = st.dictionaries(
    st.sampled_from("abc"),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=20)),
    min_size=1,
)
ROWS: Arrays = {"a": np.arange(3000, dtype=np.float32).reshape(300, 10), "b": np.arange(70)}


def _same(result: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
    assert result is not None
    assert result.keys() == wanted.keys()
    for name, array in wanted.items():
        assert result[name].dtype == array.dtype
        np.testing.assert_array_equal(result[name], array)


@given(ARRAYS, st.integers(1, 2000))
def test_split_has_each_row_once_and_no_oversized_block(
    arrays: dict[str, np.ndarray[Any, Any]], max_block_bytes: int
) -> None:
    cuts = chunked_arrays._split(arrays, max_block_bytes)
    for name, array in arrays.items():
        rows = [np.arange(len(array))[cut[name]] for cut in cuts if name in cut]
        assert rows, "an empty array has its place too"
        np.testing.assert_array_equal(np.concatenate(rows), np.arange(len(array)))
    for cut in cuts:
        lengths = {name: arrays[name][rows] for name, rows in cut.items()}
        alone = sum(len(part) for part in lengths.values()) <= 1
        assert alone or sum(part.nbytes for part in lengths.values()) <= max_block_bytes


@pytest.mark.parametrize("max_block_bytes", [100, 1000, 1 << 20])
def test_read_returns_equal_arrays(queue_server: RedisClient, max_block_bytes: int) -> None:
    check = chunked_arrays.write(queue_server, "k", ROWS, 60, max_block_bytes=max_block_bytes)
    _same(chunked_arrays.read(queue_server, "k"), ROWS)
    assert 0 < queue_server.redis.ttl("k") <= 60
    assert queue_server.commit([check], [("PERSIST", "k")])
    largest = max(queue_server.redis.hstrlen("k", name) for name in queue_server.redis.hkeys("k"))
    assert largest < max_block_bytes + 1000


def test_persistent_key_stays_persistent_when_written_again(
    queue_server: RedisClient,
) -> None:
    chunked_arrays.write(queue_server, "k", ROWS, 60, max_block_bytes=1000)
    queue_server.redis.persist("k")
    chunked_arrays.write(queue_server, "k", ROWS, 60, max_block_bytes=1000)
    assert queue_server.redis.ttl("k") == -1
    # Nor by one who began before it lasted, and is at its last block now.
    queue_server.redis.hdel("k", "3")
    chunked_arrays.write(queue_server, "k", ROWS, 60, max_block_bytes=1000)
    assert queue_server.redis.ttl("k") == -1
    _same(chunked_arrays.read(queue_server, "k"), ROWS)


def test_partial_upload_reads_as_none_and_fails_its_check(queue_server: RedisClient) -> None:
    whole = chunked_arrays.write(queue_server, "k", ROWS, 60, max_block_bytes=1000)
    assert isinstance(whole, Check)
    queue_server.redis.hdel("k", "1")
    assert chunked_arrays.read(queue_server, "k") is None
    assert not queue_server.commit([whole], [("PERSIST", "k")])
    assert chunked_arrays.read(queue_server, "unknown") is None


@pytest.mark.parametrize("field", ["0", "4"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "another"])
def test_damaged_block_raises(queue_server: RedisClient, field: str, damage: str) -> None:
    chunked_arrays.write(queue_server, "k", ROWS, 60, max_block_bytes=1000)
    chunked_arrays.write(queue_server, "other", {"c": np.arange(9000)}, 60, max_block_bytes=1000)
    good = queue_server.redis.hget("k", field)
    assert isinstance(good, bytes)
    bad = {
        "flipped": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:],
        "cut": good[: len(good) // 2],
        "another": queue_server.redis.hget("other", "3"),
    }[damage]
    queue_server.redis.hset("k", field, bad)
    with pytest.raises(CorruptDataError):
        chunked_arrays.read(queue_server, "k")


def test_concurrent_writers_of_equal_arrays_leave_them_complete(queue_server: RedisClient) -> None:
    together = threading.Barrier(2)

    def put() -> None:
        together.wait()
        chunked_arrays.write(queue_server, "k", ROWS, 60, max_block_bytes=500)

    threads = [threading.Thread(target=put) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(machine.deadline(20))
    _same(chunked_arrays.read(queue_server, "k"), ROWS)
