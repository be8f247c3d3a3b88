"""Validated arrays: values of a request as finite float32, or an error with the place."""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pybase64 import b64decode

from stitchwork.errors import ErrorCode, InputTooLargeError, InvalidInputError
from stitchwork.resources import Floats

BASE64_SLICE: Final = 1024 * 1024
"""Characters of an image in base64 that are decoded in one call."""


def vectors(
    value: Any,
    *,
    base64: bool,
    max_rows: int,
    max_width: int,
    settings: tuple[str, str] = ("max_rows", "max_width"),
    scale: Floats | None = None,
    takes_int8: bool = False,
) -> Floats:
    """Rows of finite numbers as one float32 array.

    Args:
        value: An array, a list of lists of numbers or, with `base64`, a list of base64 strings of
            little-endian float32.
        base64: Whether rows are base64 strings, which are refused otherwise.
        max_rows: Maximum number of rows.
        max_width: Maximum number of numbers in a row.
        settings: Names of the settings behind these two limits.
        scale: What int8 rows are multiplied by, see `parse_scale`; only these may have one.
        takes_int8: Whether int8 rows are accepted, with a scale.

    Returns:
        (n, d) float32, finite, n ≥ 1, d ≥ 1.

    Raises:
        InvalidInputError: If it is anything else: ragged, empty, or with nulls, booleans, strings,
            or numbers out of the range of float32; the pointer is relative to the value.
        InputTooLargeError: If there are more rows or columns.
    """
    if isinstance(value, np.ndarray):
        is_int8 = takes_int8 and value.dtype == np.int8
        if value.ndim != 2 or not (value.dtype.kind == "f" or is_int8):
            also = ", or of int8 with its scale" if takes_int8 else ""
            raise InvalidInputError(
                f"expected a 2-dimensional array of floats{also}, got {str(value.dtype)[:80]} of "
                f"shape {list(value.shape)}"
            )
        rows = _scaled(value, scale) if is_int8 else value
    else:
        if not isinstance(value, list) or not value:
            got = "an empty list" if value == [] else json_type(value)
            raise InvalidInputError(f"expected a non-empty list of rows of numbers, got {got}")
        check_count(len(value), max_rows, "rows", settings[0])
        if base64:
            value = [_decode_row(row, f"/{i}") for i, row in enumerate(value)]
        rows = _stack(value)
    if scale is not None and getattr(value, "dtype", None) != np.int8:
        got = getattr(value, "dtype", "JSON")
        raise InvalidInputError(
            f"expected int8 rows with a scale, as safetensors or .npy, got {got}"
        )
    if 0 in rows.shape:
        raise InvalidInputError(f"expected rows of numbers, got shape {list(rows.shape)}")
    check_count(rows.shape[0], max_rows, "rows", settings[0])
    check_count(rows.shape[1], max_width, "numbers in a row", settings[1])
    with np.errstate(over="ignore"):
        narrow: Floats = np.ascontiguousarray(rows, dtype=np.float32)
    finite = np.isfinite(narrow)
    if not finite.all():
        i, j = np.argwhere(~finite)[0].tolist()
        raise InvalidInputError(
            f"expected finite numbers that float32 can hold, got {rows[i, j]!s}",
            pointer=f"/{i}/{j}",
        )
    return narrow


def parse_scale(value: Any) -> Floats:
    """What int8 rows (n, d) are multiplied by.

    Args:
        value: A number for all rows, a list or an array (d,) or (1, d) of numbers for the columns,
            or an array (n, 1) of numbers for the rows.

    Returns:
        () or (d,) or (n, 1) float32, positive and finite.

    Raises:
        InvalidInputError: If it is anything else.
    """
    try:
        is_number = type(value) in (int, float) or isinstance(value, str)
        scale = np.asarray(float(value) if is_number else value)
    except ValueError:
        scale = np.zeros(0)
    shape = list(scale.shape)
    is_small = scale.ndim < 2 or (scale.ndim == 2 and 1 in shape)
    if scale.dtype.kind != "f" or not is_small or not scale.size:
        got = f"{scale.dtype} of shape {shape}" if scale.size else repr(value)[:80]
        raise InvalidInputError(
            f"expected a number, or one for each column (d,) or each row (n, 1), got {got}"
        )
    with np.errstate(over="ignore"):
        narrow: Floats = scale.astype(np.float32)
    if not (np.isfinite(narrow) & (narrow > 0)).all():
        raise InvalidInputError("expected positive finite numbers")
    return narrow.reshape(()) if scale.shape == (1,) else narrow


def _scaled(rows: NDArray[np.int8], scale: Floats | None) -> Floats:
    """Int8 rows times their scale."""
    if scale is None:
        raise InvalidInputError(
            "expected int8 rows with a scale, got none: send `scale`, the number that turns them "
            "into embeddings, or one for each column or row"
        )
    try:
        shape = np.broadcast_shapes(rows.shape, scale.shape)
    except ValueError:
        shape = ()
    if shape != rows.shape:
        raise InvalidInputError(
            f"expected a scale of shape (), ({rows.shape[1]},) or ({rows.shape[0]}, 1) for rows of "
            f"shape {list(rows.shape)}, got {list(scale.shape)}"
        )
    product: Floats = rows.astype(np.float32) * scale
    return product


def vector(value: Any, max_length: int) -> Floats:
    """One row of finite numbers as a (d,) float32 array; raises what `vectors` raises."""
    row = value[None] if isinstance(value, np.ndarray) and value.ndim == 1 else [value]
    try:
        rows: Floats = vectors(
            row, base64=False, max_rows=1, max_width=max_length, settings=("", "max_rows")
        )
        only: Floats = rows[0]
        return only
    except InvalidInputError as error:
        error.pointer = (error.pointer or "").removeprefix("/0")
        raise


def image_bytes(value: bytes | memoryview, pointer: str, *, has_lines: bool = False) -> bytes:
    """The bytes of a base64 string, decoded in slices: a call holds the interpreter's lock.

    Args:
        value: The string.
        pointer: Where it is, for the error.
        has_lines: Whether it may have line ends.

    Raises:
        InvalidInputError: If it is not base64.
    """
    decoded, view, rest, is_padded = io.BytesIO(), memoryview(value), b"", False
    try:
        for start in range(0, len(view), BASE64_SLICE):
            part = rest + bytes(view[start : start + BASE64_SLICE])
            if has_lines and (b"\n" in part or b"\r" in part):
                part = part.translate(None, b"\r\n")
            if is_padded and part:
                raise ValueError("data after the padding")
            end = len(part) if start + BASE64_SLICE >= len(view) else len(part) // 4 * 4
            part, rest = part[:end], part[end:]
            is_padded = is_padded or b"=" in part
            decoded.write(b64decode(part, validate=True))
    except ValueError as error:
        raise InvalidInputError("expected the base64 of an image file", pointer=pointer) from error
    return decoded.getvalue()


def _stack(rows: list[Any]) -> NDArray[Any]:
    if isinstance(rows[0], np.ndarray):
        widths = {len(row) for row in rows}
        if len(widths) == 1:
            return np.stack(rows)
    elif all(type(row) is list for row in rows) and len({len(row) for row in rows}) == 1:
        # Types are checked here because numpy converts null, true and "1.5" to numbers.
        types: set[type] = set()
        for row in rows:
            types.update(map(type, row))
        if types <= {float, int}:
            try:
                return np.array(rows, dtype=np.float64)
            except OverflowError:
                pass
    raise _first_error(rows)


def _first_error(rows: list[Any]) -> InvalidInputError:
    width = len(rows[0]) if isinstance(rows[0], list | np.ndarray) else None
    for i, row in enumerate(rows):
        if not isinstance(row, list | np.ndarray):
            return InvalidInputError(
                f"expected a row of numbers, got {json_type(row)}", pointer=f"/{i}"
            )
        if len(row) != width:
            return InvalidInputError(
                f"expected {width} numbers as in the first row, got {len(row)}",
                pointer=f"/{i}",
                code=ErrorCode.RAGGED_ROWS,
            )
        for j, number in enumerate(row if isinstance(row, list) else ()):
            if type(number) not in (float, int) or abs(number) > 1e300:
                got = json_type(number)
                return InvalidInputError(
                    "expected a finite number, got "
                    + ("a number that float32 cannot hold" if got == "a number" else got),
                    pointer=f"/{i}/{j}",
                )
    return InvalidInputError("expected rows of finite numbers")


def json_type(value: Any) -> str:
    """The JSON type of a value, with its article, for messages."""
    names = {
        type(None): "null",
        bool: "a boolean",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "a number")


def check_count(
    count: int, limit: int, name: str, setting: str, pointer: str | None = None
) -> None:
    """Check a number of values against the setting that limits it.

    Args:
        count: The number.
        limit: The largest number.
        name: What the values are called in the error.
        setting: Name of the setting.
        pointer: JSON pointer to the values in the request.

    Raises:
        InputTooLargeError: If there are more.
    """
    if count > limit:
        raise InputTooLargeError(
            f"expected at most {limit} {name} ({setting}), got {count}", pointer=pointer
        )


def _decode_row(value: Any, pointer: str) -> Floats:
    if not isinstance(value, str):
        raise InvalidInputError(
            f"expected a base64 string, got {json_type(value)}", pointer=pointer
        )
    try:
        raw = b64decode(value, validate=True)
    except ValueError as error:
        raise InvalidInputError(
            "expected base64 of little-endian float32", pointer=pointer
        ) from error
    if len(raw) % 4:
        raise InvalidInputError(
            f"expected whole float32 numbers of 4 bytes, got {len(raw)} bytes", pointer=pointer
        )
    return np.frombuffer(raw, "<f4")
