"""The one binary format: named arrays and a JSON value as bytes, and back.

safetensors for the arrays, with a checksum in front. Everything that is stored or queued goes
through this module, so nothing is ever unpickled and a flipped bit is detected.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from stitchwork.errors import CorruptDataError
from stitchwork.resources import Arrays

MAGIC: Final = b"SW1\n"
"""The format and its version, since release 0.1.0."""
CHECKSUM_BYTES: Final = 16
DTYPES: Final = {
    "F64": np.float64,
    "F32": np.float32,
    "I64": np.int64,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def pack(arrays: Mapping[str, NDArray[Any]], meta: Any = None) -> bytes:
    """Arrays and one JSON value as bytes with a checksum.

    Args:
        arrays: Named arrays of float64, float32, int64, uint8 or bool, of any shape.
        meta: Any JSON value.

    Returns:
        Bytes from which `unpack` returns equal arrays and an equal value.
    """
    body = save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        {"meta": orjson.dumps(meta).decode()},
    )
    return MAGIC + _checksum(body) + body


def unpack(data: bytes) -> tuple[Arrays, Any]:
    """The arrays and the value of `pack`.

    Returns:
        The arrays, read-only, and the JSON value.

    Raises:
        CorruptDataError: If the bytes are cut, altered, of another format, or were never written
            by `pack`.
    """
    start = len(MAGIC) + CHECKSUM_BYTES
    magic = data[: len(MAGIC)]
    if magic != MAGIC:
        raise CorruptDataError(
            f"{len(data)} stored bytes begin with {magic!r}, expected {MAGIC!r}: they are damaged "
            "or of another release"
        )
    if data[len(MAGIC) : start] != _checksum(data[start:]):
        raise CorruptDataError(f"{len(data)} stored bytes fail their checksum")
    try:
        return _deserialize(data[start:])
    except (SafetensorError, ValueError, KeyError) as error:
        # Anyone who can write to a server can make a valid checksum; no waiting thread ends.
        raise CorruptDataError(
            "stored bytes have a valid checksum but were not written by this package"
        ) from error


def _deserialize(body: bytes) -> tuple[Arrays, Any]:
    tensors: Any = deserialize(body)  # type: ignore[no-untyped-call]
    size = int.from_bytes(body[:8], "little")
    meta = orjson.loads(body[8 : 8 + size])["__metadata__"]["meta"]
    arrays = {
        name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in tensors
    }
    return arrays, orjson.loads(meta)


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=CHECKSUM_BYTES).digest()
