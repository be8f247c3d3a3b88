"""Payloads as JSON: what it has no place for is refused by name."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Final

import orjson

from stitchwork.errors import InvalidInputError
from stitchwork.migration.store import Id, Record

OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY
MIN_INTEGER: Final = -(1 << 63)
MAX_INTEGER: Final = (1 << 64) - 1
"""Integers that orjson writes."""


def to_json(fields: Mapping[str, Any], store: str, id_: Id) -> bytes:
    """The fields of a row as an object of JSON.

    Dates, times, decimals of columns and UUIDs become texts. Numbers of JSON remain as they are.

    Args:
        fields: The fields.
        store: The target, in messages.
        id_: The row, in messages.

    Raises:
        InvalidInputError: If a value is none of JSON, such as bytes or NaN; the message names its
            field.
    """
    return _dumps(fields, store, id_, _to_json)


def to_fields(fields: Mapping[str, Any], store: str, id_: Id) -> tuple[Record, int]:
    """The fields of a row as JSON has them, with floats for numbers that are no integers.

    Args:
        fields: The fields.
        store: The target, in messages.
        id_: The row, in messages.

    Returns:
        The fields, and how many numbers were rounded.

    Raises:
        InvalidInputError: If a value is none of JSON, or beyond the range of floats.
    """
    rounded = 0

    def to_float(value: object) -> Any:
        nonlocal rounded
        if not isinstance(value, JsonNumber):
            return _to_text(value)
        if not math.isfinite(number := float(value)):
            raise TypeError(f"{value}, beyond the range of floats")
        rounded += 1
        return number

    record: Record = orjson.loads(_dumps(fields, store, id_, to_float))
    return record, rounded


def _dumps(
    fields: Mapping[str, Any], store: str, id_: Id, default: Callable[[object], Any]
) -> bytes:
    try:
        data = orjson.dumps(fields, default=default, option=OPTIONS)
        # NaN and infinities are written as null, so that there are none without it.
        if b"null" not in data or _is_finite(fields):
            return data
    except orjson.JSONEncodeError:
        pass
    for name, value in fields.items():
        try:
            orjson.dumps(value, default=default, option=OPTIONS)
            reason = "" if _is_finite(value) else "a number that is not finite"
        except orjson.JSONEncodeError as error:
            reason = str(error.__cause__ or error)
        if reason:
            raise InvalidInputError(
                f"{store}: row {id_} has in the field {name} what JSON has no place for: {reason}"
            )
    raise InvalidInputError(f"{store}: row {id_} has names of fields that are no texts")


def from_json(data: bytes) -> Any:
    """A value of JSON, which may contain NaN and infinities as Python's json writes them.

    Raises:
        ValueError: If it is no JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if b"NaN" in data or b"Infinity" in data:
            return json.loads(data)
        raise


class JsonNumber(Decimal):
    """A number of JSON that a float would round; a decimal of a column is none."""


def exact_number(text: str) -> float | JsonNumber:
    """A number of JSON as a float or, where that would round it, as a decimal."""
    number, decimal = float(text), JsonNumber(text)
    return number if Decimal(repr(number)) == decimal else decimal


def exact_fields(data: bytes, names: Iterable[str]) -> dict[str, Any]:
    """Some fields of an object of JSON, with numbers as they are, and not as floats round them.

    Args:
        data: The object.
        names: The fields.
    """
    # Numbers of other fields, such as vectors, are not looked at.
    fields = json.loads(data, parse_float=_Digits)
    return {name: _exact(fields[name]) for name in names}


def encode_json(value: Any) -> bytes:
    """A value of `decode_json` as JSON, with exact numbers, NaN and integers of any size."""
    return orjson.dumps(_to_fragments(value))


def decode_json(data: bytes | str) -> Any:
    """A value of JSON, with numbers as they are, and not as floats round them."""
    return json.loads(data, parse_float=exact_number)


def has_floats(value: Any) -> bool:
    """Whether a value has a float, at any depth."""
    if isinstance(value, dict):
        return any(map(has_floats, value.values()))
    return any(map(has_floats, value)) if isinstance(value, list) else isinstance(value, float)


class _Digits(str):
    """The text of a number that is no integer."""

    __slots__ = ()


def _exact(value: Any) -> Any:
    if isinstance(value, _Digits):
        return exact_number(value)
    if isinstance(value, dict):
        return {name: _exact(item) for name, item in value.items()}
    return list(map(_exact, value)) if isinstance(value, list) else value


def _to_fragments(value: Any) -> Any:
    """A value of JSON with the text of each number that orjson would change or refuse."""
    if isinstance(value, dict):
        return {name: _to_fragments(item) for name, item in value.items()}
    if isinstance(value, list):
        return list(map(_to_fragments, value))
    if isinstance(value, JsonNumber):
        return orjson.Fragment(str(value))
    is_special = isinstance(value, float) and not math.isfinite(value)
    is_large = isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER
    return orjson.Fragment(json.dumps(value)) if is_special or is_large else value


def _to_json(value: object) -> Any:
    return orjson.Fragment(str(value)) if isinstance(value, JsonNumber) else _to_text(value)


def _to_text(value: object) -> str:
    if isinstance(value, date | time):
        # Of a library; a datetime is a date.
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{len(value)} bytes of binary data")
    raise TypeError(f"a value of the type {type(value).__name__}")


def _is_finite(value: Any) -> bool:
    """Whether a value has only finite numbers, at any depth."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_is_finite, value))
