"""What a field of a request or a setting expected, in words, from an error of pydantic."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

MAX_CHARS: Final = 80
"""Characters of a value that a message repeats."""

_EXPECTED: Final = {
    "missing": "a value",
    "string_type": "a string",
    "string_sub_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "iterable_type": "a list",
    "dict_type": "an object",
    "mapping_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "none_required": "null",
    "string_unicode": "a string of valid Unicode",
    "string_pattern_mismatch": "a string that matches {pattern}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "enum": "{expected}",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
    "union_tag_not_found": "a value",
}
"""What a value should have been, by the type of pydantic's error."""
_LENGTHS: Final = {
    "string_too_short": ("a character", "characters"),
    "string_too_long": ("a character", "characters"),
    "too_short": ("a value", "values"),
    "too_long": ("a value", "values"),
}


def describe(value: Any) -> str:
    """A value of JSON or of a setting, for a message: short ones as they are, others by type."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return repr(value[:MAX_CHARS])
        case bytes():
            return f"{len(value)} bytes"
        case int() | float():
            return str(value)[:MAX_CHARS]
        case list() | tuple():
            return "a list" if value else "an empty list"
        case Mapping():
            return "an object" if value else "an empty object"
    shape = getattr(value, "shape", None)
    return f"an array of shape {list(shape)}" if shape is not None else type(value).__name__


def expected(fault: Mapping[str, Any]) -> str:
    """What the value of an error should have been; empty for an error with a message of its own."""
    context = fault.get("ctx", {})
    template = _EXPECTED.get(fault["type"], "")
    if fault["type"] == "literal_error" and context["expected"] in ("True", "False"):
        return str(context["expected"]).lower()
    # Bounds of integers may come as floats.
    return template.format(
        **{
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in context.items()
        }
    )


def sentence(faults: Iterable[Mapping[str, Any]]) -> str:
    """What one value should have been, and what came.

    Args:
        faults: Errors of the same value: one for each type that it may have.
    """
    faults = list(faults)
    first = faults[0]
    alternatives = list(dict.fromkeys(filter(None, map(expected, faults))))
    if not alternatives:
        return str(first["msg"]).removeprefix("Value error, ")
    wanted = " or ".join(alternatives)
    return f"expected {wanted}, got {_got(first)}"


def _got(fault: Mapping[str, Any]) -> str:
    value, context = fault["input"], fault.get("ctx", {})
    if fault["type"] in ("missing", "union_tag_not_found"):
        return "none"
    if fault["type"] in _LENGTHS:
        one, many = _LENGTHS[fault["type"]]
        count = context.get("actual_length") or len(value)
        return "none" if not count else one if count == 1 else f"{count} {many}"
    if fault["type"] == "union_tag_invalid":
        return repr(str(context["tag"])[:MAX_CHARS])
    return describe(value)
