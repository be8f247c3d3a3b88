"""Checked arrays: what a client sent becomes finite float32, or an error that says where."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pybase64 import b64decode

from stitchwork.errors import ErrorCode, InputTooLargeError, InvalidInputError
from stitchwork.resources import Floats


def vectors(
    value: Any,
    *,
    coded: bool,
    most_rows: int,
    most_width: int,
    settings: tuple[str, str] = ("max_rows", "max_width"),
) -> Floats:
    """Rows of finite numbers as one float32 array.

    Args:
        value: An array, a list of lists of numbers or, if `coded`, a list of base64 strings of
            little-endian float32.
        coded: Whether strings are base64; otherwise they are refused.
        most_rows: Rows that are taken.
        most_width: Numbers in a row that are taken.
        settings: What those two limits are called.

    Returns:
        (n, d) float32, finite, n ≥ 1, d ≥ 1.

    Raises:
        InvalidInputError: If it is anything else: ragged, empty, or holding nulls, booleans,
        strings,
            or numbers that float32 cannot hold; the pointer is relative to the value.
        InputTooLargeError: If there are more rows or columns.
    """
    if isinstance(value, np.ndarray):
        if value.ndim != 2 or value.dtype.kind != "f":
            raise InvalidInputError(
                f"expected a 2-dimensional array of floats, got {value.dtype} of shape "
                f"{list(value.shape)}"
            )
        rows = value
    else:
        if not isinstance(value, list) or not value:
            got = "an empty list" if value == [] else named(value)
            raise InvalidInputError(f"expected a non-empty list of rows of numbers, got {got}")
        _bound(len(value), most_rows, "rows", settings[0])
        if coded:
            value = [_decode_row(row, f"/{i}") for i, row in enumerate(value)]
        rows = _stack(value)
    if 0 in rows.shape:
        raise InvalidInputError(f"expected rows of numbers, got shape {list(rows.shape)}")
    _bound(rows.shape[0], most_rows, "rows", settings[0])
    _bound(rows.shape[1], most_width, "numbers in a row", settings[1])
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


def vector(value: Any, most: int) -> Floats:
    """One row of finite numbers as a (d,) float32 array; refuses what `vectors` refuses."""
    row = value[None] if isinstance(value, np.ndarray) and value.ndim == 1 else [value]
    try:
        rows: Floats = vectors(
            row, coded=False, most_rows=1, most_width=most, settings=("", "max_rows")
        )
        found: Floats = rows[0]
        return found
    except InvalidInputError as error:
        error.pointer = (error.pointer or "").removeprefix("/0")
        raise


def image_bytes(value: str, pointer: str) -> bytes:
    """The bytes of a base64 string.

    Raises:
        InvalidInputError: If it is not base64.
    """
    try:
        return b64decode(value, validate=True)
    except ValueError as error:
        raise InvalidInputError("expected the base64 of an image file", pointer=pointer) from error


def _stack(rows: list[Any]) -> NDArray[Any]:
    if isinstance(rows[0], np.ndarray):
        widths = {len(row) for row in rows}
        if len(widths) == 1:
            return np.stack(rows)
    elif all(type(row) is list for row in rows) and len({len(row) for row in rows}) == 1:
        # Types are checked here since numpy takes null, true and "1.5" for numbers.
        kinds: set[type] = set()
        for row in rows:
            kinds.update(map(type, row))
        if kinds <= {float, int}:
            try:
                return np.array(rows, dtype=np.float64)
            except OverflowError:
                pass
    raise _first_fault(rows)


def _first_fault(rows: list[Any]) -> InvalidInputError:
    width = len(rows[0]) if isinstance(rows[0], list | np.ndarray) else None
    for i, row in enumerate(rows):
        if not isinstance(row, list | np.ndarray):
            return InvalidInputError(
                f"expected a row of numbers, got {named(row)}", pointer=f"/{i}"
            )
        if len(row) != width:
            return InvalidInputError(
                f"expected {width} numbers as in the first row, got {len(row)}",
                pointer=f"/{i}",
                code=ErrorCode.RAGGED_ROWS,
            )
        for j, number in enumerate(row if isinstance(row, list) else ()):
            if type(number) not in (float, int) or abs(number) > 1e300:
                return InvalidInputError(
                    f"expected a finite number, got {_unheld(number)}", pointer=f"/{i}/{j}"
                )
    return InvalidInputError("expected rows of finite numbers")


def named(value: Any) -> str:
    """What a JSON value is, for a message."""
    names = {
        type(None): "null",
        bool: "a boolean",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "a number")


def _bound(count: int, most: int, what: str, setting: str) -> None:
    if count > most:
        raise InputTooLargeError(f"expected at most {most} {what} ({setting}), got {count}")


def _decode_row(value: Any, pointer: str) -> Floats:
    if not isinstance(value, str):
        raise InvalidInputError(f"expected a base64 string, got {named(value)}", pointer=pointer)
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


def _unheld(value: Any) -> str:
    found = named(value)
    return "a number that float32 cannot hold" if found == "a number" else found
