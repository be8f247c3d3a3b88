"""The one codec: named arrays and a JSON value as bytes, and back.

safetensors for the arrays, a checksum in front. Whatever is stored or queued goes through here, so
nothing is ever unpickled and a flipped bit is noticed before it is believed.
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
SUM: Final = 16
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
        meta: Anything JSON can hold.

    Returns:
        Bytes that `unpack` turns back into equal arrays and an equal value.
    """
    body = save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        {"meta": orjson.dumps(meta).decode()},
    )
    return MAGIC + _checksum(body) + body


def unpack(data: bytes) -> tuple[Arrays, Any]:
    """The arrays and the value that `pack` was given.

    Returns:
        The arrays, read-only, and the JSON value.

    Raises:
        CorruptDataError: If the bytes are cut, altered, or were never written by `pack`.
    """
    head = len(MAGIC) + SUM
    if data[: len(MAGIC)] != MAGIC or data[len(MAGIC) : head] != _checksum(data[head:]):
        raise CorruptDataError(f"{len(data)} stored bytes fail their checksum")
    try:
        return _opened(data[head:])
    except (SafetensorError, ValueError, KeyError) as error:
        # Whoever can write to a server can make a good checksum; this ends no thread that waits.
        raise CorruptDataError(
            "stored bytes have a good checksum but were not packed here"
        ) from error


def _opened(body: bytes) -> tuple[Arrays, Any]:
    tensors: Any = deserialize(body)  # type: ignore[no-untyped-call]
    size = int.from_bytes(body[:8], "little")
    meta = orjson.loads(body[8 : 8 + size])["__metadata__"]["meta"]
    arrays = {
        name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in tensors
    }
    return arrays, orjson.loads(meta)


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=SUM).digest()
