"""Arrays in files: other libraries read what is written here, and the other way round."""

import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from stitchwork.api.content.arrays import from_npy, from_safetensors, to_npy, to_safetensors
from stitchwork.errors import ErrorCode, InvalidInputError, MalformedInputError
from tests.support.request_limits import LIMITS

ROWS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def joined(buffers: list[bytes | memoryview]) -> bytes:
    return b"".join(bytes(buffer) for buffer in buffers)


def test_written_arrays_are_read_by_other_libraries() -> None:
    tensors = load(joined(to_safetensors("embeddings", ROWS, {"source": '"x"'})))
    np.testing.assert_array_equal(tensors["embeddings"], ROWS)
    np.testing.assert_array_equal(np.load(io.BytesIO(joined(to_npy(ROWS)))), ROWS)
    by_column = np.asfortranarray(ROWS)
    np.testing.assert_array_equal(np.load(io.BytesIO(joined(to_npy(by_column)))), ROWS)


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", "<i8", "<i4", "u1", "?"])
def test_arrays_written_by_other_libraries_are_read(dtype: str) -> None:
    rows = (ROWS * 10).astype(dtype)
    empty = np.zeros((0, 4), np.float32)
    data = save({"first": rows, "z": ROWS, "empty": empty}, {"labels": "[1]"})
    arrays, metadata = from_safetensors(data, LIMITS)
    np.testing.assert_array_equal(arrays["first"], rows)
    np.testing.assert_array_equal(arrays["z"], ROWS)
    assert arrays["empty"].shape == (0, 4)
    assert metadata == {"labels": "[1]"}


def test_arrays_share_the_memory_of_the_body() -> None:
    data = joined(to_safetensors("embeddings", ROWS, {}))
    arrays, _ = from_safetensors(data, LIMITS)
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
        arrays, _ = from_safetensors(bytes(data), LIMITS)
    except (MalformedInputError, InvalidInputError):
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(data)


def test_safetensors_with_two_tensors_of_one_name_are_refused() -> None:
    entry = b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + entry + b"," + entry + b"}"
    with pytest.raises(MalformedInputError, match=r"header is JSON: .*'a' twice") as raised:
        from_safetensors(len(header).to_bytes(8, "little") + header, LIMITS)
    assert raised.value.code == ErrorCode.DUPLICATE_KEY
