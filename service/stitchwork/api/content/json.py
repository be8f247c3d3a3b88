"""JSON parsing with bounds on depth and number of values, and no duplicate keys.

There are two parsers: jiter for documents, and simdjson for rows of numbers, which `json_rows` cuts
out of them. jiter can bound neither the depth at a configured level (its limit is fixed at 200
levels) nor the number of values, so both are checked on the bytes, before any object is built.
"""

import json
import re
from collections import Counter
from typing import Any, Final

import jiter
import numpy as np

from stitchwork.api.content.json_rows import find_rows, parse_rows
from stitchwork.api.content.validation import json_type
from stitchwork.api.limits import RequestLimits
from stitchwork.errors import ErrorCode, InputTooLargeError, InvalidInputError, MalformedInputError

_QUOTE: Final = ord('"')
_NOT_STRUCTURAL: Final = bytes(set(range(256)) - set(b'[]{}"'))
_DEPTH_CHANGES: Final = np.zeros(256, np.int8)
_DEPTH_CHANGES[list(b"[{")] = 1
_DEPTH_CHANGES[list(b"]}")] = -1
_DUPLICATE: Final = re.compile(r'Detected duplicate key "(.*)" at (line \d+ column \d+)', re.DOTALL)
_MAX_KEY: Final = 80
"""Characters of a key that a message repeats."""


def parse_object(
    data: bytes, limits: RequestLimits, *, array_field: str | None = None
) -> dict[str, Any]:
    """Parse the JSON object of a request.

    NaN and Infinity are parsed to floats, so that validation can name the place of each.

    Args:
        data: A JSON document.
        limits: Bounds on its depth and number of values.
        array_field: Field that may hold rows of numbers; if it holds nothing else, it is then an
            (n, d) float64 array.

    Raises:
        MalformedInputError: If it is not JSON, or an object has a duplicate key.
        InputTooLargeError: If it has more than `max_json_values` values.
        InvalidInputError: If it is nested deeper than `max_json_depth`, or is not an object.
    """
    check_value_count(data, limits)
    with_rows = _parse_with_rows(data, limits, array_field) if array_field else None
    if with_rows is not None:
        return with_rows
    value = parse(data, limits)
    if not isinstance(value, dict):
        raise InvalidInputError(f"expected a JSON object, got {json_type(value)}", pointer="")
    return value


def parse_object_with_rows(
    data: bytes, limits: RequestLimits, array_field: str, max_rest: int
) -> dict[str, Any] | None:
    """Parse the JSON object of a request that has rows of numbers.

    No call holds the interpreter's lock for long, however long the rows are.

    Args:
        data: A JSON document.
        limits: Bounds on its depth and number of values.
        array_field: Field that may hold the rows.
        max_rest: Maximum bytes beside the rows.

    Returns:
        The object, with the rows as an (n, d) float64 array; None if it has more beside them, or if
        it is anything else, of which `parse_object` knows what is wrong.

    Raises:
        InputTooLargeError: If it has more than `max_json_values` values.
    """
    check_value_count(data, limits)
    return _parse_with_rows(data, limits, array_field, max_rest)


def parse(data: bytes, limits: RequestLimits, *, strict: bool = False) -> Any:
    """Parse a JSON document of bounded depth.

    Args:
        data: A JSON document.
        limits: Bound on its depth.
        strict: Refuse NaN, Infinity and lone surrogates here; otherwise validation reports their
            place.

    Raises:
        MalformedInputError: If it is not JSON, or an object has a duplicate key.
        InvalidInputError: If it is nested deeper than `max_json_depth`.
    """
    _check_depth(data, limits.max_json_depth)
    try:
        # Only keys are cached: texts of requests do not outlive them.
        return jiter.from_json(
            data, allow_inf_nan=not strict, catch_duplicate_keys=True, cache_mode="keys"
        )
    except ValueError as error:
        if duplicate := _DUPLICATE.match(str(error)):
            raise _duplicate_key(duplicate[1], f" at {duplicate[2]}") from error
        if strict or b"\\u" not in data:
            raise MalformedInputError(f"expected JSON: {error}") from error
        return _parse_lone_surrogates(data, error)


def check_value_count(data: bytes, limits: RequestLimits) -> None:
    """Refuse JSON that takes far more memory as values than as bytes, e.g. a million empty lists.

    Each value but the first follows a comma, a bracket or a brace. Those in strings are counted
    too, but only where there are more bytes than values are allowed.

    Raises:
        InputTooLargeError: If it has more than `max_json_values` values.
    """
    max_values = limits.max_json_values
    if len(data) > max_values and sum(map(data.count, (b",", b"[", b"{"))) > max_values:
        raise InputTooLargeError(
            f"expected JSON of at most {max_values} values (max_json_values); send arrays as "
            "safetensors or .npy"
        )


def _parse_with_rows(
    data: bytes, limits: RequestLimits, array_field: str, max_rest: int | None = None
) -> dict[str, Any] | None:
    text = find_rows(data, array_field)
    if text is None or (max_rest is not None and len(text.rest) > max_rest):
        return None
    try:
        # The rows themselves are the second and third level.
        fields = parse(text.rest, limits)
    except InvalidInputError:
        return None
    rows = parse_rows(data, text.start, text.end) if isinstance(fields, dict) else None
    return None if rows is None else {**fields, array_field: rows}


def _check_depth(data: bytes, max_depth: int) -> None:
    if not _has_more_brackets(data, max_depth):
        return
    depth = _depth(data)
    if depth > max_depth:
        raise InvalidInputError(
            f"expected JSON of at most {max_depth} levels (max_json_depth), got {depth}",
            code=ErrorCode.NESTING_TOO_DEEP,
        )


def _has_more_brackets(data: bytes, count: int) -> bool:
    """Whether more lists and objects begin, those in strings included.

    A search is several times as fast as a count, and ends early where there are many.
    """
    opened = 0
    for bracket in (b"[", b"{"):
        position = data.find(bracket)
        while position >= 0:
            opened += 1
            if opened > count:
                return True
            position = data.find(bracket, position + 1)
    return False


def _depth(data: bytes) -> int:
    """The levels of lists and objects of a JSON document; brackets in strings do not count."""
    if b'\\"' in data:
        # Escaped backslashes first, so that a quote after an even number of them ends its string.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    structural = np.frombuffer(data.translate(None, _NOT_STRUCTURAL), np.uint8)
    in_string = np.logical_xor.accumulate(structural == _QUOTE)
    changes = _DEPTH_CHANGES[structural]
    changes[in_string] = 0
    return int(np.cumsum(changes, dtype=np.int32).max(initial=0))


def _parse_lone_surrogates(data: bytes, error: ValueError) -> Any:
    r"""Parse with the standard library what jiter refused, maybe for a text such as "\ud800".

    Lone surrogates are valid JSON but not valid Unicode, which validation reports with its place.
    """
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique)
    except ValueError:
        raise MalformedInputError(f"expected JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        # Escaped: a lone surrogate could not be sent in the message.
        raise _duplicate_key(repr(key)[1:-1])
    return value


def _duplicate_key(key: str, place: str = "") -> MalformedInputError:
    return MalformedInputError(
        f"expected unique keys in a JSON object, got '{key[:_MAX_KEY]}' twice{place}",
        code=ErrorCode.DUPLICATE_KEY,
    )
