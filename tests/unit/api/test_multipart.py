"""Multipart forms: their parts, and their bounds."""

import pytest

from stitchwork.api.content import multipart
from stitchwork.errors import InputTooLargeError, InvalidInputError, MalformedInputError

TYPE = 'multipart/form-data; boundary="b"'


def part(headers: bytes, content: bytes = b"x") -> bytes:
    return b"--b\r\nContent-Disposition: form-data; " + headers + b"\r\n\r\n" + content + b"\r\n"


FILE = part(b'name="items"; filename="a"', b"\r\nabc\0")
FIELD = part(b'name="k"', "ö".encode())


def test_form_returns_files_in_order_and_fields_by_name() -> None:
    body = FILE + FIELD + part(b'name="other"; filename="b"') + b"--b--\r\n"
    expected = {"items": [b"\r\nabc\0", b"x"], "k": "ö"}
    assert multipart.parse(TYPE, body, 2, "max_items") == expected


def test_form_returns_all_texts_among_the_items_in_order() -> None:
    texts = [part(b'name="items"', text) for text in (b"b", b"a", b"")]
    body = b"".join((texts[0], FILE, *texts[1:])) + b"--b--\r\n"
    expected = {"items": ["b", b"\r\nabc\0", "a", ""]}
    assert multipart.parse(TYPE, body, 4, "max_items") == expected


def test_form_with_a_repeated_field_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidInputError, match="one part 'k', got several"):
        multipart.parse(TYPE, FILE + FIELD + part(b'name="k"') + b"--b--\r\n", 2, "max_items")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (FILE * 3 + b"--b--", "at most 2 items"),
        (part(b'name="items"') * 3 + b"--b--", "at most 2 items"),
        (FIELD * 65 + b"--b--", "at most 64 other parts"),
    ],
)
def test_form_with_more_parts_than_allowed_is_refused_by_its_limit(
    body: bytes, message: str
) -> None:
    with pytest.raises(InputTooLargeError, match=message):
        multipart.parse(TYPE, body, 2, "max_items")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", FILE + b"--b--"),
        (TYPE, FILE),
        (TYPE, part(b'name="items"; filename="a"', b"cut --")),
        (TYPE, part(b"") + b"--b--"),
        (TYPE, b"no form--"),
    ],
)
def test_form_that_cannot_be_parsed_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(MalformedInputError, match="expected multipart/form-data"):
        multipart.parse(content_type, body, 2, "max_items")
