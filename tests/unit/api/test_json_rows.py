"""Rows of numbers in JSON: found wherever they are, parsed as any other JSON, refused as such."""

import asyncio
import json as standard
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from stitchwork.api.content.body_parser import LONG_ROWS, LONG_TEXT, BodyParser
from stitchwork.api.content.json import parse_object, parse_object_with_rows
from stitchwork.api.content.json_rows import (
    MAX_SLICE_BYTES,
    SLICE_BYTES,
    find_rows,
    parse_rows,
)
from stitchwork.api.content.negotiation import read_body
from stitchwork.api.executors import ProcessExecutor, row_threads
from stitchwork.api.schemas.inference_requests import TranslateRequest
from stitchwork.errors import ErrorCode, InvalidInputError, MalformedInputError
from stitchwork.processes.pool import ProcessPool
from tests.support.request_limits import LIMITS

WIDE = replace(LIMITS, max_rows=1 << 16, max_width=1 << 16)
ROWS = np.random.default_rng(0).standard_normal((1500, 8))
"""Several slices of text."""
TEXT = standard.dumps({"source": "x", "ids": ["a", "b"], "rows": ROWS.tolist(), "top": {"n": 3}})


def rows_of(text: str, name: str = "rows") -> Any:
    data = text.encode()
    text_rows = find_rows(data, name)
    return None if text_rows is None else parse_rows(data, text_rows.start, text_rows.end)


def test_rows_of_several_slices_keep_every_bit() -> None:
    assert len(TEXT) > 3 * SLICE_BYTES
    value = parse_object(TEXT.encode(), LIMITS, array_field="rows")
    rows = value.pop("rows")
    assert isinstance(rows, np.ndarray)
    np.testing.assert_array_equal(rows, ROWS)
    assert value == {"source": "x", "ids": ["a", "b"], "top": {"n": 3}}


@pytest.mark.parametrize("indent", [None, 1, 4])
def test_rows_in_indented_json_become_an_array(indent: int | None) -> None:
    rows = rows_of(standard.dumps(standard.loads(TEXT), indent=indent))
    np.testing.assert_array_equal(rows, ROWS)


@given(
    st.integers(0, len(TEXT)),
    st.integers(0, 2),
    st.sampled_from(["", "[", "]", "],[", "],", ",", "{", "}", '"', "1", "-", ".", "e", " ", "\\"]),
)
def test_rows_in_a_changed_document_are_what_the_document_says(
    place: int, removed: int, added: str
) -> None:
    """One change anywhere gives the same value as for any other parser, or is refused."""
    text = TEXT[:place] + added + TEXT[place + removed :]
    try:
        expected = standard.loads(text)
    except ValueError:
        with pytest.raises(MalformedInputError):
            parse_object(text.encode(), LIMITS, array_field="rows")
        return
    value = parse_object(text.encode(), LIMITS, array_field="rows")
    value = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in value.items()}
    assert value == expected


@pytest.mark.parametrize(
    "text",
    [
        r'{"text": "\"rows\":[[1]] ", "rows": null}',
        '{"a": {"rows": [[1]]}, "rows": null}',
        '{"a": [{"rows": [[1]]}], "rows": null}',
        '{"name": "rows", "other": [[1]]}',
        '{"rows": [[1], [2, 3]]}',
        '{"rows": [[1, [2]], [3, [4]]]}',
        '{"rows": [[[1]]]}',
        '{"rows": [1, 2]}',
        '{"rows": []}',
        '{"rows": [[1, "2"]]}',
        '{"rows": [[1, null]]}',
        '{"rows": [[1], {"a": 2}]}',
        '{"rows": [[18446744073709551616]]}',
    ],
)
def test_what_is_not_rows_of_numbers_is_left_to_the_parser_of_documents(text: str) -> None:
    assert parse_object_with_rows(text.encode(), LIMITS, "rows", LONG_TEXT) is None
    assert parse_object(text.encode(), LIMITS, array_field="rows") == standard.loads(text)


@pytest.mark.parametrize("count", [SLICE_BYTES // 4, SLICE_BYTES])
def test_rows_of_another_length_in_a_later_slice_are_no_array(count: int) -> None:
    assert rows_of('{"rows": [%s[2]]}' % ("[1]," * count)) is not None
    assert rows_of('{"rows": [%s[2,3]]}' % ("[1]," * count)) is None
    assert rows_of('{"rows": [%s[2],]}' % ("[1]," * count)) is None
    assert rows_of('{"rows": [%s,[2]]}' % ("[1]," * count)) is None
    assert rows_of('{"rows": [%s1,[2]]}' % ("[1]," * count)) is None


def test_row_that_would_hold_the_lock_for_long_is_left_to_the_parser_of_documents() -> None:
    for count, is_array in ((MAX_SLICE_BYTES // 2 - 1, True), (MAX_SLICE_BYTES // 2 + 1, False)):
        assert (rows_of(standard.dumps({"rows": [[1] * count]}).replace(" ", "")) is not None) == (
            is_array
        )


def test_rows_beside_more_text_than_allowed_are_not_parsed() -> None:
    text = b'{"rows": [[1]], "text": "%s"}' % (b"x" * 1000)
    assert parse_object_with_rows(text, LIMITS, "rows", 1100) is not None
    assert parse_object_with_rows(text, LIMITS, "rows", 1000) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (TEXT[:-1] + ', "rows": [[1]]}', ErrorCode.DUPLICATE_KEY),
        (TEXT[:-1] + r', "\u0072ows": null}', ErrorCode.DUPLICATE_KEY),
        (TEXT[:-1] + ', "a": {"b": 1, "b": 2}}', ErrorCode.DUPLICATE_KEY),
        (TEXT[:-1], ErrorCode.MALFORMED_INPUT),
        (TEXT + "}", ErrorCode.MALFORMED_INPUT),
        (TEXT.replace("]], ", "],], "), ErrorCode.MALFORMED_INPUT),
        (TEXT.replace("[[", "[,["), ErrorCode.MALFORMED_INPUT),
    ],
)
def test_rows_of_several_slices_in_a_bad_document_are_refused(text: str, code: ErrorCode) -> None:
    with pytest.raises(MalformedInputError) as raised:
        parse_object(text.encode(), LIMITS, array_field="rows")
    assert raised.value.code == code


def test_rows_beside_too_many_levels_are_refused() -> None:
    text = TEXT[:-1] + ', "deep": %s}' % ("[" * 64 + "]" * 64)
    with pytest.raises(InvalidInputError) as raised:
        parse_object(text.encode(), LIMITS, array_field="rows")
    assert raised.value.code == ErrorCode.NESTING_TOO_DEEP


async def read(body: bytes, parser: BodyParser) -> TranslateRequest:
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    connected = asyncio.Event()

    async def receive() -> Message:
        if not messages:
            await connected.wait()
        return messages.pop()

    headers = [(b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "headers": headers, "query_string": b""}
    request = Request(scope, receive)
    return await read_body(request, TranslateRequest, parser, array_field="embeddings")


def body_of(rows: Any) -> bytes:
    return standard.dumps({"source": "x", "target": "y", "embeddings": rows}).encode()


def test_moderately_long_rows_are_parsed_without_another_process() -> None:
    """Other JSON of that length is parsed in one, and so are longer rows."""
    moderate, long = ROWS.repeat(4, 0), ROWS.repeat(5, 0)
    assert LONG_TEXT < len(body_of(moderate.tolist())) <= LONG_ROWS < len(body_of(long.tolist()))
    pool = ProcessPool(1)
    parser = BodyParser(WIDE, ProcessExecutor(pool), row_threads())

    def parse(rows: Any) -> Any:
        return asyncio.run(read(body_of(rows), parser)).embeddings

    try:
        np.testing.assert_array_equal(parse(moderate.tolist()), moderate.astype(np.float32))
        # What is wrong with their values is known there as well.
        with pytest.raises(InvalidInputError, match="expected finite numbers"):
            parse([*moderate.tolist(), [1e39] * 8])
        assert pool.pids == []
        with pytest.raises(InvalidInputError) as raised:
            parse([*moderate.tolist(), [1.0]])
        assert raised.value.code == ErrorCode.RAGGED_ROWS
        (pid,) = pool.pids
        np.testing.assert_array_equal(parse(long.tolist()), long.astype(np.float32))
        assert pool.pids == [pid]
    finally:
        parser.close()
