"""Digests of the inputs that a head was fitted on, to recognise them in a sample."""

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.resources import Arrays

Digests = NDArray[np.int64]
"""(n,), or (n, k) in k forms, the first 64 bits of the SHA-256 of each input, as an integer that
the registry stores."""

DIGEST_BYTES: Final = 8


def digests_of(inputs: Arrays, rows: NDArray[np.float32]) -> Digests:
    """Digests of what a head was fitted on, by which its inputs are recognised in either form.

    Args:
        inputs: Inputs of the registration: items as packed by `pack_items`, or `embeddings`.
        rows: (n, d) their embeddings.
    """
    digests = row_digests(rows)
    if "blob" not in inputs:
        return digests
    return np.concatenate([packed_digests(inputs["blob"], inputs["ends"]), digests])


def packed_digests(blob: NDArray[np.uint8], ends: NDArray[np.int64]) -> Digests:
    """Digests of the items of `pack_items`; texts that differ in white space only have the same."""
    starts = [0, *ends[:-1].tolist()]
    view = memoryview(np.ascontiguousarray(blob).data)
    return _digests(
        b" ".join(bytes(view[start:end]).split())
        for start, end in zip(starts, ends.tolist(), strict=True)
    )


def row_digests(rows: NDArray[np.float32]) -> Digests:
    """Digests of embeddings (n, d), rounded so that most survive the noise of another batch."""
    peaks = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    rounded = (rows / np.where(peaks > 0, peaks, 1.0)).astype(np.float16)
    # A zero has a sign, which is noise as well.
    return _digests(row.data for row in rounded + np.float16(0))


def _digests(inputs: Iterable[bytes | memoryview]) -> Digests:
    parts = [hashlib.sha256(content).digest()[:DIGEST_BYTES] for content in inputs]
    return np.frombuffer(b"".join(parts), "<i8").astype(np.int64)
