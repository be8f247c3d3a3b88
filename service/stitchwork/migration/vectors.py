"""Vectors of rows as one array."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_vectors(rows: Sequence[Any], width: int) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Vectors as an array, and the rows that have none of this width.

    Args:
        rows: A list or array of numbers for each row, or None.
        width: d.

    Returns:
        (n, d) float32, zero where a row has no vector of this width, and the reasons by row.
    """
    vectors = np.zeros((len(rows), width), np.float32)
    faults = {}
    for i, row in enumerate(rows):
        if row is None:
            faults[i] = "no vector"
            continue
        try:
            vector = np.asarray(row, np.float64)
        except (TypeError, ValueError):
            faults[i] = "expected a list of numbers"
            continue
        if vector.shape != (width,):
            faults[i] = f"expected {width} numbers, got {vector.size}"
        else:
            with np.errstate(over="ignore"):
                vectors[i] = vector
    return vectors, faults
