"""The binary formats: named arrays and a JSON value, or a few frames of bytes, and back.

safetensors for the arrays, which are stored; frames for messages, which must cost little. Both have
a checksum in front. Everything that is stored or queued goes through this module, so nothing is
ever unpickled and a flipped bit is detected.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby, pairwise
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from stitchwork.errors import CorruptDataError
from stitchwork.redis.commands import Buffers
from stitchwork.resources import Arrays

MAGIC: Final = b"SW1\n"
"""The format and its version, since release 0.1.0."""
FRAMES_MAGIC: Final = b"SWF1"
"""The format of frames and its version."""
CHECKSUM_BYTES: Final = 16
MAX_COPIED_BYTES: Final = 4096
"""Size up to which a frame is copied, for few writes."""
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


def pack_frames(frames: Sequence[bytes | memoryview]) -> bytes:
    """Frames as bytes with a checksum, from which `unpack_frames` returns equal frames."""
    lengths = struct.pack(f"<I{len(frames)}Q", len(frames), *map(len, frames))
    body = b"".join((lengths, *frames))
    return b"".join((FRAMES_MAGIC, _checksum(body), body))


def pack_large_frames(frames: Sequence[bytes | memoryview]) -> Buffers:
    """Like `pack_frames`, without a copy of large frames; small ones are joined."""
    lengths = struct.pack(f"<I{len(frames)}Q", len(frames), *map(len, frames))
    body = list(_join_small((lengths, *frames)))
    checksum = hashlib.blake2b(digest_size=CHECKSUM_BYTES)
    for part in body:
        checksum.update(part)
    return Buffers((FRAMES_MAGIC + checksum.digest(), *body))


def unpack_frames(data: bytes) -> list[memoryview]:
    """The frames of `pack_frames`, which share its memory.

    Raises:
        CorruptDataError: If the bytes are cut, altered, of another format, or were never written
            by `pack_frames`.
    """
    start = len(FRAMES_MAGIC) + CHECKSUM_BYTES
    body = memoryview(data)[start:]
    if not is_frames(data) or data[len(FRAMES_MAGIC) : start] != _checksum(body):
        raise CorruptDataError(f"{len(data)} bytes of frames fail their checksum")
    try:
        (count,) = struct.unpack_from("<I", body)
        lengths = struct.unpack_from(f"<{count}Q", body, 4)
    except struct.error as error:
        raise CorruptDataError("the frames have no valid table of their lengths") from error
    ends = list(accumulate(lengths, initial=4 + 8 * count))
    if ends[-1] != len(body):
        raise CorruptDataError(f"expected frames of {ends[-1]} bytes, got {len(body)}")
    return [body[begin:end] for begin, end in pairwise(ends)]


def is_frames(data: bytes) -> bool:
    """Whether bytes begin as those of `pack_frames` do."""
    return data.startswith(FRAMES_MAGIC)


def _deserialize(body: bytes) -> tuple[Arrays, Any]:
    tensors: Any = deserialize(body)  # type: ignore[no-untyped-call]
    size = int.from_bytes(body[:8], "little")
    meta = orjson.loads(body[8 : 8 + size])["__metadata__"]["meta"]
    arrays = {
        name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in tensors
    }
    return arrays, orjson.loads(meta)


def _join_small(frames: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Frames in order, small ones joined."""
    for is_small, group in groupby(frames, lambda frame: len(frame) <= MAX_COPIED_BYTES):
        if is_small:
            yield b"".join(group)
        else:
            yield from group


def _checksum(body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=CHECKSUM_BYTES).digest()
