"""Fuzz targets on the corpus and on damaged inputs, and round trips of each format."""

import base64
import gc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from safetensors.numpy import save

from stitchwork.api.content import negotiation
from stitchwork.api.schemas.inference_requests import TranslateRequest
from stitchwork.errors import CorruptDataError
from stitchwork.redis.serialization import pack, unpack
from tests.fuzz.seeds import CORPUS, npy_file, seeds
from tests.fuzz.targets import TARGETS, read_body

CORPUS_FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
few_examples = settings(max_examples=50)
ROWS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-(2.0**99), 2.0**99, width=32),
)


def targets() -> list[str]:
    return sorted(TARGETS)


@pytest.mark.parametrize("target", targets())
def test_target_handles_its_corpus(target: str) -> None:
    files = [path for path in CORPUS_FILES if path.parent.name == target]
    assert files
    for path in files:
        TARGETS[target](path.read_bytes())


def as_json(rows: NDArray[Any]) -> bytes:
    return orjson.dumps({"source": "x", "target": "y", "embeddings": rows.tolist()})


def as_base64(rows: NDArray[Any]) -> bytes:
    encoded = [base64.b64encode(row.tobytes()).decode() for row in rows]
    fields = {"source": "x", "target": "y", "encoding_format": "base64"}
    return orjson.dumps({**fields, "embeddings": encoded})


def as_safetensors(rows: NDArray[Any]) -> bytes:
    return save({"embeddings": rows}, {"encoding_format": "float"})


FORMATS: list[tuple[str, Callable[[NDArray[Any]], bytes]]] = [
    (negotiation.JSON, as_json),
    (negotiation.JSON, as_base64),
    (negotiation.NPY, npy_file),
    (negotiation.SAFETENSORS, as_safetensors),
]


@pytest.mark.parametrize(("media", "serialize"), FORMATS)
@few_examples
@given(rows=ROWS)
def test_rows_are_parsed_unchanged(
    media: str, serialize: Callable[[NDArray[Any]], bytes], rows: NDArray[np.float32]
) -> None:
    body = read_body(TranslateRequest, serialize(rows), media, array_field="embeddings")
    np.testing.assert_array_equal(body.embeddings, rows)


# Pillow warns of damaged EXIF data and leaves the image as it is.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("target", targets())
@few_examples
@given(data=st.data())
def test_target_handles_damaged_input(target: str, data: st.DataObject) -> None:
    good = data.draw(st.sampled_from(seeds()[target]))
    TARGETS[target](good[: data.draw(st.integers(0, len(good)))])
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    TARGETS[target](bytes(changed))


def test_incomplete_form_part_leaves_no_file_open() -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="items"; filename="a"\r\n\r\nabc\r\n'
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        TARGETS["raw"](b"\0" + part + part + b"--c--")
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("media", [negotiation.NPY, negotiation.SAFETENSORS])
@few_examples
@given(rows=ROWS, cut=st.integers(1, 40))
def test_truncated_binary_body_is_refused(media: str, rows: NDArray[np.float32], cut: int) -> None:
    whole = npy_file(rows) if media == negotiation.NPY else as_safetensors(rows)
    assert read_body(TranslateRequest, whole[:-cut], media, array_field="embeddings") is None


@few_examples
@given(ROWS, st.integers(0, 1 << 20), st.integers(0, 7))
def test_flipped_bit_of_stored_bytes_is_detected(
    rows: NDArray[np.float32], at: int, bit: int
) -> None:
    whole = bytearray(pack({"a": rows}, {"k": 1}))
    unpacked, meta = unpack(bytes(whole))
    np.testing.assert_array_equal(unpacked["a"], rows)
    assert meta == {"k": 1}
    whole[at % len(whole)] ^= 1 << bit
    with pytest.raises(CorruptDataError):
        unpack(bytes(whole))
