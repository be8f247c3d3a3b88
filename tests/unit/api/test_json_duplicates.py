"""Duplicate keys are found wherever they stand, and nothing else is taken for one."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stitchwork.api.content.json_duplicates import refuse
from stitchwork.errors import MalformedInputError


@pytest.mark.parametrize(
    ("data", "name"),
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
        (b'{"a":' * 900 + b'{"b":1,"b":2}' + b"}" * 900, "b"),
    ],
)
def test_a_key_that_stands_twice_is_refused(data: bytes, name: str) -> None:
    with pytest.raises(MalformedInputError, match="stands twice") as refused:
        refuse(data, json.loads(data))
    assert name in refused.value.message
    assert refused.value.code == "duplicate-key"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a:"\\{} \n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('a:"\\{}', max_size=4), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text('ab:"\\{}', max_size=4), VALUES), st.booleans())
def test_what_was_written_from_a_dictionary_passes(value: dict[str, object], spaced: bool) -> None:
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 if spaced else 0)
    refuse(data, value)


@given(st.dictionaries(st.text('ab:"\\{}', max_size=4), VALUES, min_size=1), st.data())
def test_any_key_written_again_is_found(value: dict[str, object], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    text = orjson.dumps(value)[:-1] + b"," + orjson.dumps({key: 1})[1:]
    with pytest.raises(MalformedInputError):
        refuse(text, orjson.loads(text))
