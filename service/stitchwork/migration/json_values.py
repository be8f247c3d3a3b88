"""Payloads as JSON: what it has no place for is refused by name."""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import orjson

from stitchwork.errors import InvalidInputError
from stitchwork.migration.store import Id

OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def to_json(fields: Mapping[str, Any], store: str, id_: Id) -> bytes:
    """The fields of a row as an object of JSON.

    Dates, times, decimals and UUIDs become texts.

    Args:
        fields: The fields.
        store: The target, in messages.
        id_: The row, in messages.

    Raises:
        InvalidInputError: If a value is none of JSON, such as bytes or NaN; the message names its
            field.
    """
    try:
        data = orjson.dumps(fields, default=_to_text, option=OPTIONS)
        # NaN and infinities are written as null, so that there are none without it.
        if b"null" not in data or _is_finite(fields):
            return data
    except orjson.JSONEncodeError:
        pass
    for name, value in fields.items():
        try:
            orjson.dumps(value, default=_to_text, option=OPTIONS)
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


def exact_number(text: str) -> float | Decimal:
    """A number of JSON as a float or, where that would round it, as a decimal."""
    number, decimal = float(text), Decimal(text)
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
