"""Arrays in bodies: what other libraries write is read, and the other way round."""

import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from stitchwork.api.content.arrays import (
    from_json,
    from_npy,
    from_safetensors,
    to_npy,
    to_safetensors,
)
from stitchwork.errors import InvalidInputError, MalformedInputError

DEPTH = 64
ROWS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def joined(pieces: list[bytes | memoryview]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


def test_others_read_what_is_written() -> None:
    found = load(joined(to_safetensors("embeddings", ROWS, {"source": '"x"'})))
    np.testing.assert_array_equal(found["embeddings"], ROWS)
    np.testing.assert_array_equal(np.load(io.BytesIO(joined(to_npy(ROWS)))), ROWS)
    turned = np.asfortranarray(ROWS)
    np.testing.assert_array_equal(np.load(io.BytesIO(joined(to_npy(turned)))), ROWS)


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", "<i8", "<i4", "u1", "?"])
def test_what_others_write_is_read(dtype: str) -> None:
    given_rows = (ROWS * 10).astype(dtype)
    nothing = np.zeros((0, 4), np.float32)
    data = save({"first": given_rows, "z": ROWS, "nothing": nothing}, {"labels": "[1]"})
    arrays, told = from_safetensors(data, DEPTH)
    np.testing.assert_array_equal(arrays["first"], given_rows)
    np.testing.assert_array_equal(arrays["z"], ROWS)
    assert arrays["nothing"].shape == (0, 4)
    assert told == {"labels": "[1]"}


def test_an_array_shares_the_memory_of_its_body() -> None:
    data = joined(to_safetensors("embeddings", ROWS, {}))
    arrays, _ = from_safetensors(data, DEPTH)
    whole = np.frombuffer(data, np.uint8)
    assert np.shares_memory(arrays["embeddings"], whole)
    assert np.shares_memory(from_npy(joined(to_npy(ROWS)), "embeddings"), whole) is False
    npy = joined(to_npy(ROWS))
    assert np.shares_memory(from_npy(npy, "embeddings"), np.frombuffer(npy, np.uint8))


@given(st.randoms(use_true_random=False))
def test_damaged_safetensors_are_read_or_refused(luck: random.Random) -> None:
    data = bytearray(save({"first": ROWS, "z": ROWS}, {"a": "b"}))
    for _ in range(luck.randint(1, 4)):
        data[luck.randrange(200)] = luck.randrange(256)
    del data[luck.randrange(len(data)) if luck.random() < 0.3 else len(data) :]
    try:
        arrays, _ = from_safetensors(bytes(data), DEPTH)
    except (MalformedInputError, InvalidInputError):
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(data)


def test_json_rows_are_read_straight_into_an_array() -> None:
    found = from_json(
        b'{"source": "x", "top": 3, "rows": [[1, 2.5], [-3, 4e2]], "on": true}', "rows"
    )
    assert found is not None
    np.testing.assert_array_equal(found.pop("rows"), [[1, 2.5], [-3, 400]])
    assert found == {"source": "x", "top": 3, "on": True}


@pytest.mark.parametrize(
    "text",
    [
        '{"rows": [[1, true]]}',
        '{"rows": [[1, null]]}',
        '{"rows": [[1, "2"]]}',
        '{"rows": [[1], [2, 3]]}',
        '{"rows": [[1, [2, 3], []]]}',
        '{"rows": [[[1, 2], []]]}',
        '{"rows": [1, 2]}',
        '{"rows": []}',
        '{"rows": "abc"}',
        '{"rows": [[1e400]]}',
        '{"rows": [[NaN]]}',
        '{"rows": [[1]], "rows": [[2]]}',
        '{"rows": [[1]], "more": {"a": 1, "a": 2}}',
        '{"rows": [[1]]',
        "[[1]]",
        "3",
        "",
        "[" * 5000,
    ],
)
def test_what_is_not_plainly_rows_is_left_to_the_long_way(text: str) -> None:
    assert from_json(text.encode(), "rows") is None


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(
                st.floats(width=32, allow_nan=False, allow_infinity=False),
                min_size=width,
                max_size=width,
            ),
            min_size=1,
            max_size=4,
        )
    )
)
def test_json_rows_come_back_to_the_last_bit(rows: list[list[float]]) -> None:
    found = from_json(f'{{"rows": {rows}}}'.encode(), "rows")
    assert found is not None
    np.testing.assert_array_equal(found["rows"], rows)
