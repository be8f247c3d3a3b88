"""The binary formats of PostgreSQL's COPY and of pgvector's types."""

import struct
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
NULL: Final = b"\xff\xff\xff\xff"
VECTOR_HEADER_BYTES: Final = 4
"""Of a vector: its width and two bytes that are zero, before its numbers, all in network order."""
NUMBERS: Final = {"vector": ">f4", "halfvec": ">f2"}


def parse_vector(data: bytes | None, type_: str) -> NDArray[np.float32] | None:
    """The numbers of a vector in its binary format."""
    if data is None:
        return None
    return np.frombuffer(data, NUMBERS[type_], offset=VECTOR_HEADER_BYTES).astype(np.float32)


def copy_rows(
    ids: Sequence[str], vectors: NDArray[np.float32], columns: Iterable[Sequence[str | None]]
) -> bytes:
    """Rows of a text, a vector and further texts in the binary format of COPY.

    Args:
        ids: n texts.
        vectors: (n, d) float32.
        columns: The further columns, each of n texts or nulls.
    """
    numbers = np.ascontiguousarray(vectors, ">f4")
    width = vectors.shape[1]
    head = struct.pack("!ihh", VECTOR_HEADER_BYTES + 4 * width, width, 0)
    texts = list(columns)
    count = struct.pack("!h", 2 + len(texts))
    parts = [HEADER]
    for i, id_ in enumerate(ids):
        parts += (count, _text(id_), head, numbers[i].tobytes())
        parts += (_text(column[i]) for column in texts)
    return b"".join([*parts, TRAILER])


def _text(value: str | None) -> bytes:
    if value is None:
        return NULL
    data = value.encode()
    return struct.pack("!i", len(data)) + data
