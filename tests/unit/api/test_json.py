"""JSON parsing: rows, bounds on depth and values, duplicate keys, NaN and lone surrogates."""

import json as standard
import math
import tracemalloc
from dataclasses import replace
from typing import Any

import annotated_types
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stitchwork.api.content.json import check_value_count, parse, parse_object
from stitchwork.errors import ErrorCode, InputTooLargeError, InvalidInputError, MalformedInputError
from stitchwork.settings import Settings
from tests.support.request_limits import LIMITS

DEEP = replace(LIMITS, max_json_depth=200)
TEXTS = st.text('ab:"\\{}[], \n', max_size=6)
"""Strings that look like the syntax around them."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (b'{"a": 1, "a": 2}', "a"),
        (b'{"a" : 1, "a"\n:2}', "a"),
        (b'{"a": 1, "\\u0061": 2}', "a"),
        (b'{"x": {"b": 1, "b": 1}, "y": 1}', "b"),
        (b'{"x": [{"b": 1}, {"b": 1, "b": 2}]}', "b"),
        (b'{"x": [1, [{"b": 1, "b": 2}]]}', "b"),
        (b'{"text": "a: b", "a": 1, "a": 2}', "a"),
        (b'{"\\\\": 1, "\\\\": 2}', "\\\\"),
        (b'{"":1,"":2}', "''"),
        (b'{"\\ud800": NaN, "\\ud800": 2}', "ud800"),
        (b'{"a":' * 190 + b'{"b":1,"b":2}' + b"}" * 190, "b"),
    ],
)
def test_parse_object_with_duplicate_key_names_the_key(data: bytes, key: str) -> None:
    with pytest.raises(MalformedInputError, match="expected unique keys") as raised:
        parse_object(data, DEEP)
    assert key in raised.value.message
    assert raised.value.code == ErrorCode.DUPLICATE_KEY


def test_parse_object_with_duplicate_key_names_the_place() -> None:
    with pytest.raises(MalformedInputError, match="got 'a' twice at line 2 column 5"):
        parse_object(b'{"a": 1,\n"a": 2}', LIMITS)


def test_parse_object_with_long_duplicate_key_shortens_it_in_the_message() -> None:
    key = b'"' + b"k" * 100_000 + b'"'
    with pytest.raises(MalformedInputError) as raised:
        parse_object(b"{" + key + b":1," + key + b":2}", LIMITS)
    assert len(raised.value.message) < 200


@given(st.dictionaries(TEXTS, VALUES), st.booleans())
def test_parse_object_returns_what_was_serialized(value: dict[str, Any], indented: bool) -> None:
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indented else 0)
    assert parse_object(data, LIMITS) == value


@given(st.dictionaries(TEXTS, VALUES, min_size=1), st.data())
def test_parse_object_with_any_key_repeated_is_refused(
    value: dict[str, Any], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    text = orjson.dumps(value)[:-1] + b"," + orjson.dumps({key: 1})[1:]
    with pytest.raises(MalformedInputError) as raised:
        parse_object(text, LIMITS)
    assert raised.value.code == ErrorCode.DUPLICATE_KEY


@given(VALUES.filter(lambda value: isinstance(value, list | dict)), st.booleans())
def test_parse_depth_is_bounded_by_levels_of_lists_and_objects(
    value: Any, ascii_only: bool
) -> None:
    data = standard.dumps(value, ensure_ascii=ascii_only).encode()
    depth = levels(value)
    assert parse(data, replace(LIMITS, max_json_depth=depth)) == value
    with pytest.raises(InvalidInputError, match=rf"at most {depth - 1} levels .*, got {depth}$"):
        parse(data, replace(LIMITS, max_json_depth=depth - 1))


def levels(value: Any) -> int:
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(levels, inner), default=0)
    return 0


def test_parse_accepts_the_highest_depth_that_can_be_configured() -> None:
    """The parser has a fixed limit of its own."""
    (highest,) = (
        bound.le
        for bound in Settings.model_fields["max_json_depth"].metadata
        if isinstance(bound, annotated_types.Le)
    )
    assert isinstance(highest, int)
    limits = replace(LIMITS, max_json_depth=highest)
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        document = opening * highest + b"1" + closing * highest
        assert levels(parse(document, limits)) == highest


@pytest.mark.parametrize("depth", [65, 5000, 1_000_000])
def test_parse_of_deep_nesting_is_refused_whether_or_not_it_ends(depth: int) -> None:
    for data in (b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth):
        with pytest.raises(InvalidInputError, match=rf"\(max_json_depth\), got {depth}$") as raised:
            parse(data, LIMITS)
        assert raised.value.code == ErrorCode.NESTING_TOO_DEEP


@pytest.mark.parametrize("value", [b"[]", b"{}", b"0"])
def test_parse_object_with_too_many_values_is_refused_before_they_are_built(value: bytes) -> None:
    limits = replace(LIMITS, max_json_values=1000)
    data = b'{"a":[' + b",".join([value] * 200_000) + b"]}"
    tracemalloc.start()
    try:
        for rows in (None, "a"):
            with pytest.raises(InputTooLargeError, match=r"at most 1000 values \(max_json_values"):
                parse_object(data, limits, array_field=rows)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_check_value_count_ignores_commas_in_texts_of_short_documents() -> None:
    limits = replace(LIMITS, max_json_values=1000)
    text = b"," * 900
    check_value_count(b'["' + text + b'"]', limits)
    with pytest.raises(InputTooLargeError, match="at most 1000 values"):
        check_value_count(b"[1" + b",1" * 1000 + b"]", limits)


def test_parse_object_leaves_nan_and_infinity_to_validation() -> None:
    value = parse_object(b'{"a": [NaN, Infinity, -Infinity, 1e400]}', LIMITS)["a"]
    assert math.isnan(value[0])
    assert value[1:] == [math.inf, -math.inf, math.inf]


def test_parse_object_leaves_lone_surrogates_to_validation() -> None:
    assert parse_object(b'{"a": "\\ud800", "b": "\\ud83d\\ude00"}', LIMITS) == {
        "a": "\ud800",
        "b": "😀",
    }


@pytest.mark.parametrize("text", [b"NaN", b"-Infinity", b'"\\ud800"'])
def test_strict_parse_refuses_what_is_not_portable_json(text: bytes) -> None:
    with pytest.raises(MalformedInputError, match=r"expected JSON: .* at line 1 column \d+"):
        parse(text, LIMITS, strict=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a":1,}',
        b'{"a":01}',
        b'{"a":nan}',
        b'{"a":"\x00"}',
        b'{"a":"\xff"}',
        b'{"a":"\\u12"}',
        b'{"a":"\\ud800"',
        b"{'a':1}",
        b"{} {}",
        b'{"a":1}\x00',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b'{"a":' + b"1" * 5000 + b"}",
    ],
)
def test_parse_of_malformed_json_names_the_place(data: bytes) -> None:
    with pytest.raises(MalformedInputError, match=r"expected JSON: .* at line \d+ column \d+") as e:
        parse(data, LIMITS)
    assert e.value.code == ErrorCode.MALFORMED_INPUT


@pytest.mark.parametrize(
    ("data", "got"),
    [(b"[1]", "a list"), (b"5", "a number"), (b"null", "null"), (b'"a"', "a string")],
)
def test_parse_object_of_another_type_is_refused(data: bytes, got: str) -> None:
    with pytest.raises(InvalidInputError, match=f"expected a JSON object, got {got}"):
        parse_object(data, LIMITS)


def test_rows_are_parsed_into_an_array() -> None:
    data = b'{"source": "x", "top": 3, "rows": [[1, 2.5], [-3, 4e2]], "on": true}'
    value = parse_object(data, LIMITS, array_field="rows")
    rows = value.pop("rows")
    assert isinstance(rows, np.ndarray)
    assert rows.dtype == np.float64
    np.testing.assert_array_equal(rows, [[1, 2.5], [-3, 400]])
    assert value == {"source": "x", "top": 3, "on": True}


@pytest.mark.parametrize(
    "text",
    [
        '{"rows": [[1, true]]}',
        '{"rows": [[1, null]]}',
        '{"rows": [[1, "2"]]}',
        '{"rows": [[1], [2, 3]]}',
        '{"rows": [[1, [2, 3], []]]}',
        '{"rows": [[[1, 2], []]]}',
        '{"rows": [1, 2]}',
        '{"rows": []}',
        '{"rows": "abc"}',
        '{"rows": [[1e400]]}',
    ],
)
def test_rows_that_no_array_can_hold_are_parsed_to_lists(text: str) -> None:
    assert parse_object(text.encode(), LIMITS, array_field="rows") == standard.loads(text)


def test_rows_with_nan_are_parsed_to_lists() -> None:
    ((number,),) = parse_object(b'{"rows": [[NaN]]}', LIMITS, array_field="rows")["rows"]
    assert math.isnan(number)


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        ('{"rows": [[1]], "rows": [[2]]}', MalformedInputError, ErrorCode.DUPLICATE_KEY),
        ('{"rows": [[1]], "a": {"b": 1, "b": 2}}', MalformedInputError, ErrorCode.DUPLICATE_KEY),
        ('{"rows": [[1]], "a": 1, "\\u0061": 2}', MalformedInputError, ErrorCode.DUPLICATE_KEY),
        ('{"rows": [[1]]', MalformedInputError, ErrorCode.MALFORMED_INPUT),
        ("[[1]]", InvalidInputError, ErrorCode.INVALID_INPUT),
        ("3", InvalidInputError, ErrorCode.INVALID_INPUT),
        ("", MalformedInputError, ErrorCode.MALFORMED_INPUT),
        ("[" * 5000, InvalidInputError, ErrorCode.NESTING_TOO_DEEP),
        (
            '{"rows": [[1]], "a": ' + "[" * 64 + "]" * 64 + "}",
            InvalidInputError,
            ErrorCode.NESTING_TOO_DEEP,
        ),
    ],
)
def test_rows_in_a_bad_document_are_refused_like_any_other(
    text: str, error: type[InvalidInputError], code: ErrorCode
) -> None:
    with pytest.raises(error) as raised:
        parse_object(text.encode(), LIMITS, array_field="rows")
    assert raised.value.code == code


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(
                st.floats(width=32, allow_nan=False, allow_infinity=False),
                min_size=width,
                max_size=width,
            ),
            min_size=1,
            max_size=4,
        )
    )
)
def test_rows_keep_every_bit(rows: list[list[float]]) -> None:
    value = parse_object(f'{{"rows": {rows}}}'.encode(), LIMITS, array_field="rows")
    assert isinstance(value["rows"], np.ndarray)
    np.testing.assert_array_equal(value["rows"], rows)
