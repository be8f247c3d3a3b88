import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stitchwork.errors import CorruptDataError
from stitchwork.redis.serialization import (
    pack,
    pack_frames,
    pack_large_frames,
    unpack,
    unpack_frames,
)

DTYPES = [np.float64, np.float32, np.int64, np.uint8, np.bool_]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
    ),
    max_size=4,
)


@given(ARRAYS, JSON)
def test_unpack_of_packed_values_returns_equal_values(
    arrays: dict[str, np.ndarray[Any, Any]], meta: Any
) -> None:
    unpacked, unpacked_meta = unpack(pack(arrays, meta))
    assert unpacked_meta == meta
    assert unpacked.keys() == arrays.keys()
    for name, array in arrays.items():
        assert unpacked[name].dtype == array.dtype
        np.testing.assert_array_equal(unpacked[name], array)


@given(st.data())
def test_unpack_of_a_flipped_bit_raises(data: st.DataObject) -> None:
    packed = bytearray(pack({"a": np.arange(6.0)}, {"b": 1}))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptDataError):
        unpack(bytes(packed))


@given(st.integers(0, 200))
def test_unpack_of_cut_bytes_raises(stored: int) -> None:
    packed = pack({"a": np.arange(60.0)})
    with pytest.raises(CorruptDataError):
        unpack(packed[:stored])


@pytest.mark.parametrize("foreign", [b"", b"junk", pickle.dumps([1, 2])])
def test_unpack_of_foreign_bytes_raises(foreign: bytes) -> None:
    with pytest.raises(CorruptDataError):
        unpack(foreign)


def test_large_frames_are_packed_as_small_ones() -> None:
    frames = [b"", b"header", bytes(range(256)) * 10_000]
    assert bytes(pack_large_frames(frames)) == pack_frames(frames)
    assert unpack_frames(bytes(pack_large_frames(frames))) == frames
