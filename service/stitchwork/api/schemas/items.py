"""Raw inputs: texts, and image files in base64 or as the parts of a multipart body."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from stitchwork.api.content import validation
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.resources import LONG_CHARACTERS, Input, LongText, Modality, TokenIds

MAX_DATA_HEAD: Final = 200
"""Bytes in which the head of a data URI ends."""


class EncodedImage(str):
    """An image that its request names as one: in base64, as a data URI, or by URL."""

    __slots__ = ()


def compact_text(text: str) -> str | LongText:
    """A text of a request, or an image in base64, in little memory."""
    if len(text) < LONG_CHARACTERS:
        return text
    return LongText.of(text, is_image=isinstance(text, EncodedImage))


def is_named_image(item: Input) -> bool:
    """Whether a request names a raw input as an image."""
    return isinstance(item, EncodedImage) or (isinstance(item, LongText) and item.is_image)


def decode_items(
    items: Sequence[Input], modality: Modality, max_items: int, setting: str = "max_items"
) -> list[Input]:
    """Raw inputs as texts or as the bytes of image files.

    Args:
        items: Texts, base64 of image files, or the memory of either.
        modality: Their modality.
        max_items: The largest number of items.
        setting: Name of that limit in the error.

    Raises:
        InputTooLargeError: If there are more than `max_items`.
        InvalidInputError: If one is not of that modality.
    """
    validation.check_count(len(items), max_items, "items", setting, "/items")
    return [_decode_item(item, modality, f"/items/{i}") for i, item in enumerate(items)]


def plain_items(items: Sequence[Input], modality: Modality) -> list[Input]:
    """Raw inputs as other protocols send them: images may be data URIs, or have MIME's line ends.

    Texts, bytes and URLs are returned unchanged.

    Raises:
        InvalidInputError: If one is named as an image, and the modality is another.
    """
    if modality != "image":
        for i, item in enumerate(items):
            if is_named_image(item):
                raise InvalidInputError(
                    f"expected a {modality}, as the encoder takes {modality}s, got an image",
                    pointer=f"/items/{i}",
                )
        return list(items)
    return [_plain_base64(item) for item in items]


def _plain_base64(item: Input) -> Input:
    if isinstance(item, str):
        data = item.encode("utf-8", "replace")
        text = data[_uri_head(data[:MAX_DATA_HEAD]) :].decode("utf-8", "replace")
        return text.replace("\n", "").replace("\r", "")
    if isinstance(item, LongText):
        start = _uri_head(bytes(item.data[:MAX_DATA_HEAD]))
        return replace(item, data=memoryview(item.data)[start:], is_image=True)
    return item


def _uri_head(data: bytes) -> int:
    """Length of the head of a data URI with base64; 0 if the bytes do not begin with one."""
    head, comma, _ = data.partition(b",")
    is_head = comma and head.startswith(b"data:") and head.endswith(b";base64")
    return len(head) + 1 if is_head else 0


def _decode_item(item: Input, modality: Modality, pointer: str) -> Input:
    if isinstance(item, TokenIds):
        if modality == "text":
            return item
        raise InvalidInputError(
            f"expected an {modality}, got token ids", pointer=pointer, code=ErrorCode.TOKEN_IDS
        )
    if modality == "text":
        return _checked_text(item, pointer)
    if isinstance(item, str):
        return validation.image_bytes(item.encode("utf-8", "replace"), pointer)
    if isinstance(item, LongText):
        # As other protocols send it, it may have MIME's line ends.
        return validation.image_bytes(item.data, pointer, has_lines=item.is_image)
    return item


def _checked_text(item: Input, pointer: str) -> Input:
    text = item
    if isinstance(item, str):
        text = LongText.of(item)
    elif isinstance(item, bytes | memoryview):
        text = LongText.of_bytes(item)
    if not isinstance(text, LongText) or not text.is_unicode:
        raise InvalidInputError("expected a text of valid Unicode", pointer=pointer)
    if text.is_blank:
        raise InvalidInputError("expected a text that is not empty", pointer=pointer)
    if text.has_nul:
        raise InvalidInputError("expected a text without NUL characters", pointer=pointer)
    # A short one is plainer as it was, or as a `str`.
    return str(text) if len(text) < LONG_CHARACTERS else text
