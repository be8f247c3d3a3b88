"""Rows of any source as float32: which types are taken, and how int8 is scaled."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError

EXPECTATION: Final = "expected floats, or int8 with a scale"
TORCH_FLOATS: Final = ("torch.float64", "torch.float32", "torch.float16", "torch.bfloat16")


class ScaledRows:
    """Int8 rows that are multiplied by their scale as they are read.

    Args:
        rows: (n, d) int8 rows.
        scale: (), (d,) or (n, 1).

    Attributes:
        shape: (n, d).
        rows: The int8 rows.
    """

    def __init__(self, rows: Any, scale: NDArray[np.float32]) -> None:
        self.shape: tuple[int, ...] = tuple(rows.shape)
        self.rows, self._scale = rows, scale

    def __getitem__(self, part: slice, /) -> NDArray[np.float32]:
        """Some of the rows."""
        rows = self.rows[part]
        if hasattr(rows, "detach"):
            rows = rows.detach().cpu().numpy()
        is_per_row = self._scale.ndim == 2
        scale = self._scale[part] if is_per_row else self._scale
        product: NDArray[np.float32] = np.asarray(rows).astype(np.float32) * scale
        return product


def parse_scale(scale: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[np.float32]:
    """The scale of rows of this shape and type.

    Raises:
        InvalidInputError: If the rows are not int8, or it is missing or has another shape than (),
            (d,) or (n, 1), or is not positive.
    """
    if str(dtype).removeprefix("torch.") != "int8":
        raise InvalidInputError(f"scale: expected int8 rows, got {dtype}")
    if scale is None:
        raise InvalidInputError(f"{EXPECTATION}, got int8 without one")
    try:
        array = np.asarray(scale, np.float32)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"scale: expected numbers, got {str(scale)[:80]!r}") from error
    if array.size == 1:
        array = array.reshape(())
    if array.shape == (1, shape[1]):
        array = array[0]
    if array.shape not in ((), (shape[1],), (shape[0], 1)):
        raise InvalidInputError(
            f"scale: expected shape (), ({shape[1]},) or ({shape[0]}, 1), got {array.shape}"
        )
    if not (np.isfinite(array) & (array > 0)).all():
        raise InvalidInputError("scale: expected positive finite numbers")
    return array


def check_type(rows: Any) -> None:
    """Check that rows, whose type is known before they are read, are floats.

    Raises:
        InvalidInputError: If they are of another type: integers, booleans, complex numbers,
            objects, texts or structures.
    """
    dtype = getattr(rows, "dtype", None)
    if dtype is None:
        return
    is_torch = type(rows).__module__.partition(".")[0] == "torch"
    is_float = str(dtype) in TORCH_FLOATS if is_torch else _is_float(np.dtype(dtype))
    if not is_float:
        without = " without one" if str(dtype).removeprefix("torch.") == "int8" else ""
        raise InvalidInputError(f"{EXPECTATION}, got {str(dtype)[:80]}{without}")


def float32_rows(part: Any, start: int = 0) -> NDArray[np.float32]:
    """Rows as contiguous float32.

    Args:
        part: Rows of any floats: an array, or a torch tensor on any device.
        start: Index of the first of them, for errors.

    Raises:
        InvalidInputError: If they are of another type, or a number does not fit float32.
    """
    check_type(part)
    if hasattr(part, "detach"):
        # In float32 first, where it has no float64: numpy has no bfloat16.
        part = part.detach()
        part = (part if str(part.dtype) == "torch.float64" else part.float()).cpu().numpy()
    rows = np.asarray(part)
    check_type(rows)
    with np.errstate(over="ignore"):
        narrow: NDArray[np.float32] = np.ascontiguousarray(rows, np.float32)
    if rows.dtype.itemsize > 4:
        too_large = np.isinf(narrow) & np.isfinite(rows)
        if too_large.any():
            row, column = np.argwhere(too_large)[0].tolist()
            raise InvalidInputError(
                f"expected numbers that float32 can hold, got {rows[row, column]!s}",
                pointer=f"/embeddings/{start + row}/{column}",
            )
    return narrow


def from_list(value: Any) -> NDArray[Any]:
    """Lists of numbers as an array of floats.

    Raises:
        InvalidInputError: If they are ragged, or hold anything but numbers.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidInputError(f"expected rows of equal length: {error}") from error
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype.kind != "f":
        raise InvalidInputError(f"expected rows of numbers, got {array.dtype}")
    return array


def _is_float(dtype: np.dtype[Any]) -> bool:
    # The bfloat16 of ml_dtypes, as in jax.
    return dtype.kind == "f" or dtype.name == "bfloat16"
