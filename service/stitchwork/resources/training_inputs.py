"""Digests of the inputs that a head was fitted on, to recognise them in a sample."""

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.resources import Arrays

Digests = NDArray[np.int64]
"""(n,) the first 64 bits of the SHA-256 of each input, as an integer that the registry stores."""

DIGEST_BYTES: Final = 8


def digests_of(inputs: Arrays) -> Digests:
    """Digests of the inputs of a registration: items as packed by `pack_items`, or `embeddings`."""
    if "blob" in inputs:
        return packed_digests(inputs["blob"], inputs["ends"])
    return row_digests(inputs["embeddings"])


def packed_digests(blob: NDArray[np.uint8], ends: NDArray[np.int64]) -> Digests:
    """Digests of the items of `pack_items`."""
    starts = [0, *ends[:-1].tolist()]
    view = memoryview(np.ascontiguousarray(blob).data)
    return _digests(view[start:end] for start, end in zip(starts, ends.tolist(), strict=True))


def row_digests(rows: NDArray[np.float32]) -> Digests:
    """Digests of embeddings (n, d), as they were sent."""
    return _digests(row.data for row in np.ascontiguousarray(rows, np.float32))


def _digests(inputs: Iterable[memoryview]) -> Digests:
    parts = [hashlib.sha256(content).digest()[:DIGEST_BYTES] for content in inputs]
    return np.frombuffer(b"".join(parts), "<i8").astype(np.int64)
