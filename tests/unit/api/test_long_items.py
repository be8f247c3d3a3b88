"""Long raw inputs are read in slices, with the results of reading them at once."""

import base64

import pytest

from stitchwork.api.content import validation
from stitchwork.api.schemas import items
from stitchwork.errors import InvalidInputError


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "BASE64_SLICE", 8)
    monkeypatch.setattr(items, "SLICE_CHARS", 3)


@pytest.mark.parametrize("size", range(40))
def test_base64_has_the_bytes_of_the_standard_library(size: int) -> None:
    data = bytes(range(200, 200 + size))
    assert validation.image_bytes(base64.b64encode(data).decode(), "/items/0") == data


@pytest.mark.parametrize(
    "text",
    [
        "AAA=AAAAAAAA",
        "AAAAAAA=AAAA",
        "AAAAAA==AAAAAAAA",
        "AAAAAAAAA",
        "AAAAAAAAAAA!",
        "é",
    ],
)
def test_base64_that_the_standard_library_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 of the library, whose words differ
        base64.b64decode(text, validate=True)
    with pytest.raises(InvalidInputError, match="expected the base64 of an image file"):
        validation.image_bytes(text, "/items/0")


@pytest.mark.parametrize("text", ["a" * 10 + "\ud800", "\udc00" + "a" * 10, "aa\ud83d\ude00aaa"])
def test_half_a_surrogate_pair_is_refused_wherever_it_is(text: str) -> None:
    with pytest.raises(InvalidInputError, match="expected a text of valid Unicode"):
        items.decode_items([text], "text", 1)


@pytest.mark.parametrize("text", [" ", "\t\n\u2003", "", b"  \n"])
def test_blank_texts_are_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidInputError, match="expected a text that is not empty"):
        items.decode_items([text], "text", 1)


def test_texts_are_returned_as_they_are() -> None:
    texts = ["aaa\U0001f600bbb", " a ", "ééé" * 5]
    assert items.decode_items([*texts, "ö".encode()], "text", 9) == [*texts, "ö"]
