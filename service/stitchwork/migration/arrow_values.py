"""Values of Arrow columns as values of Python."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from stitchwork.errors import InvalidInputError

Types = Callable[[Any], Any]


def python_values(column: Any, name: str) -> list[Any]:
    """The values of a column as Python has them.

    Times of nanoseconds, at any depth, become those of microseconds or, where these lack what they
    have, texts; durations numbers of nanoseconds.

    Args:
        column: A chunked array.
        name: The column, in messages.

    Raises:
        InvalidInputError: If Python has no values of the type, or not of these.
    """
    try:
        if has_nanoseconds(column.type):
            column = _without_nanoseconds(column)
        values: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError, ArithmeticError) as error:
        raise InvalidInputError(
            f"the column {name} of the type {column.type} has values that other kinds of stores "
            f"have no place for: {error}"
        ) from error
    return values


def has_nanoseconds(type_: Any) -> bool:
    """Whether values of a type have nanoseconds, at any depth."""
    return bool(replace_types(type_, lambda leaf: pa.null() if _is_fine(leaf) else leaf) != type_)


def replace_types(type_: Any, replace: Types) -> Any:
    """A type with its innermost types replaced."""
    types = pa.types
    if types.is_struct(type_):
        return pa.struct([field.with_type(replace_types(field.type, replace)) for field in type_])
    if types.is_map(type_):
        key, item = (
            field.with_type(replace_types(field.type, replace))
            for field in (type_.key_field, type_.item_field)
        )
        return pa.map_(key, item, type_.keys_sorted)
    if types.is_fixed_size_list(type_):
        return pa.list_(_value_field(type_, replace), type_.list_size)
    if types.is_large_list(type_):
        return pa.large_list(_value_field(type_, replace))
    if types.is_list(type_):
        return pa.list_(_value_field(type_, replace))
    if types.is_dictionary(type_):
        value = replace_types(type_.value_type, replace)
        return type_ if value == type_.value_type else value
    return replace(type_)


def _value_field(type_: Any, replace: Types) -> Any:
    return type_.value_field.with_type(replace_types(type_.value_type, replace))


def _is_fine(type_: Any) -> bool:
    types = pa.types
    has_unit = types.is_timestamp(type_) or types.is_duration(type_) or types.is_time64(type_)
    return bool(has_unit) and type_.unit == "ns"


def _without_nanoseconds(column: Any) -> Any:
    try:
        return column.cast(replace_types(column.type, _coarse))
    except pa.ArrowInvalid:
        return column.cast(replace_types(column.type, _exact))


def _coarse(type_: Any) -> Any:
    if not _is_fine(type_):
        return type_
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us", type_.tz)
    return pa.duration("us") if pa.types.is_duration(type_) else pa.time64("us")


def _exact(type_: Any) -> Any:
    if not _is_fine(type_):
        return type_
    return pa.int64() if pa.types.is_duration(type_) else pa.string()
