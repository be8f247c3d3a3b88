"""Long raw inputs are read in slices, with the results of reading them at once."""

import base64
from dataclasses import replace

import pytest

from stitchwork.api.content import validation
from stitchwork.api.kserve import grpc_messages, grpc_requests, tensors
from stitchwork.api.schemas import items
from stitchwork.errors import InvalidInputError
from stitchwork.processes import transport
from stitchwork.resources import LONG_CHARACTERS, LongText, inputs
from tests.support.request_limits import LIMITS


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "BASE64_SLICE", 8)
    monkeypatch.setattr(inputs, "SLICE_BYTES", 3)


@pytest.mark.parametrize("size", range(40))
def test_base64_has_the_bytes_of_the_standard_library(size: int) -> None:
    data = bytes(range(200, 200 + size))
    assert validation.image_bytes(base64.b64encode(data), "/items/0") == data


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
        validation.image_bytes(text.encode(), "/items/0")


@pytest.mark.parametrize("text", ["a" * 10 + "\ud800", "\udc00" + "a" * 10, "aa\ud83d\ude00aaa"])
def test_half_a_surrogate_pair_is_refused_wherever_it_is(text: str) -> None:
    with pytest.raises(InvalidInputError, match="expected a text of valid Unicode"):
        items.decode_items([text], "text", 1)


@pytest.mark.parametrize("text", [" ", "\t\n\u2003", "", b"  \n"])
def test_blank_texts_are_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidInputError, match="expected a text that is not empty"):
        items.decode_items([text], "text", 1)


@pytest.mark.parametrize("size", range(40))
def test_base64_with_line_ends_has_the_same_bytes(size: int) -> None:
    data = bytes(range(200, 200 + size))
    lines = b"\r\n".join([base64.b64encode(data)[i : i + 5] for i in range(0, 60, 5)])
    assert validation.image_bytes(lines, "/items/0", has_lines=True) == data


@pytest.mark.parametrize("lines", [1, 20, 21, 40])
def test_base64_with_data_after_its_padding_and_line_ends_is_refused(lines: int) -> None:
    with pytest.raises(InvalidInputError, match="expected the base64 of an image file"):
        validation.image_bytes(b"AAA=" + b"\n" * lines + b"AAAA", "/items/0", has_lines=True)


@pytest.mark.parametrize("size", [3, LONG_CHARACTERS])
def test_data_uri_may_have_other_characters_in_its_head(size: int) -> None:
    image = bytes(size)
    uri = "data:image/png;name=größe.png;base64," + base64.b64encode(image).decode()
    item = items.compact_text(items.EncodedImage(uri))
    assert items.decode_items(items.plain_items([item], "image"), "image", 1) == [image]


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_long_image_of_another_protocol_may_be_a_data_uri_with_line_ends(head: str) -> None:
    image = bytes(range(256)) * LONG_CHARACTERS
    item = items.compact_text(items.EncodedImage(head + base64.encodebytes(image).decode()))
    assert isinstance(item, LongText)
    assert item.is_image
    with pytest.raises(InvalidInputError, match="expected a text, as the encoder takes texts"):
        items.plain_items([item], "text")
    assert items.decode_items(items.plain_items([item], "image"), "image", 1) == [image]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\ud800", "valid Unicode"),
        ("\0", "without NUL characters"),
        (" ", "that is not empty"),
    ],
)
def test_long_text_is_refused_as_a_short_one_is(text: str, message: str) -> None:
    item = items.compact_text(text * LONG_CHARACTERS)
    assert isinstance(item, LongText)
    for form in (item, str(item), bytes(item.data), memoryview(item.data)):
        with pytest.raises(InvalidInputError, match=message):
            items.decode_items([form], "text", 1)


@pytest.mark.parametrize("size", [100, LONG_CHARACTERS, 300_000])
def test_bytes_of_a_long_grpc_message_are_those_that_were_sent(size: int) -> None:
    sent = [bytes([i % 256]) * size for i in range(300_000 // size)]
    message = grpc_messages.CLASSES["ModelInferRequest"]()
    tensor = message.inputs.add(name="items", datatype="BYTES", shape=[len(sent)])
    tensor.contents.bytes_contents.extend(sent)
    limits = replace(LIMITS, max_items=len(sent))
    parsed = grpc_requests.parse_message(message.SerializeToString(), limits)
    # As another process returns it.
    received = transport.unpack([bytes(part) for part in transport.pack(parsed)])
    (spec,) = received.body.inputs
    read = tensors.read_items(tensors.Tensor(spec, None, "/inputs/0"), limits)
    assert [bytes(inputs.item_bytes(item)) for item in read] == sent


@pytest.mark.parametrize("character", ["a", "é", "\U0001f600"])
def test_long_text_takes_as_much_memory_as_its_bytes(character: str) -> None:
    text = "\U0001f600" + character * LONG_CHARACTERS
    item = items.compact_text(text)
    assert isinstance(item, LongText)
    assert (str(item), item.characters) == (text, len(text))
    assert item == LongText.of_bytes(text.encode())
    assert items.decode_items([memoryview(item.data)], "text", 1) == [item]


def test_texts_are_returned_as_they_are() -> None:
    texts = ["aaa\U0001f600bbb", " a ", "ééé" * 5]
    assert items.decode_items([*texts, "ö".encode()], "text", 9) == [*texts, "ö"]
